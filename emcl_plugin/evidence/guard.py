"""The guard: how much of a correction the mutual nearest neighbours support, without labels.

A correction gives some texts a mutual nearest neighbour (gained) and takes it from others (lost).
Where there is nothing to correct, both are about equally likely. So, as in McNemar's test of
paired changes (Psychometrika 1947),

    z = (gained - lost) / sqrt(gained + lost)                                              (z)
    strength = clip(z - 1, 0, 1)                                                           (s)

z counts standard errors. Up to 1 nothing is applied, from 2 on everything; in between NCL's
biases are scaled by the strength.

A text that ties with others for a video has a part of it only, so z counts whole texts where
nothing ties.

Where every video has many texts, the best of them finds it in spite of any hub, so no correction
can add mutual pairs. The texts are therefore split into stratified folds of about as many texts
as there are videos. Mutual neighbours are searched within each fold, and the evidence is that of
the mean fold: what one text per video would give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from emcl_plugin.evidence.mutual_neighbours import Nearest, few_tied, level_pairs
from emcl_plugin.scores import Similarity
from emcl_plugin.scores.candidates import Candidates

EVIDENCE = (1.0, 2.0)
"""Standard errors: up to the first nothing is applied, from the second on everything."""


def ramp(x: float, ends: tuple[float, float]) -> float:
    """Return 0 up to the first end, 1 from the second on, and a straight line between them.

    >>> ramp(0.5, EVIDENCE), ramp(1.5, EVIDENCE), ramp(9.0, EVIDENCE)
    (0.0, 0.5, 1.0)
    """
    low, high = ends
    return min(1.0, max(0.0, (x - low) / (high - low)))


@dataclass(frozen=True)
class Evidence:
    """Change in the texts' mutual nearest neighbours, see (z).

    Attributes
    ----------
    gained, lost : float
        Texts that are in a mutual pair only after the correction, and only before it;
        near-duplicates count as one text.
    folds : int
        Number of folds of the texts; ``gained`` and ``lost`` are means over them.

    Examples
    --------
    >>> Evidence(gained=30, lost=6).z, Evidence(gained=30, lost=6).strength
    (4.0, 1.0)
    >>> Evidence(gained=1, lost=0).strength
    0.0
    """

    gained: float
    lost: float
    folds: int = 1

    @property
    def z(self) -> float:
        """Standard errors of the net gain, (z)."""
        changed = self.gained + self.lost
        return (self.gained - self.lost) / math.sqrt(changed) if changed > 0 else 0.0  # (z)

    @property
    def strength(self) -> float:
        """Share of the correction to apply, in [0, 1], (s)."""
        return ramp(self.z, EVIDENCE)  # (s)


@dataclass(frozen=True)
class Folds:
    """Stratified folds of the texts, each of about as many texts as there are videos.

    Attributes
    ----------
    fold : (n_text,) int
    count : int
    weights : (n_text,), optional
        How many queries each text counts as; None if each counts as one.
    """

    fold: torch.Tensor
    count: int
    weights: torch.Tensor | None = None

    def partners(self, source: Similarity, found: Nearest) -> torch.Tensor:
        """Return how far each text is the best of its best video within its fold, (n_text,).

        1: it is, 0: it is not. Of k different texts that tie for a video, each is with 1 / k, so
        that coarse scores, which make all of them partners, are no evidence. ``found`` are the
        best matches of ``source``.
        """
        if isinstance(source, Candidates):
            return self._of_candidates(source, found)
        if self.count > 1:
            best = torch.full((self.count, source.shape[1]), -math.inf).to(found.text_score)
            for start, stop, block in source.blocks():
                best.scatter_reduce_(0, self.fold[start:stop, None].expand_as(block), block, "amax")
            level = source.group.max(best) - found.slack
            if found.tied is None:
                return (found.text_score >= level[self.fold, found.video_of_text]).double()
            return self._shared(source, found, level)
        if found.tied is None:
            return found.in_pairs()[0].double()
        if few_tied(source, found.tied):
            return self._few(source, found, found.tied)
        return self._shared(source, found, found.video_score[None] - found.slack)

    def _shared(self, source: Similarity, found: Nearest, level: torch.Tensor) -> torch.Tensor:
        """Share each fold's videos among the texts that reach its ``level``, in two passes."""
        counts, crowd = self._counts(found), torch.zeros_like(level, dtype=torch.float64)
        for start, stop, block in source.blocks():
            fold = self.fold[start:stop]
            crowd.index_add_(0, fold, (block >= level[fold]) * counts[start:stop, None])
        shares = 1 / source.group.sum(crowd).clamp(min=1)
        out = torch.zeros_like(counts)
        for start, stop, block in source.blocks():
            fold = self.fold[start:stop]
            both = block >= found.text_score[start:stop, None] - found.slack
            both &= block >= level[fold]
            out[start:stop] = (both * shares[fold]).amax(1)
        return source.group.rows(out[slice(*source.own)], len(out))

    def _few(
        self, source: Similarity, found: Nearest, tied: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """The same where few items tie and there is one fold: only they are read."""
        texts, videos = tied
        shares = torch.ones_like(found.video_score, dtype=torch.float64)
        if len(videos):
            crowd = source.T.take(videos) >= found.video_score[videos, None] - found.slack
            shares[videos] /= (crowd * self._counts(found)).sum(1).clamp(min=1)
        out = found.in_pairs()[0] * shares[found.video_of_text]
        if len(texts):
            scores = found.text_score[texts], found.video_score
            both = level_pairs(source.take(texts), *scores, found.slack)
            out[texts] = (both * shares).amax(1)
        return out

    def _counts(self, found: Nearest) -> torch.Tensor:
        if self.weights is None:
            return torch.ones_like(found.text_score, dtype=torch.float64)
        return self.weights.double()

    def weigh(self, was: torch.Tensor, now: torch.Tensor) -> Evidence:
        """Return the evidence of the mean fold in two results of :meth:`partners`."""
        return weigh(was, now, self.weights, self.count)

    def _of_candidates(self, source: Candidates, found: Nearest) -> torch.Tensor:
        text, video, values = source.pairs.text, source.pairs.video, source.values
        place = self.fold[text] * source.shape[1] + video
        best = values.new_full((self.count * source.shape[1],), -math.inf)
        best = best.scatter_reduce(0, place, values, "amax")
        level = values >= best[place] - found.slack
        counts = self._counts(found)
        crowd = counts.new_zeros(len(best)).index_add_(0, place[level], counts[text[level]])
        both = level & (values >= found.text_score[text] - found.slack)
        shares = 1 / crowd.clamp(min=1)[place[both]]
        return torch.zeros_like(counts).scatter_reduce(0, text[both], shares, "amax")


def stratified_folds(best: Nearest, weights: torch.Tensor | None = None) -> Folds:
    """Split the texts into folds, stratified by best score, independently of their order.

    ``weights`` (n_text,) is how many queries each text counts as; default 1. Duplicates stay
    together. There is one fold if the queries are fewer than one and a half times the videos.

    >>> best = Nearest(*map(torch.tensor, ([0, 1, 0, 1], [0.9, 0.7, 0.6, 0.8], [0, 1], [0.9, 0.8])))
    >>> stratified_folds(best).fold
    tensor([1, 1, 0, 0])
    """
    score = best.text_score
    counts = torch.ones_like(score) if weights is None else weights
    counts = counts.to(torch.float64)
    queries = round(float(counts.sum()), 6)  # three thirds of a text make a whole one
    count = max(1, round(queries / len(best.video_score)))
    order = score.argsort(stable=True)
    place = counts[order].cumsum(0) - counts[order] / 2
    fold = torch.empty_like(order)
    fold[order] = place.long() % count
    return Folds(fold, count, weights)


def weigh(
    was: torch.Tensor, now: torch.Tensor, weights: torch.Tensor | None = None, folds: int = 1
) -> Evidence:
    """Return the evidence in how far texts had and have a mutual neighbour, (n_text,).

    ``weights`` (n_text,) is how many queries each text counts as; default 1.
    """
    change = now.double() - was.double()
    if weights is not None:
        change = change * weights.to(change)
    gained, lost = (float(side.clamp(min=0).sum()) / folds for side in (change, -change))
    return Evidence(gained, lost, folds)


@dataclass(frozen=True)
class GuardDecision:
    """How much of the correction was applied, and on what evidence.

    Attributes
    ----------
    enabled : bool
        False if the guard was switched off (``guard=False``).
    strength : float
        Factor of the biases, in [0, 1].
    gained, lost, z : float
        Texts that gained and lost a mutual nearest neighbour in the leave-best-out run (by EMCL,
        where NCL was off), and the standard errors of the difference. With many texts per video
        these are the numbers of the mean fold of the texts.
    before, after : float
        Mutual nearest neighbours of the input and of the corrected scores, in [0, 1].
    reason : str
        The decision in words.
    """

    enabled: bool
    strength: float
    gained: float
    lost: float
    z: float
    before: float
    after: float
    reason: str

    @property
    def applied(self) -> bool:
        """Whether the returned scores are corrected; if not they are the input's."""
        return self.strength > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the decision for JSON."""
        return {**vars(self), "applied": self.applied}


def decide(
    evidence: Evidence, strength: float, before: float, after: float, *, enabled: bool = True
) -> GuardDecision:
    """Return the guard's decision with its reason in words.

    >>> decide(Evidence(gained=3, lost=12), 0, 0.54, 0.54).reason
    'no hubs to correct: 3 texts gained a mutual nearest neighbour, 12 lost one; input unchanged'
    """
    found = f"{evidence.gained:.0f} texts gained a mutual nearest neighbour, {evidence.lost:.0f} "
    found += "lost one"
    if evidence.folds > 1:
        found += f" (mean of {evidence.folds} folds of the texts)"
    agreement = f"mutual nearest neighbours {100 * before:.1f} % -> {100 * after:.1f} %"
    if not enabled:
        reason = f"switched off; {agreement}"
    elif strength == 1:
        reason = f"correction applied: {found}; {agreement}"
    elif strength > 0:
        reason = (
            f"correction applied at {100 * strength:.0f} %: {found}; z is {evidence.z:.1f} "
            f"({EVIDENCE[1]:g} or more applies all of it)"
        )
    elif evidence.z > 0:
        reason = f"too little evidence of hubs: {found}; input unchanged"
    else:
        reason = f"no hubs to correct: {found}; input unchanged"
    return GuardDecision(
        enabled, strength, evidence.gained, evidence.lost, evidence.z, before, after, reason
    )
