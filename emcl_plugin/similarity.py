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
from emcl_plugin.world import ALONE, World

Result = TypeVar("Result")

_BLOCK_BYTES = 8 << 20
_CACHE_BYTES = 4 << 20
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


def ranges_in_cache(
    start: int, stop: int, columns: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[int, int]]:
    """Parts of the rows ``start:stop`` that are best gone through several times while at hand.

    4 MiB, which stay in a processor's cache; 64 MiB on other devices, where many small steps cost
    more than they save.

    >>> list(ranges_in_cache(0, 300, 4096, torch.float32, torch.device("cpu")))
    [(0, 256), (256, 300)]
    """
    size = _CACHE_BYTES if device.type == "cpu" else 16 * _CACHE_BYTES
    step = max(16, size // (columns * dtype.itemsize))
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


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
    world : World
        The processes that share its texts; default this one alone.
    shift : float
        The most that was added to a score: scores are rounded at that size, too.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    block_rows: int
    world: World = ALONE
    shift: float = 0.0

    @property
    def own(self) -> tuple[int, int]:
        """The first text that this process goes through, and the first that it does not."""
        return self.world.part(self.shape[0])

    @abc.abstractmethod
    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Scores of texts ``start:stop``, a new or shared tensor (not to be written to)."""

    @property
    @abc.abstractmethod
    def T(self) -> Similarity:
        """The same scores as (videos, texts): its row blocks are the column blocks of this one."""

    def among(self, world: World) -> Similarity:
        """The same source, from now on shared by these processes."""
        self.world = world
        return self

    def rough(self) -> Similarity:
        """The same scores with products in bfloat16, where they are products of vectors."""
        return self

    def blocks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield ``(start, stop, scores)`` over this process's texts, in order.

        Where the memory of a GPU runs out, blocks become smaller.
        """
        stop, last = self.own
        while stop < last:
            start, scores = stop, self.fitting(partial(self._block, stop))
            stop = start + len(scores)
            yield start, stop, scores

    def _block(self, start: int) -> torch.Tensor:
        return self.rows(start, min(start + self.block_rows, self.own[1]))

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
        """All scores of this process's texts in one tensor of ``n_text x n_video``."""
        first, last = self.own
        out = torch.empty(last - first, self.shape[1], dtype=self.dtype, device=self.device)
        for start, stop, block in self.blocks():
            out[start - first : stop - first] = block
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
    def T(self) -> Similarity:
        turned = Dense(self.array.T, dtype=self.dtype, device=self.device, memory=self.memory)
        return turned.among(self.world.even())


class Shard(Similarity):
    """A matrix of which every process holds the rows of its own texts.

    Parameters
    ----------
    array : (own texts, n_video)
    shape : tuple of int
        Of the whole.
    of : Similarity, optional
        The same scores, computed at every read: :attr:`T` is its, and there is none without.
    """

    def __init__(
        self,
        array: Array,
        shape: tuple[int, int],
        world: World,
        *,
        dtype: torch.dtype,
        device: torch.device,
        memory: int,
        of: Similarity | None = None,
    ) -> None:
        self.array, self.shape, self.world, self.of = array, shape, world, of
        self.dtype, self.device = dtype, device
        self.block_rows = rows_per_block(shape[1], dtype, memory)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        first, last = self.own
        assert first <= start <= stop <= last
        return read_rows(self.array, start - first, stop - first, self.dtype, self.device)

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        first, last = self.own
        out = torch.zeros(len(indices), self.shape[1], dtype=self.dtype, device=self.device)
        here = (indices >= first) & (indices < last)
        out[here] = take_rows(self.array, indices[here] - first, self.dtype, self.device)
        return self.world.sum(out)

    @property
    def T(self) -> Similarity:
        if self.of is None:
            raise NotImplementedError("no process has a video's scores of all texts")
        return self.of.T


class Rows(Similarity):
    """The texts of this process, as a source of their own."""

    def __init__(self, base: Similarity) -> None:
        self.base = base
        self.first, last = base.own
        self.shape = last - self.first, base.shape[1]
        self.dtype, self.device, self.block_rows = base.dtype, base.device, base.block_rows

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.base.rows(self.first + start, self.first + stop)

    def rough(self) -> Similarity:
        return Rows(self.base.rough())

    @property
    def T(self) -> Similarity:
        raise NotImplementedError("of a part of the texts only rows are read")


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
    world : World
        The processes that share the items: each goes through its own, and reads others only
        where it is asked for them.
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
        world: World = ALONE,
    ) -> None:
        self.array = array
        self.name = name
        self.memory = memory
        self.world = world
        self.metric = metric
        self.dtype = dtype
        self.device = torch.device(device)
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self.block_rows = rows_per_block(self.shape[1], dtype, memory)
        budget = (DEFAULT_MEMORY if memory is None else memory) // 4
        self._kept: torch.Tensor | None = None
        first, last = self.own
        if (last - first) * self.shape[1] * dtype.itemsize <= budget:
            ready = isinstance(array, torch.Tensor) and metric == "dot"
            ready = ready and array.dtype == dtype and array.device == self.device
            kept = None
            if not ready:
                kept = torch.empty(last - first, self.shape[1], dtype=dtype, device=device)
            for start, stop, block in self.blocks():  # checks every vector, too
                if kept is not None:
                    kept[start - first : stop - first] = block
            self._kept = kept
            if kept is None:
                self._kept = read_rows(array, first, last, dtype, self.device)

    @property
    def own(self) -> tuple[int, int]:
        """The first item that this process goes through, and the first that it does not."""
        return self.world.part(self.shape[0])

    @property
    def resident(self) -> bool:
        """Whether all vectors are held in memory."""
        return self._kept is not None and len(self._kept) == self.shape[0]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Vectors ``start:stop``."""
        first, last = self.own
        if self._kept is None or start < first or stop > last:
            return self._read(start, stop)
        return self._kept[start - first : stop - first]

    def blocks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield ``(start, stop, vectors)`` over this process's items, in order."""
        first, last = self.own
        for start in range(first, last, self.block_rows):
            stop = min(start + self.block_rows, last)
            yield start, stop, self.rows(start, stop)

    def shared(self, world: World) -> Features:
        """The same vectors, split among other processes."""
        if self.world.size == world.size == 1:
            return self
        return Features(
            self.array,
            name=self.name,
            metric=self.metric,
            dtype=self.dtype,
            device=self.device,
            memory=self.memory,
            world=world,
        )

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """The vectors of these items, in this order."""
        if self._kept is not None and self.resident:
            return self._kept[indices]
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
        own = [block @ basis for _, _, block in self.blocks()]
        return self.world.rows(torch.cat(own), self.shape[0])

    def squared_norms(self) -> torch.Tensor:
        """Squared length of every vector, (n,)."""
        own = [block.square().sum(1) for _, _, block in self.blocks()]
        return self.world.rows(torch.cat(own), self.shape[0])

    def _read(self, start: int, stop: int) -> torch.Tensor:
        x = read_rows(self.array, start, stop, self.dtype, self.device)
        check_finite(x, self.name, start)
        if self.metric == "dot":
            check_lengths(x, self.name, start, self.dtype)
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


