"""Products of one shape, so that a query's scores do not depend on its company.

A matrix product picks its way of summing by the shapes it is given, so the scores of a query
alone and among others differ in the last bits. Here queries are always multiplied in tiles of
32, the last one filled with zeros, with both other sides zero-padded to multiples of 16: every
row of a tile is then summed in the same way. (The same machine, device and number of threads
taken for granted.)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from emcl_plugin.arrays import Array, read_rows

TILE = 32
_MULTIPLE = 16


def padded(x: torch.Tensor) -> torch.Tensor:
    """``x`` with zero rows and columns up to the next multiples of 16.

    >>> padded(torch.ones(3, 20)).shape
    torch.Size([16, 32])
    """
    rows, columns = (-size % _MULTIPLE for size in x.shape)
    return torch.nn.functional.pad(x, (0, columns, 0, rows)) if rows or columns else x


def tiles(
    x: Array, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield ``(start, stop, rows)``: rows ``start:stop`` of ``x`` in a (32, padded D) tile."""
    for start in range(0, len(x), TILE):
        stop = min(start + TILE, len(x))
        rows = read_rows(x, start, stop, dtype, device)
        tile = torch.zeros(TILE, rows.shape[1] + -rows.shape[1] % _MULTIPLE).to(rows)
        tile[: stop - start, : rows.shape[1]] = rows
        yield start, stop, tile
