"""Sinkhorn sums over scores that are recomputed block by block.

(f) is that of :mod:`emcl_plugin.ncl.sinkhorn`.
"""

from __future__ import annotations

import math

import torch

from emcl_plugin.scores import Similarity, ranges_in_cache


class BlockKernel:
    """Sweeps over recomputed blocks of scores, with one exponential per score.

    Exponentials are shifted so that the largest of every row is 1, summed along the row and then,
    weighted by exp(f), along the column. If a column's sum comes close to the smallest numbers of
    the dtype, the sweep is repeated in the log domain.
    """

    def __init__(
        self,
        source: Similarity,
        tau: float,
        log_a: torch.Tensor,
        rho: float,
        log_w: torch.Tensor,
    ) -> None:
        self.source, self.tau, self.log_a, self.rho, self.log_w = source, tau, log_a, rho, log_w
        self.floor = math.log(torch.finfo(source.dtype).tiny) * 2 / 3
        self.centre = torch.zeros(source.shape[1]).to(log_a)

    def absorb(self, g: torch.Tensor) -> None:
        """Do nothing: no kernel is stored."""

    def sweep(self, g: torch.Tensor, rho: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = self.rho if rho is None else rho
        return self.source.fitting(lambda: self._sweep(g, wanted))

    def _sweep(self, g: torch.Tensor, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
        source = self.source
        f = torch.empty_like(self.log_a)
        columns = torch.full_like(g, -math.inf)
        highest = columns.max()
        for start, stop, block in source.blocks():
            for first, last in ranges_in_cache(start, stop, len(g), source.dtype, source.device):
                p = torch.add(g, block[first - start : last - start], alpha=1 / self.tau)
                largest = p.amax(1)
                p.sub_(largest[:, None]).exp_()
                f[first:last] = rho * (self.log_a[first:last] - p.sum(1).log() - largest)  # (f)
                u = f[first:last] + self.log_w[first:last] + largest
                level = u.max()
                sums = torch.mv(p.T, (u - level).exp_()).log_().add_(level)
                columns = torch.logaddexp(columns, sums)
                highest = torch.maximum(highest, level)
        if bool(columns.min() - highest > self.floor):
            return f, columns - g
        return self._in_logarithms(g, rho)

    def _in_logarithms(self, g: torch.Tensor, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
        f = torch.empty_like(self.log_a)
        columns = torch.full_like(g, -math.inf)
        for start, stop, block in self.source.blocks():
            scaled = block / self.tau
            row_lse = torch.logsumexp(scaled + g, 1)
            f[start:stop] = rho * (self.log_a[start:stop] - row_lse)  # (f)
            counted = f[start:stop] + self.log_w[start:stop]
            columns = torch.logaddexp(columns, torch.logsumexp(scaled + counted[:, None], 0))
        return f, columns
