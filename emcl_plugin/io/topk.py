"""Top-k of every row; ties go to the lower index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch

from emcl_plugin.io.members import Matrix

Ranked: TypeAlias = "tuple[int, Matrix, Matrix]"
"""Index of the first row, and top-k scores and columns of some rows, each (rows, k)."""


def best(block: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and columns of the top ``k`` of every row, each (rows, k), best first.

    Equals the first k of a stable sort, which :func:`torch.topk` does not.

    >>> scores, columns = best(torch.tensor([[0.5, 0.9, 0.5, 0.5]]), 3)
    >>> columns
    tensor([[1, 0, 2]])
    """
    wide = block if block.dtype.itemsize >= 4 else block.float()
    scores, columns = wide.topk(min(k + 1, wide.shape[1]), dim=1)
    last, next_one = scores[:, k - 1 : k], scores[:, k:]
    columns = columns[:, :k]
    for row in (last == next_one).nonzero()[:, 0].tolist():  # ties at rank k
        above, level = wide[row] > last[row], wide[row] == last[row]
        columns[row] = torch.cat([above.nonzero(), level.nonzero()])[:k, 0]
    columns = columns.sort(dim=1).values
    order = wide.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    columns = columns.gather(1, order)
    return block.gather(1, columns), columns


def ranked(blocks: Iterable[torch.Tensor], k: int, start: int = 0) -> Iterator[Ranked]:
    """Yield the top ``k`` of every row of consecutive (rows, n) blocks, n at least k.

    ``start`` is the index of the first row.
    """
    for block in blocks:
        scores, columns = (x.cpu().numpy() for x in best(block, k))
        yield start, scores, columns
        start += len(block)
