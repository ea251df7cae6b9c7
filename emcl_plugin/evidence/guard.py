"""The guard: how much of a correction the mutual nearest neighbours bear out.

It asks whether they became more than by chance. A correction gives some texts a mutual partner
(gained) and takes it from others (lost); where there is nothing to correct, a change is about as
likely one as the other. So, as in McNemar's test of paired changes (Psychometrika 1947),

    z = (gained - lost) / sqrt(gained + lost)                                              (z)

counts standard errors. Of NCL's biases nothing is applied up to 1 of them, everything from 2
on, and in between they are scaled down.

Where every video has many texts, the best of them finds it in spite of any hub: nearly all videos
have a mutual partner already, and no correction can add to that. So the texts are then dealt into
parts of about as many as there are videos, partners are looked for within each part, and the
evidence is that of the mean part: what one text per video would give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from emcl_plugin.evidence.mutual_neighbours import Nearest
from emcl_plugin.scores import Similarity
from emcl_plugin.scores.candidates import Candidates

EVIDENCE = (1.0, 2.0)
"""Standard errors up to which nothing is applied, and from which everything is."""


def ramp(x: float, ends: tuple[float, float]) -> float:
    """0 up to the first end, 1 from the second on, straight in between.

    >>> ramp(0.5, EVIDENCE), ramp(1.5, EVIDENCE), ramp(9.0, EVIDENCE)
    (0.0, 0.5, 1.0)
    """
    low, high = ends
    return min(1.0, max(0.0, (x - low) / (high - low)))


@dataclass(frozen=True)
class Evidence:
    """What a correction did to the texts' mutual partners, see (z).

    Attributes
    ----------
    gained, lost : float
        Texts that are in a mutual pair only after it, and only before it; near-equal texts
        count as one.
    parts : int
        Into how many parts the texts were dealt; the numbers are then those of the mean part.

    Examples
    --------
    >>> Evidence(gained=30, lost=6).z, Evidence(gained=30, lost=6).strength
    (4.0, 1.0)
    >>> Evidence(gained=1, lost=0).strength
    0.0
    """

    gained: float
    lost: float
    parts: int = 1

    @property
    def z(self) -> float:
        """Standard errors by which the mutual pairs became more."""
        changed = self.gained + self.lost
        return (self.gained - self.lost) / math.sqrt(changed) if changed > 0 else 0.0

    @property
    def strength(self) -> float:
        """How much of the correction that bears out, in [0, 1]."""
        return ramp(self.z, EVIDENCE)


@dataclass(frozen=True)
class Parts:
    """Texts dealt into parts of about as many as there are videos.

    Attributes
    ----------
    part : (n_text,) int
    count : int
    weights : (n_text,), optional
        As how many queries each text counts; None where each is one.
    """

    part: torch.Tensor
    count: int
    weights: torch.Tensor | None = None

    def partners(self, source: Similarity, found: Nearest) -> torch.Tensor:
        """Which texts are their best video's best one within their part, (n_text,) bool.

        ``found`` are the best matches of ``source``.
        """
        if self.count == 1:
            return found.in_pairs()[0]
        if isinstance(source, Candidates):
            return self._of_candidates(source, found)
        best = torch.full((self.count, source.shape[1]), -math.inf).to(found.text_score)
        for start, stop, block in source.blocks():
            best.scatter_reduce_(0, self.part[start:stop, None].expand_as(block), block, "amax")
        best = source.group.max(best) - found.slack
        if found.mutual is None:
            return found.text_score >= best[self.part, found.video_of_text]
        texts = torch.zeros_like(found.video_of_text)  # any of equally best videos will do
        for start, stop, block in source.blocks():
            both = block >= found.text_score[start:stop, None] - found.slack
            both &= block >= best[self.part[start:stop]]
            texts[start:stop] = both.any(1)
        return source.group.rows(texts[slice(*source.own)], len(texts)).bool()

    def weigh(self, was: torch.Tensor, now: torch.Tensor) -> Evidence:
        """The evidence in what :meth:`partners` says of two sources, in the mean of the parts."""
        return weigh(was, now, self.weights, self.count)

    def _of_candidates(self, source: Candidates, found: Nearest) -> torch.Tensor:
        text, video, values = source.pairs.text, source.pairs.video, source.values
        place = self.part[text] * source.shape[1] + video
        best = values.new_full((self.count * source.shape[1],), -math.inf)
        best = best.scatter_reduce(0, place, values, "amax")
        both = values >= torch.maximum(best[place], found.text_score[text]) - found.slack
        texts = torch.zeros(source.shape[0], dtype=torch.bool, device=source.device)
        texts[text[both]] = True
        return texts


def deal(best: Nearest, weights: torch.Tensor | None = None) -> Parts:
    """Deal the texts out by their best scores, so that the parts are alike in any order of texts.

    ``weights`` (n_text,) says as how many queries each text counts; default 1. Copies stay
    together. There is one part where the queries are fewer than one and a half times the videos.

    >>> best = Nearest(*map(torch.tensor, ([0, 1, 0, 1], [0.9, 0.7, 0.6, 0.8], [0, 1], [0.9, 0.8])))
    >>> deal(best).part
    tensor([1, 1, 0, 0])
    """
    score = best.text_score
    counts = torch.ones_like(score) if weights is None else weights
    counts = counts.to(torch.float64)
    queries = round(float(counts.sum()), 6)  # thirds of a text make a whole one
    count = max(1, round(queries / len(best.video_score)))
    order = score.argsort(stable=True)
    place = counts[order].cumsum(0) - counts[order] / 2
    part = torch.empty_like(order)
    part[order] = place.long() % count
    return Parts(part, count, weights)


def weigh(
    was: torch.Tensor, now: torch.Tensor, weights: torch.Tensor | None = None, parts: int = 1
) -> Evidence:
    """The evidence in the texts that had a mutual partner and that have one now, (n_text,) bool.

    ``weights`` (n_text,) says as how many queries each text counts; default 1.
    """
    counts = torch.ones(len(was), device=was.device) if weights is None else weights
    gained, lost = (float(counts[texts].sum()) / parts for texts in (now & ~was, was & ~now))
    return Evidence(gained, lost, parts)


@dataclass(frozen=True)
class GuardDecision:
    """How much of the correction was let through, and on what evidence.

    Attributes
    ----------
    enabled : bool
        False if the guard was switched off (``guard=False``).
    strength : float
        What the biases were multiplied with, in [0, 1].
    gained, lost, z : float
        Texts that found and lost a mutual partner by the cautious run (by EMCL, where NCL was
        off), and the standard errors that amounts to. With many texts per video these are those
        of a mean part of the texts.
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
        """Whether the returned scores are corrected ones; if not they are the input's."""
        return self.strength > 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "applied": self.applied}


