"""Embeddings of texts or videos, read in blocks, checked and normalized."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from emcl_plugin._internal.arrays import Array, check_finite, read_rows
from emcl_plugin._internal.sizes import DEFAULT_MEMORY
from emcl_plugin.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores.block_sizes import rows_per_block


class Features:
    """Embeddings of texts or videos, L2-normalized for the cosine.

    Kept in memory if they take at most a quarter of the memory budget; otherwise read and
    normalized block by block.

    Parameters
    ----------
    array : (n, dimension)
        One vector per item; may be memory-mapped.
    name : str
        "text" or "video"; used in messages.
    metric : {"cosine", "dot"}
        "cosine" scales vectors to unit length.
    group : ProcessGroup
        Processes that share the items.

    Attributes
    ----------
    kept : (items of this process, dimension), or None
        The vectors, if they are in memory.
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
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.array = array
        self.name = name
        self.memory = memory
        self.group = group
        self.metric = metric
        self.dtype = dtype
        self.device = torch.device(device)
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self.block_rows = rows_per_block(self.shape[1], dtype, memory)
        budget = (DEFAULT_MEMORY if memory is None else memory) // 4
        self.kept: torch.Tensor | None = None
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
            self.kept = kept
            if kept is None:
                self.kept = read_rows(array, first, last, dtype, self.device)

    @property
    def own(self) -> tuple[int, int]:
        """Half-open range of the items that this process reads."""
        return self.group.part(self.shape[0])

    @property
    def resident(self) -> bool:
        """True if all vectors are in memory."""
        return self.kept is not None and len(self.kept) == self.shape[0]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return the vectors ``start:stop``."""
        first, last = self.own
        if self.kept is None or start < first or stop > last:
            return self._read(start, stop)
        return self.kept[start - first : stop - first]

    def blocks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield ``(start, stop, vectors)`` over this process's items, in order."""
        first, last = self.own
        for start in range(first, last, self.block_rows):
            stop = min(start + self.block_rows, last)
            yield start, stop, self.rows(start, stop)

    def shared(self, group: ProcessGroup) -> Features:
        """Return the same vectors, split among other processes."""
        if self.group.size == group.size == 1:
            return self
        return Features(
            self.array,
            name=self.name,
            metric=self.metric,
            dtype=self.dtype,
            device=self.device,
            memory=self.memory,
            group=group,
        )

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the vectors of these items, in this order."""
        if self.kept is not None and self.resident:
            return self.kept[indices]
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
        """Return the coordinates of all items along the columns of ``basis``, (n, r)."""
        basis = basis.to(device=self.device, dtype=self.dtype)
        own = [block @ basis for _, _, block in self.blocks()]
        return self.group.rows(torch.cat(own), self.shape[0])

    def squared_norms(self) -> torch.Tensor:
        """Return the squared length of every vector, (n,)."""
        own = [block.square().sum(1) for _, _, block in self.blocks()]
        return self.group.rows(torch.cat(own), self.shape[0])

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
        x = x / largest  # avoid overflow and underflow in the square
        return torch.nn.functional.normalize(x, dim=1)


def check_lengths(x: torch.Tensor, name: str, first_row: int, dtype: torch.dtype) -> None:
    """Raise if inner products, or sums of them, may overflow.

    The limit is 2.6e15 in float32, 1.8e123 in float64; ``first_row`` is the block's position.
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
