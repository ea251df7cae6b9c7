"""Sinkhorn sums from a stored kernel.

(f) is that of :mod:`emcl_plugin.ncl.sinkhorn`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from emcl_plugin.ncl.block_kernel import BlockKernel
from emcl_plugin.scores import Similarity, ranges_in_cache


class StoredKernel:
    """Matrix-vector sweeps over a stored K_ij = exp(S_ij / tau + f0_i + g0_j).

    The shifts f0 and g0 make the largest entry of every row and column 1 for the current
    potentials, so nothing overflows. If sums come close to the smallest numbers of the dtype,
    the kernel is rebuilt around the current potentials (absorption). If that does not help, as
    with extreme temperatures and rho < 1, the sweep runs in the log domain. A kernel in a
    narrower ``dtype`` is widened part by part.
    """

    def __init__(
        self,
        source: Similarity,
        tau: float,
        log_a: torch.Tensor,
        rho: float,
        log_w: torch.Tensor,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.source, self.tau, self.log_a, self.rho, self.log_w = source, tau, log_a, rho, log_w
        dtype = source.dtype if dtype is None else dtype
        self.floor = torch.finfo(dtype).tiny ** (2 / 3)
        self.kernel = torch.empty(source.shape, dtype=dtype, device=source.device)
        self._absorb(torch.zeros(source.shape[1]).to(log_a))

    def sweep(self, g: torch.Tensor, rho: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        rho = self.rho if rho is None else rho
        found = self._attempt(g, rho)
        if found is None:
            self._absorb(g)
            found = self._attempt(g, rho)
        if found is None:
            found = self._in_logarithms(g, rho)
        return found

    def absorb(self, g: torch.Tensor) -> None:
        if not torch.equal(g, self.centre):
            self._absorb(g)

    def _in_logarithms(self, g: torch.Tensor, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = BlockKernel(self.source, self.tau, self.log_a, self.rho, self.log_w)
        return blocks.sweep(g, rho)

    def _attempt(self, g: torch.Tensor, rho: float) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return f and the columns' log-sum-exp, or None if they cannot be trusted."""
        v = g - self.g0
        v_level = v.max()
        v = (v - v_level).exp()
        sums = torch.empty_like(self.log_a)
        columns = torch.zeros_like(v)
        # u_i = exp(f_i + log w_i - f0_i) = shares_i sums_i^-rho
        shares = rho * (self.log_a - v_level + self.f0) + self.log_w - self.f0
        u_level = shares.max()
        shares = (shares - u_level).exp()
        for first, last, block in self._read():
            here = torch.mv(block, v, out=sums[first:last])
            columns.addmv_(block.T, here.pow(-rho).mul_(shares[first:last]))
        lowest = torch.minimum(sums.min(), columns.min())
        if not bool((lowest > self.floor) & torch.isfinite(columns.sum())):
            return None
        f = rho * (self.log_a - (sums.log() + v_level - self.f0))  # (f)
        return f, columns.log() + u_level - self.g0

    def _read(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield K in parts, in the dtype of the scores; each is valid until the next."""
        room = None
        for first, last in self._parts(0, len(self.log_a)):
            block = self.kernel[first:last]
            if not self._wide:
                room = torch.empty_like(block, dtype=self.source.dtype) if room is None else room
                block = room[: last - first].copy_(block)
            yield first, last, block

    def _absorb(self, g: torch.Tensor) -> None:
        """Build K around g: shifts from the maxima of S / tau + g, then one exponential."""
        n_text, n_video = self.source.shape
        self.centre = g
        self.f0 = torch.empty(n_text).to(g)
        columns = torch.full((n_video,), -math.inf).to(g)
        for first, last, out in self._scaled(g):
            largest = out.amax(1)
            out -= largest[:, None]
            self.f0[first:last] = -largest
            columns = torch.maximum(columns, out.amax(0))
        self.g0 = g - columns
        if self._wide:
            for first, last in self._parts(0, n_text):
                self.kernel[first:last].sub_(columns).exp_()
            return
        for first, last, out in self._scaled(g):
            out += self.f0[first:last, None]
            self.kernel[first:last] = out.sub_(columns).exp_()

    @property
    def _wide(self) -> bool:
        """Whether the kernel's memory can hold exponents."""
        return self.kernel.dtype == self.source.dtype

    def _scaled(self, g: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield writable parts of S / tau + g, in the kernel's memory if it is wide enough."""
        for start, stop, block in self.source.blocks():
            for first, last in self._parts(start, stop):
                out = self.kernel[first:last] if self._wide else None
                out = torch.div(block[first - start : last - start], self.tau, out=out)
                yield first, last, out.add_(g)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        columns = self.source.shape[1]
        return ranges_in_cache(start, stop, columns, self.source.dtype, self.source.device)
