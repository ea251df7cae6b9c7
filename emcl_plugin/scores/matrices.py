"""Stored score matrices: in one piece, or split among processes."""

from __future__ import annotations

import torch

from emcl_plugin._internal.arrays import Array, read_rows, take_rows
from emcl_plugin.distributed.process_group import ProcessGroup
from emcl_plugin.scores.base import Similarity
from emcl_plugin.scores.block_sizes import rows_per_block


class Dense(Similarity):
    """A stored matrix: a tensor, an array or a memory-mapped ``.npy``.

    Parameters
    ----------
    array : (n_text, n_video)
        Scores; read block by block, converted to ``dtype`` on ``device``.
    memory : int, optional
        Memory budget in bytes, which bounds the block size. Default: 4 GiB.
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
        return turned.among(self.group.even())


class Shard(Similarity):
    """A matrix of which each process holds the rows of its own texts.

    Parameters
    ----------
    array : (own texts, n_video)
    shape : tuple of int
        Of the whole matrix.
    of : Similarity, optional
        The same scores, computed at every read. Needed for :attr:`T`.
    """

    def __init__(
        self,
        array: Array,
        shape: tuple[int, int],
        group: ProcessGroup,
        *,
        dtype: torch.dtype,
        device: torch.device,
        memory: int,
        of: Similarity | None = None,
    ) -> None:
        self.array, self.shape, self.group, self.of = array, shape, group, of
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
        return self.group.sum(out)

    @property
    def T(self) -> Similarity:
        if self.of is None:
            raise NotImplementedError("no process holds all scores of a video")
        return self.of.T
