"""Similarity sources: scores that are read in blocks of rows.

Leaves hold data: matrices, features, or whatever a :class:`Scorer` opens. Others change the
scores of a source (:class:`LowRank`, :class:`Biased`); they cost nothing until they are read.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from emcl_plugin._internal.arrays import Array
from emcl_plugin.distributed.process_group import SINGLE_PROCESS, ProcessGroup

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

OutOfMemory = torch.cuda.OutOfMemoryError
"""GPU out of memory; the only name that torch 2.4 has for it."""


class Similarity(abc.ABC):
    """Scores of ``shape`` (texts, videos), read in blocks of rows.

    Attributes
    ----------
    shape : tuple of int
        ``(n_text, n_video)``.
    dtype, device
        Of the blocks; float32 or float64.
    block_rows : int
        Rows per block of :meth:`blocks`.
    group : ProcessGroup
        Processes that share the texts. Default: this process.
    shift : float
        Largest number added to a score; rounding errors grow with it.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    block_rows: int
    group: ProcessGroup = SINGLE_PROCESS
    shift: float = 0.0

    @property
    def own(self) -> tuple[int, int]:
        """Half-open range of the texts that this process reads."""
        return self.group.part(self.shape[0])

    @abc.abstractmethod
    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return the scores of texts ``start:stop``; the tensor must not be written to."""

    @property
    @abc.abstractmethod
    def T(self) -> Similarity:
        """The same scores as (videos, texts)."""

    def among(self, group: ProcessGroup) -> Similarity:
        """Share this source among processes and return it."""
        self.group = group
        return self

    def rough(self) -> Similarity:
        """Return the scores with products in bfloat16, if they are products of vectors."""
        return self

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return vectors of this process's texts and of all videos whose products are the scores.

        None if the scores are no products, or the vectors are not in memory.
        """
        return None

    def blocks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield ``(start, stop, scores)`` over this process's texts, in order.

        Blocks shrink when a GPU runs out of memory.
        """
        stop, last = self.own
        while stop < last:
            start, scores = stop, self.fitting(partial(self._block, stop))
            stop = start + len(scores)
            yield start, stop, scores

    def _block(self, start: int) -> torch.Tensor:
        return self.rows(start, min(start + self.block_rows, self.own[1]))

    def fitting(self, work: Callable[[], Result]) -> Result:
        """Call ``work``; halve the rows per block and repeat while a GPU runs out of memory.

        Each call of ``work`` must start from scratch. There is no such retry on the CPU, where
        the system overcommits memory and kills the process.
        """
        while True:
            try:
                return work()
            except OutOfMemory:
                rows = min(self.block_rows, self.shape[0])
                if rows == 1:
                    raise
                self.block_rows = (rows + 1) // 2
                logger.info("GPU out of memory: %d rows per block from now on", self.block_rows)
            torch.cuda.empty_cache()  # not earlier: the error keeps tensors alive

    def storing(self, work: Callable[[], Result]) -> Result | None:
        """Return what ``work`` stores, or None if a GPU cannot hold it."""
        rows = self.block_rows
        with suppress(OutOfMemory):
            return work()
        logger.info("GPU out of memory: scores are recomputed instead of stored")
        self.block_rows = rows  # blocks shrank for the stored tensor only
        torch.cuda.empty_cache()
        return None

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the rows of these texts, in this order."""
        return torch.cat([self.rows(index, index + 1) for index in indices.tolist()])

    def biased(self, row_bias: torch.Tensor, column_bias: torch.Tensor) -> Similarity:
        """Return ``S_ij + row_bias_i + column_bias_j``."""
        return Biased(self, row_bias, column_bias)

    def changed(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        row_scale: torch.Tensor | None = None,
        column_scale: torch.Tensor | None = None,
    ) -> Similarity:
        """Return ``row_scale_i (S_ij + left_i . right_j) column_scale_j``."""
        return LowRank(self, left, right, row_scale, column_scale)

    def dense(self) -> torch.Tensor:
        """Return all scores of this process's texts, (own texts, n_video)."""
        first, last = self.own
        out = torch.empty(last - first, self.shape[1], dtype=self.dtype, device=self.device)
        for start, stop, block in self.blocks():
            out[start - first : stop - first] = block
        return out


