"""The best of every row; of equal scores the one with the lower index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch

from emcl_plugin.io.members import Matrix

Ranked: TypeAlias = "tuple[int, Matrix, Matrix]"
"""The first row's index, and scores and columns of the best of some rows, each (rows, k)."""


def best(block: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and columns of the ``k`` best of every row, each (rows, k), best first.

    As the first k of a stable sort, which :func:`torch.topk` is not.

    >>> scores, columns = best(torch.tensor([[0.5, 0.9, 0.5, 0.5]]), 3)
    >>> columns
    tensor([[1, 0, 2]])
    """
    wide = block if block.dtype.itemsize >= 4 else block.float()
    scores, columns = wide.topk(min(k + 1, wide.shape[1]), dim=1)
    last, next_one = scores[:, k - 1 : k], scores[:, k:]
    columns = columns[:, :k]
    for row in (last == next_one).nonzero()[:, 0].tolist():  # which of the last score is open
        above, level = wide[row] > last[row], wide[row] == last[row]
        columns[row] = torch.cat([above.nonzero(), level.nonzero()])[:k, 0]
    columns = columns.sort(dim=1).values
    order = wide.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    columns = columns.gather(1, order)
    return block.gather(1, columns), columns


def ranked(blocks: Iterable[torch.Tensor], k: int, start: int = 0) -> Iterator[Ranked]:
    """The ``k`` best of every row of consecutive blocks, (rows, n) with n at least k.

    ``start`` is the first row's index.
    """
    for block in blocks:
        scores, columns = (x.cpu().numpy() for x in best(block, k))
        yield start, scores, columns
        start += len(block)
