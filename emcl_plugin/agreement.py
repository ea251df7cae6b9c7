"""Agreement without labels: mutual nearest neighbours, top-result hubs, and the guard.

A text and a video that are each other's best match agree. Where a few videos (hubs) are the
best match of many texts, few pairs agree; a correction that helps raises the share.

The guard asks whether it rose by more than chance. A correction gives some texts a mutual
partner (gained) and takes it from others (lost); where there is nothing to correct, a change is
about as likely one as the other. So, as in McNemar's test of paired changes (Psychometrika 1947),

    z = (gained - lost) / sqrt(gained + lost)                                              (z)

counts standard errors. Of NCL's biases nothing is applied up to 1 of them, everything from 2
on, and in between they are scaled down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from emcl_plugin.candidates import Candidates
from emcl_plugin.similarity import Similarity

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
class Nearest:
    """The best video of every text and the best text of every video, with their scores.

    Attributes
    ----------
    video_of_text : (n_text,) int
    text_score : (n_text,)
        Score of that best video.
    text_of_video : (n_video,) int
    video_score : (n_video,)
    mutual : (texts, videos) bool, optional
        Which of them are in a mutual pair, where an item has several equally best matches and
        the first of them alone would not tell.
    """

    video_of_text: torch.Tensor
    text_score: torch.Tensor
    text_of_video: torch.Tensor
    video_score: torch.Tensor
    mutual: tuple[torch.Tensor, torch.Tensor] | None = None

    def in_pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which texts, (n_text,), and which videos, (n_video,), are in a mutual pair.

        A score within rounding of the best counts as best, so that copies of an item, and
        the order in which items come, do not matter.
        """
        if self.mutual is not None:
            return self.mutual
        slack = self.slack
        texts = self.video_score[self.video_of_text] <= self.text_score + slack
        videos = self.text_score[self.text_of_video] <= self.video_score + slack
        return texts, videos

    def mutual_share(self) -> float:
        """Share of mutual nearest neighbours, in [0, 1], of the smaller side's items."""
        texts, videos = self.in_pairs()
        smaller = min(len(texts), len(videos))
        return min(int(texts.sum()), int(videos.sum()), smaller) / smaller

    @property
    def slack(self) -> float:
        """Rounding of the largest best score."""
        return 16 * torch.finfo(self.text_score.dtype).eps * float(self.text_score.abs().max())

    def hubs(self) -> Hubs:
        """How the texts' best videos spread over the gallery."""
        counts = torch.bincount(self.video_of_text, minlength=len(self.text_of_video))
        return Hubs(
            largest=int(counts.max()),
            largest_index=int(counts.argmax()),
            never=float((counts == 0).double().mean()),
        )


@dataclass(frozen=True)
class Hubs:
    """Top-result hubs (1-occurrence).

    Attributes
    ----------
    largest : int
        For how many texts the most frequent best video is the best one.
    largest_index : int
        Which video that is.
    never : float
        Share of the videos that are no text's best one.
    """

    largest: int
    largest_index: int
    never: float


class NearestAccumulator:
    """Best match of both sides, taken in row block by row block."""

    def __init__(self, source: Similarity) -> None:
        (n_text, n_video), dtype, device = source.shape, source.dtype, source.device
        self.world, self.own = source.world, slice(*source.own)
        self.tied = False
        self.video_of_text = torch.empty(n_text, dtype=torch.long, device=device)
        self.text_score = torch.empty(n_text, dtype=dtype, device=device)
        self.text_of_video = torch.zeros(n_video, dtype=torch.long, device=device)
        self.video_score = torch.full((n_video,), -math.inf, dtype=dtype, device=device)

    def add(self, start: int, stop: int, block: torch.Tensor, *, watch_ties: bool = False) -> None:
        """Take in the scores of texts ``start:stop``."""
        rows, columns = block.max(dim=1), block.max(dim=0)
        if watch_ties and not self.tied:
            slack = 16 * torch.finfo(block.dtype).eps * rows.values.abs().max()
            best_of_rows = block >= (rows.values - slack)[:, None]
            best_of_columns = block >= columns.values - slack
            seen_before = (columns.values - self.video_score).abs() <= slack
            self.tied = (
                int(best_of_rows.sum()) > block.shape[0]
                or int(best_of_columns.sum()) > block.shape[1]
                or bool(seen_before.any())
            )
        self.text_score[start:stop] = rows.values
        self.video_of_text[start:stop] = rows.indices
        better = columns.values > self.video_score
        self.video_score = torch.where(better, columns.values, self.video_score)
        self.text_of_video = torch.where(better, columns.indices + start, self.text_of_video)

    def result(self) -> Nearest:
        """The best matches of all blocks so far, of all processes."""
        world, count = self.world, len(self.text_score)
        score = world.max(self.video_score)
        best = torch.where(self.video_score == score, self.text_of_video, count)
        return Nearest(
            world.rows(self.video_of_text[self.own], count),
            world.rows(self.text_score[self.own], count),
            world.min(best),
            score,
        )


