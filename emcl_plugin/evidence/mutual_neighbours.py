"""Mutual nearest neighbours and top-1 hubs: agreement without labels.

A text and a video are mutual nearest neighbours if each is the other's best match. Where a few
videos (hubs) are the best match of many texts, such pairs are few; a good correction adds pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from emcl_plugin.scores import Similarity, ranges_in_cache
from emcl_plugin.scores.candidates import Candidates


@dataclass(frozen=True)
class Nearest:
    """Best video of every text and best text of every video, with their scores.

    Attributes
    ----------
    video_of_text : (n_text,) int
    text_score : (n_text,)
        Score of that best video.
    text_of_video : (n_video,) int
    video_score : (n_video,)
    mutual : (texts, videos) bool, optional
        Which items are in a mutual pair, if some have several equally best matches.
    tied : (texts, videos) int, optional
        The items that have.
    shift : float
        The most that was added to any score.
    """

    video_of_text: torch.Tensor
    text_score: torch.Tensor
    text_of_video: torch.Tensor
    video_score: torch.Tensor
    mutual: tuple[torch.Tensor, torch.Tensor] | None = None
    tied: tuple[torch.Tensor, torch.Tensor] | None = None
    shift: float = 0.0

    def in_pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which texts, (n_text,), and which videos, (n_video,), are in a mutual pair.

        A score within rounding of the best counts as best. The result depends neither on
        duplicates nor on the order of items.
        """
        if self.mutual is not None:
            return self.mutual
        slack = self.slack
        texts = self.video_score[self.video_of_text] <= self.text_score + slack
        videos = self.text_score[self.text_of_video] <= self.video_score + slack
        return texts, videos

    def mutual_share(self) -> float:
        """Return the share of mutual nearest neighbours on the smaller side, in [0, 1]."""
        texts, videos = self.in_pairs()
        smaller = min(len(texts), len(videos))
        return min(int(texts.sum()), int(videos.sum()), smaller) / smaller

    @property
    def slack(self) -> float:
        """Differences up to this are ties: 16 roundings of the largest best score and the shift."""
        largest = float(self.text_score.abs().max()) + self.shift
        return 16 * torch.finfo(self.text_score.dtype).eps * largest

    def hubs(self) -> Hubs:
        """Return how the texts' best videos are distributed over the gallery."""
        counts = torch.bincount(self.video_of_text, minlength=len(self.text_of_video))
        return Hubs(
            largest=int(counts.max()),
            largest_index=int(counts.argmax()),
            never=float((counts == 0).double().mean()),
        )


@dataclass(frozen=True)
class Hubs:
    """Top-1 hubs (1-occurrence).

    Attributes
    ----------
    largest : int
        Number of texts whose best video is the most frequent one.
    largest_index : int
        Which video that is.
    never : float
        Share of the videos that are no text's best video.
    """

    largest: int
    largest_index: int
    never: float


class NearestAccumulator:
    """Best matches of both sides from row blocks; of equals the first.

    Finding the largest value is many times faster than finding its place, so the place of a
    video's best text is only searched where a block improves on it.
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
        """Add the scores of texts ``start:stop``; with ``watch_ties`` track second bests, too."""
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
        """Return the best matches of all blocks so far, of all processes."""
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
    """Return the place of every row's largest value, (rows,); NumPy is ten times faster."""
    if block.device.type == "cpu":
        return torch.from_numpy(block.detach().numpy().argmax(1))
    return block.argmax(1)


def nearest(source: Similarity) -> Nearest:
    """Return the best matches in one pass over the scores (two if many are tied)."""
    if isinstance(source, Candidates):
        return _of_candidates(source)
    accumulator = NearestAccumulator(source)
    for start, stop, block in source.blocks():
        accumulator.add(start, stop, block, watch_ties=True)
    return finish(accumulator, source)


def finish(accumulator: NearestAccumulator, source: Similarity) -> Nearest:
    """Return the result; of several equally best matches, each may be mutual.

    A few such items are resolved one by one, many in another pass.
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
    tied = rows, columns
    if few_tied(source, tied):
        for side, own, scores, others in (
            (rows, texts, found.text_score, found.video_score),
            (columns, videos, found.video_score, found.text_score),
        ):
            if len(side):
                block = (source if own is texts else source.T).take(side)
                own[side] = level_pairs(block, scores[side], others, slack).any(1)
    else:
        videos = torch.zeros_like(videos)
        for start, stop, block in source.blocks():
            both = level_pairs(block, found.text_score[start:stop], found.video_score, slack)
            texts[start:stop] = both.any(1)
            videos |= both.any(0)
        texts, videos = group.rows(texts[accumulator.own], count), group.any(videos)
    return replace(found, mutual=(texts, videos), tied=tied)


def few_tied(source: Similarity, tied: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """Return whether looking at these items alone costs less than another pass."""
    return source.group.size == 1 and sum(map(len, tied)) <= source.block_rows


def level_pairs(
    block: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, slack: float
) -> torch.Tensor:
    """Return where a score ties with the best of its row and of its column."""
    return (block >= rows[:, None] - slack) & (block >= columns - slack)


def _of_candidates(source: Candidates) -> Nearest:
    """Return the best matches among candidates; each of several equals may be mutual."""
    found = Nearest(*source.best_videos(), *source.best_texts())
    pairs, values, slack = source.pairs, source.values, found.slack
    both = values >= found.text_score[pairs.text] - slack
    both &= values >= found.video_score[pairs.video] - slack
    mutual = [torch.zeros(count, dtype=torch.bool, device=source.device) for count in source.shape]
    mutual[0][pairs.text[both]] = True
    mutual[1][pairs.video[both]] = True
    return replace(found, mutual=(mutual[0], mutual[1]))


def mutual_nearest_neighbours(source: Similarity) -> float:
    """Return the share of items that are the best match of their best match.

    ``#{i : i is the best text of i's best video} / min(n_text, n_video)``; needs no labels.

    >>> from emcl_plugin.scores import Dense
    >>> mutual_nearest_neighbours(Dense(torch.tensor([[0.9, 0.1], [0.8, 0.2]])))  # video 0: a hub
    0.5
    """
    return nearest(source).mutual_share()
