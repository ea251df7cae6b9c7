"""Scores of a few promising pairs in the place of all, for sets too large for a dense sweep.

Which pairs: the k best videos of every text and the k best texts of every video, which
:mod:`emcl_plugin.search` finds. Best matches, EMCL's strength and the
guard are looked for among these only; the mean and the spread of all scores follow from the
features' second moments. Sinkhorn's sums run over the candidates and, for all other pairs, over a
random sample of texts and of videos that are scored in full: with C_i the candidates of text i and
J the sampled videos,

    sum_j exp(S_ij / tau + g_j) ~ sum_{C_i} ... + (n_v - |C_i|) / |J - C_i|  sum_{J - C_i} ...   (s)

The largest terms are in the first sum, so that the second one varies little. It matters for gentle
temperatures; at the default one nearly all mass lies on candidates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from emcl_plugin.similarity import Features, Similarity, rows_per_block

SAMPLE = 512
"""Texts and videos that are scored in full for (s), at most."""

_ROWS = 1 << 14  # texts whose candidates are gathered at a time
_CHUNK = 1 << 18  # pairs whose vectors are gathered at a time


@dataclass(frozen=True)
class Pairs:
    """Pairs of a text and a video, each once, sorted by text and then by video.

    Attributes
    ----------
    shape : tuple of int
        (texts, videos).
    text, video : (n_pairs,) int64
    """

    shape: tuple[int, int]
    text: torch.Tensor
    video: torch.Tensor

    @cached_property
    def starts(self) -> torch.Tensor:
        """Where every text's pairs begin, and the end, (n_text + 1,)."""
        return _starts(self.text, self.shape[0])

    @cached_property
    def by_video(self) -> torch.Tensor:
        """The pairs' order when sorted by video and then by text, (n_pairs,)."""
        return torch.argsort(self.video, stable=True)

    @cached_property
    def T(self) -> Pairs:
        """The same pairs with videos first."""
        order = self.by_video
        return Pairs(self.shape[::-1], self.video[order], self.text[order])

    def find(self, text: torch.Tensor, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where these pairs are among them, and whether they are there at all."""
        keys = self.text * self.shape[1] + self.video
        wanted = text * self.shape[1] + video
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return place, keys[place] == wanted

    def matrices(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The values as a sparse matrix, (n_text, n_video), and its transpose."""
        turned = self.T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls compressed rows a beta
            made = [
                torch.sparse_csr_tensor(pairs.starts, pairs.video, x, pairs.shape)
                for pairs, x in ((self, values), (turned, values[self.by_video]))
            ]
        return made[0], made[1]


def _starts(sorted_index: torch.Tensor, count: int) -> torch.Tensor:
    sizes = torch.bincount(sorted_index, minlength=count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


@dataclass(frozen=True)
class AllPairs:
    """What is known of all pairs' scores without computing them: their mean and spread.

    A score is x_i . y_j for x = row_scale [t, left] and y = column_scale [v, right].
    """

    text: Features
    video: Features
    left: torch.Tensor | None = None
    right: torch.Tensor | None = None
    row_scale: torch.Tensor | None = None
    column_scale: torch.Tensor | None = None
    sample: int = SAMPLE

    @property
    def T(self) -> AllPairs:
        """With videos first."""
        return AllPairs(
            self.video,
            self.text,
            self.right,
            self.left,
            self.column_scale,
            self.row_scale,
            self.sample,
        )

    def rows(self, texts: torch.Tensor) -> torch.Tensor:
        """All scores of these texts, (n, n_video)."""
        x = self.text.take(texts)
        if self.left is not None:
            x = torch.cat([x, self.left[texts]], dim=1)
        if self.row_scale is not None:
            x = x * self.row_scale[texts, None]
        blocks = _vectors(self.video, self.right, self.column_scale)
        return torch.cat([x @ y.T for _, _, y in blocks], dim=1)

    def moments(self, weights: torch.Tensor | None) -> tuple[float, float]:
        """Mean and standard deviation of all scores; text i counts ``weights[i]`` times.

        With m and C the mean and the covariance of y, a text's scores have the mean x . m and the
        variance x^T C x: no difference of large numbers, however alike all scores are.
        """
        size = self.video.shape[1] + (0 if self.right is None else self.right.shape[1])
        centre = torch.zeros(size, dtype=torch.float64, device=self.video.device)
        covariance = centre.new_zeros(size, size)
        for _, _, y in _vectors(self.video, self.right, self.column_scale):
            centre += y.sum(0, dtype=torch.float64)
        centre /= self.video.shape[0]
        for _, _, y in _vectors(self.video, self.right, self.column_scale):
            y = (y.double() - centre).to(y)
            covariance += y.T @ y
        covariance /= self.video.shape[0]
        means, within, counts = [], 0.0, []
        for start, stop, x in _vectors(self.text, self.left, self.row_scale):
            w = x.new_ones(len(x)) if weights is None else weights[start:stop].to(x)
            counts.append(w.double())
            means.append(x.double() @ centre)
            within += float(counts[-1] @ ((x @ covariance.to(x)) * x).sum(1).double())
        of_text, w = torch.cat(means), torch.cat(counts)
        total = float(w.sum())
        mean = float(w @ of_text) / total
        between = float(w @ (of_text - mean).square())
        std = math.sqrt((between + max(0.0, within)) / total)
        return mean, std if std > torch.finfo(self.text.dtype).eps * abs(mean) else 0.0


def _vectors(
    side: Features, more: torch.Tensor | None, scale: torch.Tensor | None
) -> Iterator[tuple[int, int, torch.Tensor]]:
    for start, stop, block in side.blocks():
        x = block if more is None else torch.cat([block, more[start:stop]], dim=1)
        yield start, stop, x if scale is None else x * scale[start:stop, None]


@dataclass(frozen=True)
class Others:
    """Scores of all texts with a sample of the videos, the candidates among them left out.

    Attributes
    ----------
    chosen : (m,) int
        The sampled videos.
    scores : (n_text, m)
        -infinity where a pair is a candidate.
    log_share : (n_text,)
        Logarithm of how many videos each of them stands for; -infinity where all are candidates.
    """

    chosen: torch.Tensor
    scores: torch.Tensor
    log_share: torch.Tensor

    @classmethod
    def sampled(cls, pairs: Pairs, turned: AllPairs) -> Others:
        """Score a sample of videos in full; ``turned`` has videos first."""
        count = pairs.shape[1]
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(count, generator=generator)[: turned.sample].sort().values
        chosen = chosen.to(pairs.text.device)
        scores = turned.rows(chosen).T.contiguous()
        place = torch.full((count,), -1, device=chosen.device)
        place[chosen] = torch.arange(len(chosen), device=chosen.device)
        column = place[pairs.video]
        inside = column >= 0
        scores[pairs.text[inside], column[inside]] = -math.inf
        left = torch.isfinite(scores).sum(1)
        share = (count - pairs.starts.diff()) / left.clamp(min=1)
        return cls(chosen, scores, torch.where(left > 0, share, 0).to(scores).log())

    def log_sums(self, bias: torch.Tensor, temperature: float) -> torch.Tensor:
        """log of the sum over all other videos of exp(S / temperature + bias), (n_text,)."""
        scaled = self.scores / temperature
        return torch.logsumexp(scaled + bias[self.chosen], 1) + self.log_share


class Candidates(Similarity):
    """Scores of some pairs; where it is read as a matrix, all others are -infinity.

    Parameters
    ----------
    pairs : Pairs
    values : (n_pairs,)
        Their scores.
    all_pairs : AllPairs
        Of which they are some.
    """

    def __init__(self, pairs: Pairs, values: torch.Tensor, all_pairs: AllPairs) -> None:
        self.pairs, self.values, self.all_pairs = pairs, values, all_pairs
        self.shape = pairs.shape
        self.dtype, self.device = values.dtype, values.device
        self.block_rows = rows_per_block(self.shape[1], self.dtype, None)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        first, last = self.pairs.starts[start], self.pairs.starts[stop]
        out = torch.full((stop - start, self.shape[1]), -math.inf).to(self.values)
        out[self.pairs.text[first:last] - start, self.pairs.video[first:last]] = self.values[
            first:last
        ]
        return out

    @property
    def T(self) -> Candidates:
        return self._turned

    @cached_property
    def _turned(self) -> Candidates:
        return Candidates(self.pairs.T, self.values[self.pairs.by_video], self.all_pairs.T)

    def biased(self, row_bias: torch.Tensor, column_bias: torch.Tensor) -> Candidates:
        more = row_bias[self.pairs.text] + column_bias[self.pairs.video]
        return Candidates(self.pairs, self.values + more, self.all_pairs)

    def changed(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        row_scale: torch.Tensor | None = None,
        column_scale: torch.Tensor | None = None,
    ) -> Candidates:
        return self.with_values(
            self.values + self.products(left, right)[0], left, right, row_scale, column_scale
        )

    def products(self, *factors: torch.Tensor) -> list[torch.Tensor]:
        """left_i . right_j of every candidate, for several lefts and, the last one, a right."""
        *lefts, right = factors
        out = [torch.empty_like(self.values) for _ in lefts]
        for start in range(0, len(self.values), _CHUNK):
            part = slice(start, start + _CHUNK)
            others = right[self.pairs.video[part]]
            for left, made in zip(lefts, out, strict=True):
                made[part] = (left[self.pairs.text[part]] * others).sum(1)
        return out

    def with_values(
        self,
        values: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
        row_scale: torch.Tensor | None = None,
        column_scale: torch.Tensor | None = None,
    ) -> Candidates:
        """``row_scale_i value_ij column_scale_j``, which is :meth:`changed`'s result."""
        if row_scale is not None:
            values = values * row_scale[self.pairs.text]
        if column_scale is not None:
            values = values * column_scale[self.pairs.video]
        of_all = replace(
            self.all_pairs, left=left, right=right, row_scale=row_scale, column_scale=column_scale
        )
        return Candidates(self.pairs, values, of_all)

    @cached_property
    def others(self) -> Others:
        """Of each text, what stands for the videos that are no candidates, see (s)."""
        return Others.sampled(self.pairs, self.all_pairs.T)

    def holds(self, texts: Any, videos: Any) -> int:
        """How many of these pairs are candidates."""
        wanted = (torch.as_tensor(x).to(self.device) for x in (texts, videos))
        return int(self.pairs.find(*wanted)[1].sum())

    def standing(
        self, texts: torch.Tensor, videos: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How many videos score higher than each of these pairs, and how many the same.

        Videos that are no candidates of a text share its last place.
        """
        starts, width = self.pairs.starts, self.shape[1]
        place, there = self.pairs.find(texts, videos)
        own = torch.where(there, self.values[place], -math.inf)
        sizes = starts[texts + 1] - starts[texts]
        above, level = torch.zeros_like(texts), torch.zeros_like(texts)
        for part in torch.split(torch.arange(len(texts), device=texts.device), _ROWS):
            pair = part.repeat_interleave(sizes[part])
            first = starts[texts[part]].repeat_interleave(sizes[part])
            ends = sizes[part].cumsum(0)
            within = torch.arange(len(pair), device=texts.device)
            within = within - (ends - sizes[part]).repeat_interleave(sizes[part])
            values = self.values[first + within]
            above.index_add_(0, pair, (values > own[pair]).long())
            level.index_add_(0, pair, (values == own[pair]).long())
        return above, torch.where(there, level, width - sizes)

    def best_videos(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The best video of every text and its score, both (n_text,); the first of equals."""
        return _best(self.values, self.pairs.text, self.pairs.video, self.shape)

    def best_texts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The best text of every video and its score, both (n_video,); the first of equals."""
        return _best(self.values, self.pairs.video, self.pairs.text, self.shape[::-1])

    @property
    def fewest(self) -> int:
        """How many candidates every text has at least."""
        return int(self.pairs.starts.diff().min())

    def top(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and videos of the ``k`` best of every text, (n_text, k), best first.

        Of equal scores the lower index. Where a text has fewer candidates, -infinity and -1 stand
        for the others.
        """
        order = torch.argsort(self.values, descending=True, stable=True)
        order = order[torch.argsort(self.pairs.text[order], stable=True)]
        place = self.pairs.starts[:-1, None] + torch.arange(k, device=self.device)
        there = place < self.pairs.starts[1:, None]
        chosen = order[place.clamp(max=len(order) - 1)]
        return (
            torch.where(there, self.values[chosen], -math.inf),
            torch.where(there, self.pairs.video[chosen], -1),
        )


def _best(
    values: torch.Tensor, group: torch.Tensor, other: torch.Tensor, shape: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each of ``shape[0]`` groups the member with the largest value, and that value."""
    scores = torch.full(shape[:1], -math.inf).to(values)
    scores.scatter_reduce_(0, group, values, "amax")
    leads = values == scores[group]
    found = torch.full(shape[:1], shape[1], device=values.device)
    found.scatter_reduce_(0, group[leads], other[leads], "amin")
    return found, scores


@dataclass(frozen=True)
class Coverage:
    """What looking at candidates only leaves out, seen on some texts that are scored in full.

    Attributes
    ----------
    pairs : int
        Candidates.
    share : float
        Of all pairs.
    texts : int
        How many were scored in full.
    recall : float
        Share of their ten best videos, after the correction, that are candidates.
    left_out : float
        Share of their mass under the normalisation that lies on other videos; 0 without one.
    """

    pairs: int
    share: float
    texts: int
    recall: float
    left_out: float

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return dict(vars(self))


def coverage(
    source: Candidates, video_bias: torch.Tensor | None, temperature: float, *, texts: int = 256
) -> Coverage:
    """Score some texts in full and see what the candidates miss.

    Parameters
    ----------
    source : Candidates
        Before the biases.
    video_bias : (n_video,) or None
    temperature : float
        Of the normalisation.
    texts : int
        At most so many.
    """
    count = source.shape[0]
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(count, generator=generator)[:texts].sort().values.to(source.device)
    scores = source.all_pairs.rows(chosen)
    if video_bias is not None:
        scores = scores + video_bias
    seen = torch.zeros_like(scores, dtype=torch.bool)
    starts = source.pairs.starts
    for row, text in enumerate(chosen.tolist()):
        seen[row, source.pairs.video[starts[text] : starts[text + 1]]] = True
    best = scores.topk(min(10, scores.shape[1]), dim=1).indices
    left_out = 0.0
    if video_bias is not None:
        shares = torch.softmax(scores / temperature, dim=1)
        left_out = 1 - float((shares * seen).sum(1).mean())
    return Coverage(
        pairs=len(source.values),
        share=len(source.values) / (source.shape[0] * source.shape[1]),
        texts=len(chosen),
        recall=float(seen.gather(1, best).double().mean()),
        left_out=max(0.0, left_out),
    )
