"""Sinkhorn-Knopp: NCL's equations and their iterations.

Source: Park et al., "Normalized Contrastive Learning for Text-Video Retrieval", EMNLP 2022,
arXiv 2212.11790. For scores S (n_t x n_v) and temperature tau find f, g such that

    P_ij = exp(S_ij / tau + f_i + g_j)   has row sums a_i and column sums b_j         (P)

by alternating, with relaxation rho in (0, 1] (1 is NCL; below 1 the marginals are softened,
as in semi-unbalanced transport):

    g_j = rho (log b_j - LSE_i(S_ij / tau + f_i))                                      (g)
    f_i = rho (log a_i - LSE_j(S_ij / tau + g_j))                                      (f)

The start is g = 0 and a first f, so f is always updated last. With rho = 1 every row then sums
to a_i exactly, and the remaining error is in the columns. (Updating g last would leave it in the
rows; at convergence both are the same.) The re-scored matrix is S + tau (f_i + g_j) =
tau log P_ij, in the units of S. Ranking videos for a text uses g alone, ranking texts for a
video uses f alone: one matrix serves both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from emcl_plugin.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from emcl_plugin.ncl.settings import NCL


@dataclass(frozen=True)
class Potentials:
    """Dimensionless f (n_text,) and g (n_video,), and how they were reached."""

    f: torch.Tensor
    g: torch.Tensor
    iterations: int
    error: float
    converged: bool


@dataclass(frozen=True)
class Reached:
    """State of a solve: all that further iterations depend on.

    Attributes
    ----------
    f : (n_text,)
    g, next_g : (n_video,)
        Potentials of the last iteration, and g of the next one.
    centre : (n_video,)
        Potentials around which the kernel was made.
    iterations : int
    error : float
    """

    f: torch.Tensor
    g: torch.Tensor
    next_g: torch.Tensor
    centre: torch.Tensor
    iterations: int
    error: float

    def to(self, device: torch.device) -> Reached:
        """Return the same state on this device."""
        names = ("f", "g", "next_g", "centre")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class Journal(Protocol):
    """Stores the state of a run's solves (:mod:`emcl_plugin.pipeline.checkpoint`)."""

    def begin(self, temperature: float, rho: float) -> Reached | None:
        """Return what an earlier run reached in the solve that begins now."""

    def keep(self, reached: Reached) -> None:
        """Store the state of this solve; called after every iteration."""


class Kernel(Protocol):
    """Reads the scores for the iterations; this folder has one file per implementation."""

    centre: torch.Tensor

    def absorb(self, g: torch.Tensor) -> None:
        """Rebuild the kernel around these video potentials."""

    def sweep(self, g: torch.Tensor, rho: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return f by (f), and LSE_i(S_ij / tau + f_i) with that f, reading the scores once.

        A text of weight w_i counts as w_i texts: log w_i is added to its terms of the latter.
        """


def sinkhorn(
    kernel: Kernel,
    log_b: torch.Tensor,
    config: NCL,
    start: torch.Tensor,
    *,
    without: Without | None = None,
    reached: Reached | None = None,
    after: Callable[[Reached], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Potentials:
    """Alternate (g) and (f), from ``start`` or what is ``reached``, until column sums are right.

    ``after`` is called with the state after every iteration.
    """

    def sweep(g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, column_lse = kernel.sweep(g)  # (f)
        return f, column_lse if without is None else without(f, column_lse)

    if reached is None:
        g, done, error = start, 0, math.inf
        f, column_lse = sweep(g)
        next_g = config.rho * (log_b - column_lse)  # (g)
    else:
        f, g, next_g = reached.f, reached.g, reached.next_g
        done, error = reached.iterations, reached.error
        kernel.absorb(reached.centre)
    while done < config.iterations and not error <= config.tolerance:
        g, done = next_g, done + 1
        f, column_lse = sweep(g)  # (f)
        next_g = config.rho * (log_b - column_lse)  # (g)
        # with rho = 1 this is max_j |sum_i P_ij / b_j - 1|
        worst = group.max(torch.expm1(g - next_g).abs().max())  # one decision for all processes
        error = float(worst.clamp(max=torch.finfo(worst.dtype).max))
        if after is not None:
            after(Reached(f, g, next_g, kernel.centre, done, error))
    return Potentials(f, g, done, error, error <= config.tolerance)


@dataclass(frozen=True)
class Without:
    """Leaves one pair per text out of the column sums (leave-best-out run).

    Attributes
    ----------
    video : (n_text,) int
    exponent : (n_text,)
        S_ij / tau + log w_i of that pair.
    """

    video: torch.Tensor
    exponent: torch.Tensor

    def __call__(self, f: torch.Tensor, column_lse: torch.Tensor) -> torch.Tensor:
        shares = (self.exponent + f - column_lse[self.video]).exp()
        taken = torch.zeros_like(column_lse).index_add_(0, self.video, shares)
        return column_lse + (1 - taken).clamp(min=1e-5).log()  # below is rounding
