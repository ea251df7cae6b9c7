"""DSL: dual softmax, as used at test time."""

from __future__ import annotations

import torch

from emcl_plugin.baselines.problem import Direction, Method, check_positive
from emcl_plugin.scores import Similarity
from emcl_plugin.scores.reductions import logsumexp


def dual_softmax(direction: Direction, *, scale: float = 100.0) -> Similarity:
    """``S_ij exp(scale S_ij) / sum_i exp(scale S_ij)``: scores times a softmax over the queries.

    Needs all test queries at once; it cannot use a bank. Does not serve from an index.
    Published setting: scale 100, for cosines.

    Its traps: n copies of a query share the probability of its items, so they lower each other's
    relevant results. A small weight *raises* a negative score. Weights below the smallest float
    become ties at 0.

    Parameters
    ----------
    scale : float, default 100
        Inverse temperature.

    References
    ----------
    Cheng, Lin, Wu, Yang, Shen: Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and
    Dual Softmax Loss, 2021, arXiv 2109.04290.
    """
    check_positive(scale=scale)
    columns = logsumexp(direction.scores, 1 / scale)[1]
    rows = columns.new_zeros(direction.scores.shape[0])
    return SoftmaxWeighted(direction.scores, scale, rows, columns)


class SoftmaxWeighted(Similarity):
    """``S_ij exp(scale S_ij - row_i - column_j)``: scores weighted by their own exponentials."""

    def __init__(
        self, base: Similarity, scale: float, row: torch.Tensor, column: torch.Tensor
    ) -> None:
        self.base, self.scale, self.row, self.column = base, scale, row, column
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device
        self.block_rows = base.block_rows

    def rows(self, start: int, stop: int) -> torch.Tensor:
        block = self.base.rows(start, stop)
        return block * (block * self.scale - self.row[start:stop, None] - self.column).exp_()

    @property
    def T(self) -> SoftmaxWeighted:
        return SoftmaxWeighted(self.base.T, self.scale, self.column, self.row)


METHOD = Method("dsl", "dual softmax", dual_softmax, bank=False, serves=False)
