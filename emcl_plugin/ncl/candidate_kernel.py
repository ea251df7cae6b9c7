"""Sinkhorn sums over candidates and over samples that represent all other pairs.

(f) is that of :mod:`emcl_plugin.ncl.sinkhorn`, (s) that of
:mod:`emcl_plugin.scores.candidates.sampled_complement`.
"""

from __future__ import annotations

import math

import torch

from emcl_plugin.ncl.stored_kernel import StoredKernel
from emcl_plugin.scores.candidates import Candidates


class CandidateKernel(StoredKernel):
    """Sweeps over a sparse K of candidates, and samples that represent all other pairs, (s)."""

    def __init__(
        self,
        source: Candidates,
        tau: float,
        log_a: torch.Tensor,
        rho: float,
        log_w: torch.Tensor,
    ) -> None:
        self.pairs, self.scaled, self.tau = source.pairs, source.values / tau, tau
        self.log_a, self.rho, self.log_w = log_a, rho, log_w
        self.of_texts, self.of_videos = source.complement, source.T.complement
        self.floor = torch.finfo(source.dtype).tiny ** (2 / 3)
        self._absorb(torch.zeros(source.shape[1]).to(log_a))

    def _attempt(self, g: torch.Tensor, rho: float) -> tuple[torch.Tensor, torch.Tensor] | None:
        v = g - self.g0
        v_level = v.max()
        v = (v - v_level).exp()
        sums = torch.mv(self.kernel, v) + torch.mv(self.rest, v[self.of_texts.chosen])
        f = rho * (self.log_a - (sums.log() + v_level - self.f0))  # (f)
        u = f + self.log_w - self.f0
        u_level = u.max()
        u = (u - u_level).exp()
        columns = torch.mv(self.turned, u) + torch.mv(self.rest_turned, u[self.of_videos.chosen])
        lowest = torch.minimum(sums.min(), columns.min())
        if not bool((lowest > self.floor) & torch.isfinite(columns.sum())):
            return None
        return f, columns.log() + u_level - self.g0

    def _absorb(self, g: torch.Tensor) -> None:
        self.centre = g
        text, video = self.pairs.text, self.pairs.video
        exponent = self.scaled + g[video]
        self.f0 = -_largest(exponent, text, len(self.log_a))
        exponent += self.f0[text]
        columns = _largest(exponent, video, len(g))
        self.g0 = g - columns
        self.kernel, self.turned = self.pairs.matrices((exponent - columns[video]).exp())
        f0, g0 = self.f0, self.g0
        rest, turned = self.of_texts, self.of_videos
        rows = rest.scores / self.tau + (f0 + rest.log_share)[:, None] + g0[rest.chosen]
        self.rest = rows.exp_()
        rows = turned.scores / self.tau + (g0 + turned.log_share)[:, None] + f0[turned.chosen]
        self.rest_turned = rows.exp_()

    def _in_logarithms(self, g: torch.Tensor, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
        text, video = self.pairs.text, self.pairs.video
        row_lse = _log_sums(self.scaled + g[video], text, len(self.log_a))
        row_lse = torch.logaddexp(row_lse, self.of_texts.log_sums(g, self.tau))
        f = rho * (self.log_a - row_lse)  # (f)
        counted = f + self.log_w
        columns = _log_sums(self.scaled + counted[text], video, len(g))
        return f, torch.logaddexp(columns, self.of_videos.log_sums(counted, self.tau))


def _largest(values: torch.Tensor, group: torch.Tensor, count: int) -> torch.Tensor:
    """Return the largest value of every group, (count,)."""
    return torch.full((count,), -math.inf).to(values).scatter_reduce_(0, group, values, "amax")


def _log_sums(values: torch.Tensor, group: torch.Tensor, count: int) -> torch.Tensor:
    """Return log sum exp of every group, (count,)."""
    largest = _largest(values, group, count)
    sums = torch.zeros_like(largest).index_add_(0, group, (values - largest[group]).exp())
    return sums.log() + largest
