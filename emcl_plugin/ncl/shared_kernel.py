"""Sinkhorn sums of several processes, each over its own texts."""

from __future__ import annotations

import torch

from emcl_plugin.distributed.process_group import ProcessGroup
from emcl_plugin.ncl.sinkhorn import Kernel


class SharedKernel:
    """Combines the sweeps of several processes, each over its own texts."""

    def __init__(self, own: Kernel, group: ProcessGroup, n_text: int) -> None:
        self.own, self.group, self.n_text = own, group, n_text
        self.centre = own.centre

    def absorb(self, g: torch.Tensor) -> None:
        self.own.absorb(g)
        self.centre = self.own.centre

    def sweep(self, g: torch.Tensor, rho: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        f, columns = self.own.sweep(g, rho)
        count, (first, last) = self.group.size, self.group.part(self.n_text)
        every = torch.zeros(self.n_text + count * len(g) + 1).to(f)  # f, columns of each, moved
        every[first:last] = f
        every[self.n_text : -1].view(count, -1)[self.group.rank] = columns
        every[-1] = float(self.own.centre is not self.centre)
        every = self.group.sum(every)  # one exchange: what counts is how many there are
        if every[-1] > 0:  # around the same potentials in every process
            self.absorb(g)
        columns = torch.logsumexp(every[self.n_text : -1].view(count, -1), 0)
        return every[: self.n_text], columns
