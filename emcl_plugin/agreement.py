"""Agreement without labels: mutual nearest neighbours, top-result hubs, and the guard.

A text and a video that are each other's best match agree. Where a few videos (hubs) are the
best match of many texts, few pairs agree; a correction that helps raises the share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from emcl_plugin.similarity import Similarity


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
    mutual : tuple of int, optional
        Texts and videos that are in a mutual pair, where an item has several equally best
        matches and the first of them alone would not tell.
    """

    video_of_text: torch.Tensor
    text_score: torch.Tensor
    text_of_video: torch.Tensor
    video_score: torch.Tensor
    mutual: tuple[int, int] | None = None

    def mutual_share(self) -> float:
        """Share of mutual nearest neighbours, in [0, 1], of the smaller side's items.

        A score within rounding of the best counts as best, so that copies of an item, and
        the order in which items come, do not matter.
        """
        smaller = min(len(self.video_of_text), len(self.text_of_video))
        if self.mutual is not None:
            return min(self.mutual) / smaller
        slack = self.slack
        texts = self.video_score[self.video_of_text] <= self.text_score + slack
        videos = self.text_score[self.text_of_video] <= self.video_score + slack
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

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        n_text, n_video = shape
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
        """The best matches of all blocks so far."""
        return Nearest(self.video_of_text, self.text_score, self.text_of_video, self.video_score)


def nearest(source: Similarity) -> Nearest:
    """Best match of every text and of every video, in one pass (two where bests are tied)."""
    accumulator = NearestAccumulator(source.shape, source.dtype, source.device)
    for start, stop, block in source.blocks():
        accumulator.add(start, stop, block, watch_ties=True)
    return finish(accumulator, source)


def finish(accumulator: NearestAccumulator, source: Similarity) -> Nearest:
    """The result; where an item has several equally best matches, each may be mutual."""
    found = accumulator.result()
    if not accumulator.tied:
        return found
    slack = found.slack
    texts = 0
    videos = torch.zeros(source.shape[1], dtype=torch.bool, device=source.device)
    for start, stop, block in source.blocks():
        both = block >= found.text_score[start:stop, None] - slack
        both &= block >= found.video_score - slack
        texts += int(both.any(1).sum())
        videos |= both.any(0)
    return replace(found, mutual=(texts, int(videos.sum())))


def mutual_nearest_neighbours(source: Similarity) -> float:
    """Share of items that are the best match of their best match.

    ``#{i : i is the best text of i's best video} / min(n_text, n_video)``; needs no labels.

    >>> from emcl_plugin.similarity import Dense
    >>> mutual_nearest_neighbours(Dense(torch.tensor([[0.9, 0.1], [0.8, 0.2]])))  # video 0: a hub
    0.5
    """
    return nearest(source).mutual_share()


@dataclass(frozen=True)
class GuardDecision:
    """Whether the correction was let through, and on what evidence.

    Attributes
    ----------
    enabled : bool
        False if the guard was switched off (``guard=False``).
    applied : bool
        Whether the returned scores are the corrected ones; if not they are the input's.
    before, after : float
        Mutual nearest neighbours of the input and of the corrected scores, in [0, 1].
    reason : str
        The decision in words.
    """

    enabled: bool
    applied: bool
    before: float
    after: float
    reason: str


def decide(before: float, after: float, *, enabled: bool = True) -> GuardDecision:
    """The guard: a correction that does not raise the mutual nearest neighbours is not applied.

    >>> decide(0.54, 0.49).applied
    False
    """
    change = f"mutual nearest neighbours {100 * before:.1f} % -> {100 * after:.1f} %"
    if not enabled:
        return GuardDecision(False, True, before, after, f"switched off; {change}")
    if after > before:
        return GuardDecision(True, True, before, after, f"passed: {change}")
    reason = f"{change}: no hubs to correct, the input is returned unchanged"
    return GuardDecision(True, False, before, after, reason)
