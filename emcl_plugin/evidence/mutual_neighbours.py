"""Agreement without labels: mutual nearest neighbours and top-result hubs.

A text and a video that are each other's best match agree. Where a few videos (hubs) are the
best match of many texts, few pairs agree; a correction that helps raises the share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from emcl_plugin.scores import Similarity, ranges_in_cache
from emcl_plugin.scores.candidates import Candidates


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
    shift : float
        The most that was added to a score.
    """

    video_of_text: torch.Tensor
    text_score: torch.Tensor
    text_of_video: torch.Tensor
    video_score: torch.Tensor
    mutual: tuple[torch.Tensor, torch.Tensor] | None = None
    shift: float = 0.0

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
        """Rounding of the largest best score, and of what it was before something was added."""
        largest = float(self.text_score.abs().max()) + self.shift
        return 16 * torch.finfo(self.text_score.dtype).eps * largest

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
    """Best match of both sides, taken in row block by row block; the first of equals.

    Looking for the largest value alone is many times faster than for its place, too, so the
    place of a video's best text is looked for where a block holds a better one than before.
    """

    def __init__(self, source: Similarity) -> None:
        (n_text, n_video), dtype, device = source.shape, source.dtype, source.device
        self.group, self.own, self.shift = source.group, slice(*source.own), source.shift
        self.video_of_text = torch.empty(n_text, dtype=torch.long, device=device)
        self.text_score = torch.empty(n_text, dtype=dtype, device=device)
        self.text_of_video = torch.zeros(n_video, dtype=torch.long, device=device)
        self.video_score = torch.full((n_video,), -math.inf, dtype=dtype, device=device)
        self.text_second = torch.full_like(self.text_score, -math.inf)
        self.video_second = torch.full_like(self.video_score, -math.inf)

    def add(self, start: int, stop: int, block: torch.Tensor, *, watch_ties: bool = False) -> None:
        """Take in the scores of texts ``start:stop``; with ``watch_ties`` the second best, too."""
        for first, last in ranges_in_cache(start, stop, block.shape[1], block.dtype, block.device):
            part = block[first - start : last - start]
            self._add_rows(first, last, part, watch_ties)
            self._add_columns(first, part, watch_ties)

    def _add_rows(self, start: int, stop: int, block: torch.Tensor, watch_ties: bool) -> None:
        places = _first_largest(block)[:, None]
        self.video_of_text[start:stop] = places[:, 0]
        self.text_score[start:stop] = block.gather(1, places)[:, 0]
        if watch_ties:
            self.text_second[start:stop] = block.scatter(1, places, -math.inf).amax(1)

    def _add_columns(self, start: int, block: torch.Tensor, watch_ties: bool) -> None:
        values = block.amax(0)
        better = (values > self.video_score).nonzero()[:, 0]
        if watch_ties:
            lower = torch.minimum(values, self.video_score)
            self.video_second = torch.maximum(self.video_second, lower)
        columns = block.index_select(1, better)
        self.video_score[better], places = columns.max(0)
        self.text_of_video[better] = places + start
        if watch_ties:
            others = columns.scatter_(0, places[None], -math.inf).amax(0)
            self.video_second[better] = torch.maximum(self.video_second[better], others)

    def result(self) -> Nearest:
        """The best matches of all blocks so far, of all processes."""
        group, count = self.group, len(self.text_score)
        score = group.max(self.video_score)
        best = torch.where(self.video_score == score, self.text_of_video, count)
        return Nearest(
            group.rows(self.video_of_text[self.own], count),
            group.rows(self.text_score[self.own], count),
            group.min(best),
            score,
            shift=self.shift,
        )


def _first_largest(block: torch.Tensor) -> torch.Tensor:
    """The place of every row's largest value, (rows,); NumPy finds it ten times sooner."""
    if block.device.type == "cpu":
        return torch.from_numpy(block.detach().numpy().argmax(1))
    return block.argmax(1)


def nearest(source: Similarity) -> Nearest:
    """Best match of every text and of every video, in one pass (two where many bests are tied)."""
    if isinstance(source, Candidates):
        return _of_candidates(source)
    accumulator = NearestAccumulator(source)
    for start, stop, block in source.blocks():
        accumulator.add(start, stop, block, watch_ties=True)
    return finish(accumulator, source)


def finish(accumulator: NearestAccumulator, source: Similarity) -> Nearest:
    """The result; where an item has several equally best matches, each may be mutual.

    A few such items are looked at one by one, many in another pass.
    """
    found, group = accumulator.result(), source.group
    slack = found.slack
    best, count = found.video_score - slack, source.shape[0]
    level = (accumulator.video_score >= best).long() + (accumulator.video_second >= best)
    second = group.rows(accumulator.text_second[accumulator.own], count)
    rows = (second >= found.text_score - slack).nonzero()[:, 0]
    columns = (group.sum(level) > 1).nonzero()[:, 0]
    if not len(rows) + len(columns):
        return found
    texts, videos = found.in_pairs()
    if group.size == 1 and len(rows) + len(columns) <= source.block_rows:
        for tied, own, scores, others in (
            (rows, texts, found.text_score, found.video_score),
            (columns, videos, found.video_score, found.text_score),
        ):
            if len(tied):
                block = (source if own is texts else source.T).take(tied)
                own[tied] = _level(block, scores[tied], others, slack).any(1)
    else:
        videos = torch.zeros_like(videos)
        for start, stop, block in source.blocks():
            both = _level(block, found.text_score[start:stop], found.video_score, slack)
            texts[start:stop] = both.any(1)
            videos |= both.any(0)
        texts, videos = group.rows(texts[accumulator.own], count), group.any(videos)
    return replace(found, mutual=(texts, videos))


def _level(
    block: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, slack: float
) -> torch.Tensor:
    """Where a score is within rounding of the best of its row and of its column."""
    return (block >= rows[:, None] - slack) & (block >= columns - slack)


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

    >>> from emcl_plugin.scores import Dense
    >>> mutual_nearest_neighbours(Dense(torch.tensor([[0.9, 0.1], [0.8, 0.2]])))  # video 0: a hub
    0.5
    """
    return nearest(source).mutual_share()
