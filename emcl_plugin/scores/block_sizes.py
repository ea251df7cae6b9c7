"""Sizes of row blocks that fit into memory and cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from emcl_plugin._internal.sizes import DEFAULT_MEMORY

_BLOCK_BYTES = 8 << 20
_BLOCK_ROWS = 128  # with fewer, a matrix product mostly reads the other side
_CACHE_BYTES = 4 << 20


def rows_per_block(columns: int, dtype: torch.dtype, memory: int | None) -> int:
    """Return the rows per block: 8 MiB or 128 rows, at most 1/16 of the memory budget.

    >>> rows_per_block(1024, torch.float32, memory=1 << 24)
    256
    """
    row = columns * dtype.itemsize
    budget = (DEFAULT_MEMORY if memory is None else memory) // 16
    return max(1, min(max(_BLOCK_BYTES, _BLOCK_ROWS * row), budget) // row)


def ranges_in_cache(
    start: int, stop: int, columns: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that stay in cache when read several times.

    4 MiB on the CPU; 64 MiB on other devices, where small steps cost more than they save.

    >>> list(ranges_in_cache(0, 300, 4096, torch.float32, torch.device("cpu")))
    [(0, 256), (256, 300)]
    """
    size = _CACHE_BYTES if device.type == "cpu" else 16 * _CACHE_BYTES
    step = max(16, size // (columns * dtype.itemsize))
    for first in range(start, stop, step):
        yield first, min(first + step, stop)