class Scorer(Protocol):
    """Arrays whose scores are not the inner products of two vectors.

    `rerank` takes one in place of a matrix: :class:`emcl_plugin.emcl.experts.Experts` or
    :class:`emcl_plugin.scores.tokens.Tokens`.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(texts, videos)."""

    @property
    def arrays(self) -> list[Array]:
        """All arrays; the result has the library, dtype and device of the first."""

    @property
    def products(self) -> int:
        """Number of multiplications per score."""

    def take(self, texts: Any, videos: Any) -> Scorer:
        """Return these texts and videos, in this order."""

    def open(self, *, dtype: torch.dtype, device: torch.device, memory: int) -> Similarity:
        """Return the scores as a similarity source."""


class Rows(Similarity):
    """A source that holds only the texts of this process."""

    def __init__(self, base: Similarity) -> None:
        self.base = base
        self.first, last = base.own
        self.shape = last - self.first, base.shape[1]
        self.dtype, self.device, self.block_rows = base.dtype, base.device, base.block_rows

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.base.rows(self.first + start, self.first + stop)

    def rough(self) -> Similarity:
        return Rows(self.base.rough())

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        return self.base.vectors()

    @property
    def T(self) -> Similarity:
        raise NotImplementedError("the columns are spread over processes")


class LowRank(Similarity):
    """``row_scale_i (S_ij + left_i . right_j) column_scale_j``, the form of EMCL's change."""

    def __init__(
        self,
        base: Similarity,
        left: torch.Tensor,
        right: torch.Tensor,
        row_scale: torch.Tensor | None = None,
        column_scale: torch.Tensor | None = None,
    ) -> None:
        self.base = base
        self.left = left
        self.right = right
        self.row_scale = row_scale
        self.column_scale = column_scale
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device
        self.block_rows, self.group = base.block_rows, base.group

    def rough(self) -> Similarity:
        base = self.base.rough()
        return LowRank(base, self.left, self.right, self.row_scale, self.column_scale)

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        found = self.base.vectors()
        if found is None:
            return None
        own = slice(*self.own)
        row_scale = None if self.row_scale is None else self.row_scale[own]
        text = beside(found[0], self.left[own], row_scale)
        return text, beside(found[1], self.right, self.column_scale)

    def change(self, block: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Apply the change to rows ``start:stop`` of the base source."""
        return self._change(block, slice(start, stop))

    def _change(self, block: torch.Tensor, which: slice | torch.Tensor) -> torch.Tensor:
        out = torch.addmm(block, self.left[which], self.right.T)
        if self.row_scale is not None:
            out *= self.row_scale[which, None]
        if self.column_scale is not None:
            out *= self.column_scale
        return out

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.change(self.base.rows(start, stop), start, stop)

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        return self._change(self.base.take(indices), indices)

    @property
    def T(self) -> LowRank:
        return LowRank(self.base.T, self.right, self.left, self.column_scale, self.row_scale)


def beside(x: torch.Tensor, more: torch.Tensor | None, scale: torch.Tensor | None) -> torch.Tensor:
    """Append coordinates to vectors and scale them; their products are a :class:`LowRank`."""
    x = x if more is None else torch.cat([x, more], dim=1)
    return x if scale is None else x * scale[:, None]


class Biased(Similarity):
    """``S_ij + row_bias_i + column_bias_j``."""

    def __init__(self, base: Similarity, row_bias: torch.Tensor, column_bias: torch.Tensor) -> None:
        self.base = base
        self.row_bias = row_bias
        self.column_bias = column_bias
        self.shift = float(row_bias.abs().max() + column_bias.abs().max())
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device
        self.block_rows, self.group = base.block_rows, base.group

    def rows(self, start: int, stop: int) -> torch.Tensor:
        out = self.base.rows(start, stop) + self.row_bias[start:stop, None]
        out += self.column_bias
        return out

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        return self.base.take(indices) + self.row_bias[indices, None] + self.column_bias

    @property
    def T(self) -> Biased:
        return Biased(self.base.T, self.column_bias, self.row_bias)