def nearest(source: Similarity) -> Nearest:
    """Best match of every text and of every video, in one pass (two where bests are tied)."""
    if isinstance(source, Candidates):
        return _of_candidates(source)
    accumulator = NearestAccumulator(source)
    for start, stop, block in source.blocks():
        accumulator.add(start, stop, block, watch_ties=True)
    return finish(accumulator, source)


def finish(accumulator: NearestAccumulator, source: Similarity) -> Nearest:
    """The result; where an item has several equally best matches, each may be mutual."""
    found, world = accumulator.result(), source.world
    slack = found.slack
    tied = torch.tensor(accumulator.tied, device=source.device)
    if world.size > 1:  # two processes may each have one of a video's best
        near = world.sum((accumulator.video_score >= found.video_score - slack).long())
        tied |= (near > 1).any()
    if not bool(world.any(tied)):
        return found
    texts = []
    videos = torch.zeros(source.shape[1], dtype=torch.bool, device=source.device)
    for start, stop, block in source.blocks():
        both = block >= found.text_score[start:stop, None] - slack
        both &= block >= found.video_score - slack
        texts.append(both.any(1))
        videos |= both.any(0)
    return replace(found, mutual=(world.rows(torch.cat(texts), source.shape[0]), world.any(videos)))


def _of_candidates(source: Candidates) -> Nearest:
    """The best of the candidates; several equally best ones may each be mutual."""
    found = Nearest(*source.best_videos(), *source.best_texts())
    pairs, values, slack = source.pairs, source.values, found.slack
    both = values >= found.text_score[pairs.text] - slack
    both &= values >= found.video_score[pairs.video] - slack
    mutual = [torch.zeros(count, dtype=torch.bool, device=source.device) for count in source.shape]
    mutual[0][pairs.text[both]] = True
    mutual[1][pairs.video[both]] = True
    return replace(found, mutual=(mutual[0], mutual[1]))


def mutual_nearest_neighbours(source: Similarity) -> float:
    """Share of items that are the best match of their best match.

    ``#{i : i is the best text of i's best video} / min(n_text, n_video)``; needs no labels.

    >>> from emcl_plugin.similarity import Dense
    >>> mutual_nearest_neighbours(Dense(torch.tensor([[0.9, 0.1], [0.8, 0.2]])))  # video 0: a hub
    0.5
    """
    return nearest(source).mutual_share()


@dataclass(frozen=True)
class Evidence:
    """What a correction did to the texts' mutual partners, see (z).

    Attributes
    ----------
    gained, lost : float
        Texts that are in a mutual pair only after it, and only before it; near-equal texts
        count as one.

    Examples
    --------
    >>> Evidence(gained=30, lost=6).z, Evidence(gained=30, lost=6).strength
    (4.0, 1.0)
    >>> Evidence(gained=1, lost=0).strength
    0.0
    """

    gained: float
    lost: float

    @property
    def z(self) -> float:
        """Standard errors by which the mutual pairs became more."""
        changed = self.gained + self.lost
        return (self.gained - self.lost) / math.sqrt(changed) if changed > 0 else 0.0

    @property
    def strength(self) -> float:
        """How much of the correction that bears out, in [0, 1]."""
        return ramp(self.z, EVIDENCE)


def weigh(before: Nearest, after: Nearest, weights: torch.Tensor | None = None) -> Evidence:
    """The evidence that ``after`` is better than ``before``.

    ``weights`` (n_text,) says as how many queries each text counts; default 1.
    """
    was, now = before.in_pairs()[0], after.in_pairs()[0]
    counts = torch.ones(len(was), device=was.device) if weights is None else weights
    return Evidence(float(counts[now & ~was].sum()), float(counts[was & ~now].sum()))


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
        off), and the standard errors that amounts to.
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