def check_lengths(x: torch.Tensor, name: str, first_row: int, dtype: torch.dtype) -> None:
    """Raise where vectors are so long that their inner products, or sums of them, may overflow.

    From 2.6e15 on in float32, 1.8e123 in float64; ``first_row`` is the block's place.
    """
    limit = torch.finfo(dtype).max ** 0.4
    largest = x.abs().amax(1)
    if bool(largest.max() < limit):
        return
    row = int(largest.argmax())
    raise InputValueError(
        f"a {name} vector is too long for inner products in {str(dtype)[6:]}",
        f"{name}[{first_row + row}], up to {float(largest[row]):.4g}",
        'divide all vectors by one number, or use metric="cosine", where lengths do not matter',
    )


class FeaturePair(Similarity):
    """Inner products of two sets of features; the matrix is never stored.

    With ``metric="cosine"`` on both sides these are cosines. Processes share it as they share
    the texts.
    """

    def __init__(self, text: Features, video: Features, *, memory: int | None = None) -> None:
        self.world = text.world
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

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        text = self.text.take(indices)
        return torch.cat([text @ tile.T for _, _, tile in self.video.blocks()], dim=1)

    def dense(self) -> torch.Tensor:
        if not (self.text.resident and self.video.resident):
            return super().dense()
        out = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        sides = self.text.rows(0, self.shape[0]), self.video.rows(0, self.shape[1])
        return torch.mm(sides[0], sides[1].T, out=out)

    def rough(self) -> Similarity:
        return RoughPair(self)

    @property
    def T(self) -> FeaturePair:
        video, text = self.video.shared(self.world.even()), self.text.shared(ALONE)
        return FeaturePair(video, text, memory=self.memory)


class RoughPair(Similarity):
    """Inner products of features rounded to bfloat16; the video features are kept like that."""

    def __init__(self, pair: FeaturePair) -> None:
        self.text = pair.text
        self.video = torch.cat([block.bfloat16() for _, _, block in pair.video.blocks()])
        self.shape, self.dtype, self.device = pair.shape, pair.dtype, pair.device
        self.block_rows, self.world = pair.block_rows, pair.world

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return (self.text.rows(start, stop).bfloat16() @ self.video.T).to(self.dtype)

    @property
    def T(self) -> Similarity:
        raise NotImplementedError("rounded scores are for sums over rows")


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
        self.block_rows, self.world = base.block_rows, base.world

    def rough(self) -> Similarity:
        base = self.base.rough()
        return LowRank(base, self.left, self.right, self.row_scale, self.column_scale)

    def change(self, block: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Apply the change to a block of the base source's rows ``start:stop``."""
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


class Biased(Similarity):
    """``S_ij + row_bias_i + column_bias_j``: a source with one number per text and per video."""

    def __init__(self, base: Similarity, row_bias: torch.Tensor, column_bias: torch.Tensor) -> None:
        self.base = base
        self.row_bias = row_bias
        self.column_bias = column_bias
        self.shift = float(row_bias.abs().max() + column_bias.abs().max())
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device
        self.block_rows, self.world = base.block_rows, base.world

    def rows(self, start: int, stop: int) -> torch.Tensor:
        out = self.base.rows(start, stop) + self.row_bias[start:stop, None]
        out += self.column_bias
        return out

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        return self.base.take(indices) + self.row_bias[indices, None] + self.column_bias

    @property
    def T(self) -> Biased:
        return Biased(self.base.T, self.column_bias, self.row_bias)