def decide(
    evidence: Evidence, strength: float, before: float, after: float, *, enabled: bool = True
) -> GuardDecision:
    """The guard's decision in words.

    >>> decide(Evidence(gained=3, lost=12), 0, 0.54, 0.54).reason
    'no hubs to correct: 3 texts find a mutual partner, 12 lose theirs; the input is unchanged'
    """
    found = f"{evidence.gained:.0f} texts find a mutual partner, {evidence.lost:.0f} lose theirs"
    if evidence.parts > 1:
        found += f" in the mean of {evidence.parts} parts of the texts"
    agreement = f"mutual nearest neighbours {100 * before:.1f} % -> {100 * after:.1f} %"
    if not enabled:
        reason = f"switched off; {agreement}"
    elif strength == 1:
        reason = f"passed: {found}; {agreement}"
    elif strength > 0:
        reason = (
            f"at {100 * strength:.0f} %: {found}, {evidence.z:.1f} standard errors (all from 2 on)"
        )
    elif evidence.z > 0:
        reason = f"too little evidence of hubs: {found}; the input is unchanged"
    else:
        reason = f"no hubs to correct: {found}; the input is unchanged"
    return GuardDecision(
        enabled, strength, evidence.gained, evidence.lost, evidence.z, before, after, reason
    )
