"""NCL's biases of a similarity source: the problem, its solution and the result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from emcl_plugin._internal import renamed
from emcl_plugin._internal.progress import Progress
from emcl_plugin._internal.warn import warn
from emcl_plugin.errors import ConvergenceWarning, InputValueError, ScaleWarning
from emcl_plugin.ncl.kernels import kernel_for
from emcl_plugin.ncl.marginals import log_marginals
from emcl_plugin.ncl.pot import solve_with_pot
from emcl_plugin.ncl.settings import NCL
from emcl_plugin.ncl.sinkhorn import Journal, Reached, Without, sinkhorn
from emcl_plugin.scores import Similarity
from emcl_plugin.scores.reductions import moments


@renamed.field("rounds", "iterations")
@dataclass(frozen=True)
class Biases:
    """Biases found by Sinkhorn-Knopp, in the units of the scores.

    Attributes
    ----------
    text : (n_text,)
        tau f, added to the rows.
    video : (n_video,)
        tau g, added to the columns. Mean 0; hubs have the lowest.
    temperature : float
        tau.
    iterations : int
        Iterations run.
    error : float
        Largest relative error of a column sum; with rho < 1 the largest relative change that
        one more iteration would make.
    converged : bool
        Whether ``error`` is within the tolerance.
    solver : str
        "stored", "blocks", "fused", "candidates" or "pot".
    """

    text: torch.Tensor
    video: torch.Tensor
    temperature: float
    iterations: int
    error: float
    converged: bool
    solver: str

    def apply(self, source: Similarity) -> Similarity:
        """Return the re-scored source, S + tau (f_i + g_j)."""
        return source.biased(self.text, self.video)

    def scaled(self, strength: float) -> Biases:
        """Return these biases times ``strength``."""
        return replace(self, text=strength * self.text, video=strength * self.video)


def fit_biases(
    source: Similarity,
    config: NCL | None = None,
    *,
    std: float | None = None,
    weights: torch.Tensor | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Biases:
    """Return the Sinkhorn-Knopp biases of a similarity source.

    Parameters
    ----------
    source : Similarity, (n_text, n_video)
        At least two texts and two videos, not all scores equal.
    config : NCL, optional
    std : float, optional
        Standard deviation of the scores, if already known.
    weights : (n_text,), optional
        How many texts each text counts as in the column sums; default 1. k copies of a text
        with weight 1 / k give the same biases as one.
    memory : int, optional
        Memory budget in bytes; larger kernels are recomputed. Default 4 GiB.
    progress : callable, optional
        Called with ("sinkhorn", iteration, iterations).

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached.
    ScaleWarning
        If a given temperature is far out of proportion to the scores.

    Examples
    --------
    >>> from emcl_plugin.scores import Dense
    >>> scores = torch.tensor([[0.9, 0.5], [0.8, 0.7]])  # video 0 is a hub
    >>> rescored = fit_biases(Dense(scores)).apply(Dense(scores)).dense()
    >>> rescored.argmax(1).tolist()
    [0, 1]
    """
    return Problem(source, config, std=std, weights=weights, memory=memory).solve(progress=progress)


class Problem:
    """Sinkhorn problem: scores, temperature, marginals, and the kernel that solves it.

    Parameters are those of :func:`fit_biases`.

    Attributes
    ----------
    tau : float
        The temperature in the units of the scores.
    log_a, log_b : (n_text,), (n_video,)
        Logarithms of the marginals.
    """

    def __init__(
        self,
        source: Similarity,
        config: NCL | None = None,
        *,
        std: float | None = None,
        weights: torch.Tensor | None = None,
        memory: int | None = None,
    ) -> None:
        self.source = source
        self.config = config = config or NCL()
        n_text, n_video = source.shape
        if min(n_text, n_video) < 2:
            raise InputValueError(
                "normalisation needs at least two texts and two videos",
                f"{n_text} texts x {n_video} videos",
                "collect more queries, or switch NCL off (ncl=None)",
            )
        spread = moments(source, weights).std if std is None else std
        if spread == 0:
            raise InputValueError(
                "all scores are equal, so there is nothing to rank",
                "a standard deviation of 0",
                "check how the features or scores were made",
            )
        self.spread = spread
        self.tau = tau = config.resolve_temperature(spread)
        limits = torch.finfo(source.dtype)
        if not limits.tiny <= tau <= limits.max:
            raise self._out_of_range()
        absolute = config.temperature is not None or config.logit_scale is not None
        if absolute and not 0.02 <= tau / spread <= 100:
            warn(
                f"the temperature {tau:.4g} is {tau / spread:.3g} standard deviations of the "
                f"scores ({spread:.4g}); are the scores scaled by a logit scale? Leave the "
                "temperature out to have it follow the scores",
                ScaleWarning,
            )
        self.log_a, self.log_b = log_marginals(config, source, weights)
        self.log_w = (
            torch.zeros_like(self.log_a) if weights is None else weights.to(self.log_a).log()
        )
        self.solver, self.kernel = kernel_for(
            source, config, tau, self.log_a, self.log_w, memory=memory
        )

    def log_masses(self, video_bias: torch.Tensor) -> torch.Tensor:
        """Return log sum_i P_ij, (n_video,), for these video biases.

        The text biases are those that give every text its marginal.
        """
        g = video_bias / self.tau
        masses = g + self.kernel.sweep(g, 1.0)[1]
        if not bool(torch.isfinite(masses).all()):
            raise self._out_of_range()
        return masses

    def solve(
        self,
        *,
        log_b: torch.Tensor | None = None,
        start: torch.Tensor | None = None,
        own: tuple[torch.Tensor, torch.Tensor] | None = None,
        progress: Progress | None = None,
        journal: Journal | None = None,
    ) -> Biases:
        """Return the biases.

        Parameters
        ----------
        log_b : (n_video,), optional
            Replaces the marginal.
        start : (n_video,), optional
            First video biases.
        own : (best video, its score) of every text, both (n_text,), optional
            Pairs to leave out of the column sums.
        progress : callable, optional
        journal : Journal, optional
            Checkpoint to resume from and to write every iteration to; unused by POT.
        """
        log_b = self.log_b if log_b is None else log_b
        tau, config = self.tau, self.config
        if self.solver == "pot":
            found = solve_with_pot(self.source, tau, self.log_a + self.log_w, log_b, config)
            found = replace(found, f=found.f - self.log_w)
        else:
            found = sinkhorn(
                self.kernel,
                log_b,
                config,
                torch.zeros_like(log_b) if start is None else start / tau,
                without=None if own is None else Without(own[0], own[1] / tau + self.log_w),
                reached=None if journal is None else journal.begin(tau, config.rho),
                after=partial(_after, journal, progress, config.iterations),
                group=self.source.group,
            )
        shift = found.g.mean()
        text, video = tau * (found.f + shift), tau * (found.g - shift)
        if not bool(torch.isfinite(text).all() & torch.isfinite(video).all()):
            raise self._out_of_range()
        if not found.converged:
            warn(
                f"Sinkhorn-Knopp stopped after {found.iterations} iterations with a largest "
                f"relative error of {found.error:.3g} of a column sum (tolerance "
                f"{config.tolerance:g}); "
                "allow more iterations or a higher temperature",
                ConvergenceWarning,
            )
        return Biases(
            text=text,
            video=video,
            temperature=tau,
            iterations=found.iterations,
            error=found.error,
            converged=found.converged,
            solver=self.solver,
        )

    def _out_of_range(self) -> InputValueError:
        dtype, solver = str(self.source.dtype)[6:], self.config.solver
        return InputValueError(
            f"at this temperature the normalisation leaves the range of {dtype}",
            f"a temperature of {self.tau:.4g}, scores of standard deviation {self.spread:.4g}",
            "leave the temperature out, or pass scores of an ordinary size"
            + (', or leave solver="pot" out' if solver == "pot" else ""),
        )


def _after(journal: Journal | None, progress: Progress | None, most: int, reached: Reached) -> None:
    """Store and report the state after an iteration."""
    if journal is not None:
        journal.keep(reached)
    if progress is not None:
        progress("sinkhorn", reached.iterations, most)
