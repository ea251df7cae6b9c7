"""Sparse similarity source holding only candidate pairs."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from emcl_plugin.scores import Similarity, rows_per_block
from emcl_plugin.scores.candidates.moments import AllPairs
from emcl_plugin.scores.candidates.pairs import Pairs
from emcl_plugin.scores.candidates.sampled_complement import SampledComplement

_ROWS = 1 << 14  # texts whose candidates are gathered at a time
_CHUNK = 1 << 18  # pairs whose vectors are gathered at a time


class Candidates(Similarity):
    """Scores of candidate pairs; read as a matrix, all others are -infinity.

    Parameters
    ----------
    pairs : Pairs
    values : (n_pairs,)
        Their scores.
    all_pairs : AllPairs
        All scores, of which these are a subset.
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
        """Return left_i . right_j per candidate, for each left; the last factor is right."""
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
        """Return ``row_scale_i value_ij column_scale_j``, the result of :meth:`changed`."""
        if row_scale is not None:
            values = values * row_scale[self.pairs.text]
        if column_scale is not None:
            values = values * column_scale[self.pairs.video]
        of_all = replace(
            self.all_pairs, left=left, right=right, row_scale=row_scale, column_scale=column_scale
        )
        return Candidates(self.pairs, values, of_all)

    @cached_property
    def complement(self) -> SampledComplement:
        """Sample that stands for the videos that are not candidates of a text."""
        return SampledComplement.sampled(self.pairs, self.all_pairs.T)

    def holds(self, texts: Any, videos: Any) -> int:
        """Return how many of these pairs are candidates."""
        wanted = (torch.as_tensor(x).to(self.device) for x in (texts, videos))
        return int(self.pairs.find(*wanted)[1].sum())

    def standing(
        self, texts: torch.Tensor, videos: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Count the videos that score higher than each pair, and those that score the same.

        Videos that are not candidates of a text share its last rank.
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
        """Return the top-1 video of every text and its score, (n_text,); the first of ties."""
        return _best(self.values, self.pairs.text, self.pairs.video, self.shape)

    def best_texts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the top-1 text of every video and its score, (n_video,); the first of ties."""
        return _best(self.values, self.pairs.video, self.pairs.text, self.shape[::-1])

    @property
    def fewest(self) -> int:
        """Smallest number of candidates of a text."""
        return int(self.pairs.starts.diff().min())

    def top(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores and indices of the top ``k`` videos of every text, (n_text, k).

        Ties are sorted by index. Missing candidates are -infinity and -1.
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
