"""Sinkhorn-Knopp: NCL's equations, and the iterations that solve them.

Source: Park et al., "Normalized Contrastive Learning for Text-Video Retrieval", EMNLP 2022,
arXiv 2212.11790. For scores S (n_t x n_v) and temperature tau find f, g such that

    P_ij = exp(S_ij / tau + f_i + g_j)   has row sums a_i and column sums b_j         (P)

by alternating, with relaxation rho in (0, 1] (1 is NCL; below 1 the marginals are softened,
as in semi-unbalanced transport):

    g_j = rho (log b_j - LSE_i(S_ij / tau + f_i))                                      (g)
    f_i = rho (log a_i - LSE_j(S_ij / tau + g_j))                                      (f)

The start is g = 0 and a first f, so f is always updated last: with rho = 1 every row sums to
a_i exactly and the error that is left is in the columns. (Updating g last would leave it in
the rows; at convergence the two are the same.) The re-scored matrix is S + tau (f_i + g_j) =
tau log P_ij, in the units of S. Ranking videos for a text uses g alone, ranking texts for a
video uses f alone: one matrix serves both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from emcl_plugin._internal.progress import Progress
from emcl_plugin.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from emcl_plugin.ncl.settings import NCL


@dataclass(frozen=True)
class Potentials:
    """f (n_text,), g (n_video,), without unit, and how they were reached."""

    f: torch.Tensor
    g: torch.Tensor
    iterations: int
    error: float
    converged: bool


@dataclass(frozen=True)
class Reached:
    """All that the iterations to come depend on.

    Attributes
    ----------
    f : (n_text,)
    g, next_g : (n_video,)
        The potentials of the last iteration, and g of the next one.
    centre : (n_video,)
        The potentials that the kernel was made around.
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
        """The same on this device."""
        names = ("f", "g", "next_g", "centre")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class Journal(Protocol):
    """Keeps what a run's solves have reached (:mod:`emcl_plugin.pipeline.checkpoint`)."""

    def begin(self, temperature: float, rho: float) -> Reached | None:
        """What an earlier run reached in the solve that begins now."""

    def keep(self, reached: Reached) -> None:
        """What this solve has reached, after every iteration."""


class Kernel(Protocol):
    """What reads the scores for the iterations; each way of doing so is a file of this room."""

    centre: torch.Tensor

    def absorb(self, g: torch.Tensor) -> None:
        """Be made around these video potentials."""

    def sweep(self, g: torch.Tensor, rho: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """f from g by (f), and LSE_i(S_ij / tau + f_i) with that f, reading the scores once.

        A text of weight w_i counts as w_i texts: it adds log w_i to its terms of the latter.
        """


def sinkhorn(
    kernel: Kernel,
    log_b: torch.Tensor,
    config: NCL,
    progress: Progress | None = None,
    start: torch.Tensor | None = None,
    without: Without | None = None,
    reached: Reached | None = None,
    keep: Callable[[Reached], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Potentials:
    """Alternate (g) and (f) until the column sums are right, from the start or what is reached."""

    def sweep(g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, column_lse = kernel.sweep(g)
        return f, column_lse if without is None else without(f, column_lse)

    if reached is None:
        g = torch.zeros_like(log_b) if start is None else start
        f, column_lse = sweep(g)
        next_g = config.rho * (log_b - column_lse)  # (g)
        done, error = 0, math.inf
    else:
        f, g, next_g, done, error = (
            reached.f, reached.g, reached.next_g, reached.iterations, reached.error
        )  # fmt: skip
        kernel.absorb(reached.centre)
    while done < config.iterations and not error <= config.tolerance:
        g, done = next_g, done + 1
        f, column_lse = sweep(g)  # (f)
        next_g = config.rho * (log_b - column_lse)  # (g)
        # with rho = 1 this is max_j |sum_i P_ij / b_j - 1|
        worst = group.max(torch.expm1(g - next_g).abs().max())  # one decision for all processes
        error = float(worst.clamp(max=torch.finfo(worst.dtype).max))
        if keep is not None:
            keep(Reached(f, g, next_g, kernel.centre, done, error))
        if progress is not None:
            progress("sinkhorn", done, config.iterations)
    return Potentials(f, g, done, error, error <= config.tolerance)


@dataclass(frozen=True)
class Without:
    """Takes one pair per text out of the columns' sums.

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
        return column_lse + (1 - taken).clamp(min=1e-5).log()  # less is lost in rounding
