"""Similarity sources: where scores come from, in row blocks of bounded memory.

Sinkhorn, metrics, hubness and agreement are written once, over :class:`Similarity`:
something with a shape that yields blocks of rows of scores (texts x videos).
Leaves hold data (:class:`Dense`, :class:`FeaturePair`, and those that a :class:`Scorer` opens);
the others change the scores of a source as they pass (:class:`LowRank`, :class:`Biased`) and
cost nothing until they are read.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from emcl_plugin.arrays import Array, check_finite, read_rows, take_rows
from emcl_plugin.errors import InputValueError
from emcl_plugin.sizes import DEFAULT_MEMORY

Result = TypeVar("Result")

_BLOCK_BYTES = 8 << 20
OutOfMemory = torch.cuda.OutOfMemoryError
"""A GPU's memory has run out; torch 2.4 knows it by this name only."""

_BLOCK_ROWS = 128  # below this a matrix product wastes its time on reading the other side


def rows_per_block(columns: int, dtype: torch.dtype, memory: int | None) -> int:
    """Rows of a block: 8 MiB or 128 rows, and at most a sixteenth of the memory budget.

    >>> rows_per_block(1024, torch.float32, memory=1 << 24)
    256
    """
    row = columns * dtype.itemsize
    budget = (DEFAULT_MEMORY if memory is None else memory) // 16
    return max(1, min(max(_BLOCK_BYTES, _BLOCK_ROWS * row), budget) // row)


class Similarity(abc.ABC):
    """Scores of ``shape`` (texts, videos), readable as row blocks.

    Attributes
    ----------
    shape : tuple of int
        ``(n_text, n_video)``.
    dtype, device
        What blocks come in and where; float32 or float64.
    block_rows : int
        Rows per block of :meth:`blocks`.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    block_rows: int

    @abc.abstractmethod
    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Scores of texts ``start:stop``, a new or shared tensor (not to be written to)."""

    @property
    @abc.abstractmethod
    def T(self) -> Similarity:
        """The same scores as (videos, texts): its row blocks are the column blocks of this one."""

    def blocks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield ``(start, stop, scores)`` over all texts, in order.

        Where the memory of a GPU runs out, blocks become smaller.
        """
        stop = 0
        while stop < self.shape[0]:
            start, scores = stop, self.fitting(partial(self._block, stop))
            stop = start + len(scores)
            yield start, stop, scores

    def _block(self, start: int) -> torch.Tensor:
        return self.rows(start, min(start + self.block_rows, self.shape[0]))

    def fitting(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns, with half the rows per block as often as a GPU's memory runs out.

        ``work`` must start anew whenever it is called. On the CPU nothing of the kind is possible:
        the system promises memory that it does not have, and kills who uses it.
        """
        while True:
            try:
                return work()
            except OutOfMemory:
                rows = min(self.block_rows, self.shape[0])
                if rows == 1:
                    raise
                self.block_rows = (rows + 1) // 2
            torch.cuda.empty_cache()  # only now: the error held on to what was computed

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """The rows of these texts, in this order."""
        return torch.cat([self.rows(index, index + 1) for index in indices.tolist()])

    def biased(self, row_bias: torch.Tensor, column_bias: torch.Tensor) -> Similarity:
        """``S_ij + row_bias_i + column_bias_j``."""
        return Biased(self, row_bias, column_bias)

    def changed(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        row_scale: torch.Tensor | None = None,
        column_scale: torch.Tensor | None = None,
    ) -> Similarity:
        """``row_scale_i (S_ij + left_i . right_j) column_scale_j``."""
        return LowRank(self, left, right, row_scale, column_scale)

    def dense(self) -> torch.Tensor:
        """All scores in one tensor of ``n_text x n_video``."""
        out = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for start, stop, block in self.blocks():
            out[start:stop] = block
        return out


class Scorer(Protocol):
    """Arrays from which scores are computed that are no inner product of two vectors.

    What `rerank` takes in the place of a matrix: :class:`emcl_plugin.experts.Experts` and
    :class:`emcl_plugin.tokens.Tokens`.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(texts, videos)."""

    @property
    def arrays(self) -> list[Array]:
        """All arrays, the first of which says of what kind the result is."""

    @property
    def products(self) -> int:
        """Multiplications per score."""

    def take(self, texts: Any, videos: Any) -> Scorer:
        """These texts and videos, in this order."""

    def open(self, *, dtype: torch.dtype, device: torch.device, memory: int) -> Similarity:
        """The scores, in blocks."""


class Dense(Similarity):
    """A matrix that is there: a tensor, an array or a memory-mapped ``.npy``.

    Parameters
    ----------
    array : (n_text, n_video)
        Scores. Read block by block, converted to ``dtype`` on ``device``.
    memory : int, optional
        Memory budget in bytes; it bounds the block size. Default 4 GiB.
    """

    def __init__(
        self,
        array: Array,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        memory: int | None = None,
    ) -> None:
        self.array = array
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = dtype
        self.device = torch.device(device)
        self.memory = memory
        self.block_rows = rows_per_block(self.shape[1], dtype, memory)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return read_rows(self.array, start, stop, self.dtype, self.device)

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        return take_rows(self.array, indices, self.dtype, self.device)

    @property
    def T(self) -> Dense:
        return Dense(self.array.T, dtype=self.dtype, device=self.device, memory=self.memory)


class Features:
    """Embeddings of one side, read in blocks, L2-normalised for the cosine.

    Kept as one normalised tensor where that takes at most a quarter of the memory budget,
    otherwise normalised anew at every read.

    Parameters
    ----------
    array : (n, dimension)
        One vector per item, of any length; possibly memory-mapped.
    name : str
        "text" or "video", for messages.
    metric : {"cosine", "dot"}
        Whether vectors are brought to unit length.
    """

    def __init__(
        self,
        array: Array,
        *,
        name: str = "features",
        metric: str = "cosine",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        memory: int | None = None,
    ) -> None:
        self.array = array
        self.name = name
        self.metric = metric
        self.dtype = dtype
        self.device = torch.device(device)
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self.block_rows = rows_per_block(self.shape[1], dtype, memory)
        budget = (DEFAULT_MEMORY if memory is None else memory) // 4
        self._all: torch.Tensor | None = None
        if self.shape[0] * self.shape[1] * dtype.itemsize <= budget:
            ready = isinstance(array, torch.Tensor) and metric == "dot"
            ready = ready and array.dtype == dtype and array.device == self.device
            own = None if ready else torch.empty(self.shape, dtype=dtype, device=device)
            for start, stop, block in self.blocks():  # checks every vector, too
                if own is not None:
                    own[start:stop] = block
            self._all = read_rows(array, 0, len(array), dtype, self.device) if own is None else own

    @property
    def resident(self) -> bool:
        """Whether all vectors are held in memory."""
        return self._all is not None

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Vectors ``start:stop``."""
        return self._read(start, stop) if self._all is None else self._all[start:stop]

    def blocks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield ``(start, stop, vectors)`` over all items, in order."""
        for start in range(0, self.shape[0], self.block_rows):
            stop = min(start + self.block_rows, self.shape[0])
            yield start, stop, self.rows(start, stop)

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """The vectors of these items, in this order."""
        if self._all is not None:
            return self._all[indices]
        out = torch.empty(len(indices), self.shape[1], dtype=self.dtype, device=self.device)
        if not len(indices):
            return out
        first, last = (int(x) for x in torch.aminmax(indices))
        for start in range(first, last + 1, self.block_rows):
            stop = min(start + self.block_rows, self.shape[0])
            here = (indices >= start) & (indices < stop)
            if bool(here.any()):
                out[here] = self.rows(start, stop)[indices[here] - start]
        return out

    def project(self, basis: torch.Tensor) -> torch.Tensor:
        """Coordinates of all items along the columns of ``basis``, (n, r)."""
        basis = basis.to(device=self.device, dtype=self.dtype)
        return torch.cat([block @ basis for _, _, block in self.blocks()])

    def squared_norms(self) -> torch.Tensor:
        """Squared length of every vector, (n,)."""
        return torch.cat([block.square().sum(1) for _, _, block in self.blocks()])

    def _read(self, start: int, stop: int) -> torch.Tensor:
        x = read_rows(self.array, start, stop, self.dtype, self.device)
        check_finite(x, self.name, start)
        if self.metric == "dot":
            return x
        largest = x.abs().amax(1, keepdim=True)
        if bool((largest == 0).any()):
            row = start + int((largest == 0).nonzero()[0, 0])
            raise InputValueError(
                f"a {self.name} vector is all zeros, so its cosine is not defined",
                f"{self.name}[{row}]",
                'drop that item, or use metric="dot"',
            )
        x = x / largest  # so that no length overflows or vanishes in the square
        return torch.nn.functional.normalize(x, dim=1)


class FeaturePair(Similarity):
    """Inner products of two sets of features; the matrix is never stored.

    With ``metric="cosine"`` on both sides these are cosines.
    """

    def __init__(self, text: Features, video: Features, *, memory: int | None = None) -> None:
        self.text = text
        self.video = video
        self.shape = (text.shape[0], video.shape[0])
        self.dtype = text.dtype
        self.device = text.device
        self.memory = memory
        self.block_rows = rows_per_block(self.shape[1], self.dtype, memory)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        text = self.text.rows(start, stop)
        if self.video.resident:
            return text @ self.video.rows(0, self.shape[1]).T
        return torch.cat([text @ tile.T for _, _, tile in self.video.blocks()], dim=1)

    @property
    def T(self) -> FeaturePair:
        return FeaturePair(self.video, self.text, memory=self.memory)


class LowRank(Similarity):
    """``row_scale_i (S_ij + left_i . right_j) column_scale_j``: a source after a rank-r change.

    This is EMCL's form: see :mod:`emcl_plugin.emcl`.
    """

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
        self.block_rows = base.block_rows

    def change(self, block: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Apply the change to a block of the base source's rows ``start:stop``."""
        out = torch.addmm(block, self.left[start:stop], self.right.T)
        if self.row_scale is not None:
            out *= self.row_scale[start:stop, None]
        if self.column_scale is not None:
            out *= self.column_scale
        return out

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.change(self.base.rows(start, stop), start, stop)

    @property
    def T(self) -> LowRank:
        return LowRank(self.base.T, self.right, self.left, self.column_scale, self.row_scale)


class Biased(Similarity):
    """``S_ij + row_bias_i + column_bias_j``: a source with one number per text and per video."""

    def __init__(self, base: Similarity, row_bias: torch.Tensor, column_bias: torch.Tensor) -> None:
        self.base = base
        self.row_bias = row_bias
        self.column_bias = column_bias
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device
        self.block_rows = base.block_rows

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.base.rows(start, stop) + self.row_bias[start:stop, None] + self.column_bias

    @property
    def T(self) -> Biased:
        return Biased(self.base.T, self.column_bias, self.row_bias)
