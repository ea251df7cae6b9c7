"""Batch-invariant products: the scores of a query do not depend on the other queries.

A matrix product selects its order of summation by shape, so the scores of one query alone and
in a batch differ in the last bits. Here all products have one shape: blocks of 16 queries, padded
with zeros, times sides padded to multiples of 16. On one machine, device and number of threads
every row is then summed in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from emcl_plugin._internal.arrays import Array, read_tile
from emcl_plugin.scores import Similarity, rows_per_block

TILE = 16
_MULTIPLE = 16


def padded(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` padded with zeros to multiples of 16.

    >>> padded(torch.ones(3, 20)).shape
    torch.Size([16, 32])
    """
    shape = [size + -size % _MULTIPLE for size in x.shape]
    if shape == list(x.shape):
        return x
    out = x.new_zeros(shape)  # pad of torch 2.4 refuses empty matrices
    out[: x.shape[0], : x.shape[1]] = x
    return out


def tiles(
    x: Array, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield ``(start, stop, tile)``: rows ``start:stop`` of ``x``, padded to (16, padded D)."""
    shape = TILE, x.shape[1] + -x.shape[1] % _MULTIPLE
    for start in range(0, len(x), TILE):
        stop = min(start + TILE, len(x))
        yield start, stop, read_tile(x, start, stop, shape, dtype, device)


class BatchInvariantPair(Similarity):
    """Batch-invariant inner products of vectors, (n_text, D) and (n_video, D)."""

    def __init__(self, text: torch.Tensor, video: torch.Tensor) -> None:
        self.text, self.video = text, video
        self.shape = len(text), len(video)
        self.dtype, self.device = text.dtype, text.device
        rows = rows_per_block(self.shape[1], self.dtype, None)
        self.block_rows = max(TILE, rows // TILE * TILE)
        self._other = padded(video)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        out = torch.empty(stop - start, self.shape[1], dtype=self.dtype, device=self.device)
        for first, last, tile in tiles(self.text[start:stop], self.dtype, self.device):
            out[first:last] = (tile @ self._other.T)[: last - first, : self.shape[1]]
        return out

    @property
    def T(self) -> BatchInvariantPair:
        return BatchInvariantPair(self.video, self.text)
