"""NCL: one bias per text and per video by Sinkhorn-Knopp, so that no item is a hub.

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
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from emcl_plugin.candidates import Candidates
from emcl_plugin.errors import (
    ConvergenceWarning,
    InputTypeError,
    InputValueError,
    ScaleWarning,
)
from emcl_plugin.plan import kernel_fits
from emcl_plugin.reductions import moments
from emcl_plugin.similarity import OutOfMemory, Rows, Similarity, ranges_in_cache
from emcl_plugin.sizes import DEFAULT_MEMORY
from emcl_plugin.world import ALONE, World

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class NCL:
    """Settings of NCL. The defaults are free of scale: they fit any encoder's scores.

    Parameters
    ----------
    temperature : float, optional
        tau, in the units of the scores. Default: ``temperature_std`` times the standard
        deviation of all scores. A fixed tau does not carry over from one encoder to another.
    logit_scale : float, optional
        The same as ``temperature = 1 / logit_scale`` (CLIP models speak of the logit scale).
    temperature_std : float, default 0.15
        Within a point of the best temperature on each of 34 real sets.
    rounds : int, default 200
        At most this many; most sets need 15 to 80.
    tolerance : float, default 0.1
        Stop when no column sum is further than this, relatively, from its marginal. A tenth
        moves a score by 0.1 tau = 0.015 standard deviations at most, too little to matter.
    rho : float, default 1
        Relaxation of both updates; smaller is gentler.
    text_marginal, video_marginal : array of positive numbers, optional
        Mass that each text and each video should get. Default: uniform, 1 per text and
        n_text / n_video per video; the video marginal is rescaled to the texts' total.
    solver : {"auto", "stored", "blocks", "pot"}
        "stored" exponentiates once and iterates matrix-vector products, "blocks" recomputes
        the scores block by block in the log domain, "pot" calls POT's ``sinkhorn_log``.
        "auto" stores where the kernel fits into the memory budget. Where a GPU's memory does not
        hold the kernel after all, it is "blocks".
    storage : {"scores", "bfloat16"}
        Numbers of a stored kernel: those of the scores, float32 mostly, or bfloat16, which takes
        half of that memory, so that scores need not be recomputed until there are twice as many.
        It is for memory: a round takes about as long. Every entry is then off by at most
        2^-8 of itself. Sums are made in the dtype of the scores, so that the result is exactly
        that of scores which differ from the given ones by at most 0.004 tau (0.0006 standard
        deviations by default): of its row and column sums each is off by at most 0.4 %, where
        ``tolerance`` allows 10, and one update changes a bias by 0.004 tau at most. Most of it
        averages out, as an entry is as likely rounded up as down.
    products : {"scores", "bfloat16"}
        Numbers in which vectors are multiplied where scores are recomputed in every round: their
        own, or bfloat16 where the device is faster with it. A score of unit vectors is then off
        by at most 0.006 (3 roundings of 2^-9; ten times less is usual), at random, in Sinkhorn's
        sums alone: the scores that are returned are exact but for their biases.

    Examples
    --------
    >>> NCL(logit_scale=100.0).resolve_temperature(std=0.05)
    0.01
    """

    temperature: float | None = None
    logit_scale: float | None = None
    temperature_std: float = 0.15
    rounds: int = 200
    tolerance: float = 0.1
    rho: float = 1.0
    text_marginal: Sequence[float] | np.ndarray[Any, Any] | torch.Tensor | None = None
    video_marginal: Sequence[float] | np.ndarray[Any, Any] | torch.Tensor | None = None
    solver: str = "auto"
    storage: str = "scores"
    products: str = "scores"

    def __post_init__(self) -> None:
        for name in ("temperature", "logit_scale", "temperature_std"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputValueError(
                    f"the {name.replace('_', ' ')} must be a positive number",
                    f"{name}={value}",
                    "leave it out for 0.15 standard deviations of the scores",
                )
        if self.temperature is not None and self.logit_scale is not None:
            raise InputValueError(
                "NCL takes a temperature or a logit scale, not both",
                f"temperature={self.temperature}, logit_scale={self.logit_scale}",
                "keep one (temperature = 1 / logit_scale)",
            )
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise InputValueError(
                "NCL needs at least one round, and a whole number of them",
                f"rounds={self.rounds}",
                "leave it out for 200",
            )
        if not 0 <= self.tolerance < math.inf:
            raise InputValueError(
                "the tolerance must be finite and not negative",
                f"tolerance={self.tolerance}",
                "0.1 is usual",
            )
        if not 0 < self.rho <= 1:
            raise InputValueError(
                "rho must be above 0 and at most 1", f"rho={self.rho}", "1 is NCL, 0.8 is gentle"
            )
        if self.solver not in ("auto", "stored", "blocks", "pot"):
            raise InputValueError(
                "this solver is not known", f"solver={self.solver!r}", "auto, stored, blocks, pot"
            )
        if self.storage not in ("scores", "bfloat16"):
            raise InputValueError(
                "a kernel cannot be stored like this",
                f"storage={self.storage!r}",
                "scores (in their own dtype) or bfloat16",
            )
        if self.products not in ("scores", "bfloat16"):
            raise InputValueError(
                "vectors cannot be multiplied like this",
                f"products={self.products!r}",
                "scores (in their own dtype) or bfloat16",
            )
        if self.storage != "scores" and self.solver not in ("auto", "stored"):
            raise InputValueError(
                f'solver="{self.solver}" stores no kernel',
                f"storage={self.storage!r}",
                "use another solver, or leave storage out",
            )
        if self.solver == "pot" and self.rho != 1:
            raise InputValueError(
                'solver="pot" has no relaxation', f"rho={self.rho}", "use another solver or rho=1"
            )

    def kernel_dtype(self, scores: torch.dtype) -> torch.dtype:
        """In what a kernel of scores of this dtype is stored."""
        return torch.bfloat16 if self.storage == "bfloat16" else scores

    def resolve_temperature(self, std: float) -> float:
        """tau for scores of this standard deviation, in their units."""
        if self.logit_scale is not None:
            return 1.0 / self.logit_scale
        if self.temperature is not None:
            return self.temperature
        return self.temperature_std * std


@dataclass(frozen=True)
class Biases:
    """What Sinkhorn-Knopp found, in the units of the scores.

    Attributes
    ----------
    text : (n_text,)
        tau f: added to a text's row.
    video : (n_video,)
        tau g: added to a video's column; its mean is 0, hubs have the lowest.
    temperature : float
        tau.
    rounds : int
        Rounds run.
    error : float
        Largest relative error of a column sum (with rho < 1: the largest relative change that
        one more round would make).
    converged : bool
        Whether ``error`` is within the tolerance.
    solver : str
        "stored", "blocks" or "pot".
    """

    text: torch.Tensor
    video: torch.Tensor
    temperature: float
    rounds: int
    error: float
    converged: bool
    solver: str

    def apply(self, source: Similarity) -> Similarity:
        """The re-scored source, S + tau (f_i + g_j)."""
        return source.biased(self.text, self.video)

    def scaled(self, strength: float) -> Biases:
        """These biases times ``strength``."""
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
    """Sinkhorn-Knopp biases of a similarity source.

    Parameters
    ----------
    source : Similarity, (n_text, n_video)
        At least two texts and two videos, not all scores equal.
    config : NCL, optional
    std : float, optional
        Standard deviation of the scores where it is already known.
    weights : (n_text,), optional
        As how many texts each text counts in the columns' sums; default 1. A text that is there
        k times with weight 1 / k gets and gives what it would alone.
    memory : int, optional
        Bytes that a stored kernel may take; beyond it scores are recomputed. Default 4 GiB.
    progress : callable, optional
        Called with ("sinkhorn", round, rounds).

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached.
    ScaleWarning
        If a given temperature is far out of proportion to the scores.

    Examples
    --------
    >>> from emcl_plugin.similarity import Dense
    >>> scores = torch.tensor([[0.9, 0.5], [0.8, 0.7]])  # video 0 is everybody's best
    >>> rescored = fit_biases(Dense(scores)).apply(Dense(scores)).dense()
    >>> rescored.argmax(1).tolist()
    [0, 1]
    """
    return Problem(source, config, std=std, weights=weights, memory=memory).solve(progress=progress)


class Problem:
    """Scores, temperature and marginals: what is to be solved, and its kernel.

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
        first, last = source.own
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
            warnings.warn(
                f"the temperature {tau:.4g} is {tau / spread:.3g} standard deviations of the "
                f"scores ({spread:.4g}); are the scores scaled by a logit scale? Leave the "
                "temperature out to have it follow the scores",
                ScaleWarning,
                stacklevel=3,
            )
        self.log_a, self.log_b = _log_marginals(config, source, weights)
        self.log_w = (
            torch.zeros_like(self.log_a) if weights is None else weights.to(self.log_a).log()
        )
        self.solver = config.solver
        if self.solver == "auto":
            budget = DEFAULT_MEMORY if memory is None else memory
            dtype = config.kernel_dtype(source.dtype)
            fits = kernel_fits((last - first, n_video), dtype, budget)
            self.solver = "stored" if fits else "blocks"
        given = tau, self.log_a[first:last], config.rho, self.log_w[first:last]
        own = source if source.world.size == 1 else Rows(source)
        self.kernel: _Kernel
        if isinstance(source, Candidates):
            self.solver, self.kernel = "candidates", CandidateKernel(source, *given)
        else:
            stored = None
            if self.solver == "stored":
                stored = _stored_kernel(own, *given, config.kernel_dtype(source.dtype))
                self.solver = "blocks" if stored is None else "stored"
            if stored is None and config.products == "bfloat16":
                own = own.rough()
            self.kernel = stored or BlockKernel(own, *given)
        if source.world.size > 1:
            self.kernel = SharedKernel(self.kernel, source.world, n_text)

    def log_masses(self, video_bias: torch.Tensor) -> torch.Tensor:
        """log sum_i P_ij of every video, (n_video,), where its biases are given.

        The text biases are then those that give every text its marginal.
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
        """The biases.

        Parameters
        ----------
        log_b : (n_video,), optional
            In place of the marginal.
        start : (n_video,), optional
            First video biases.
        own : (best video, its score) of every text, both (n_text,), optional
            Leave these pairs out of the columns' sums.
        progress : callable, optional
        journal : Journal, optional
            Where to go on from, and where every round is kept. POT keeps none.
        """
        log_b = self.log_b if log_b is None else log_b
        tau, config = self.tau, self.config
        if self.solver == "pot":
            found = _pot(self.source, tau, self.log_a + self.log_w, log_b, config)
            found = replace(found, f=found.f - self.log_w)
        else:
            g = torch.zeros_like(log_b) if start is None else start / tau
            without = None
            if own is not None:
                without = Without(own[0], own[1] / tau + self.log_w)
            world = self.source.world
            reached = None if journal is None else journal.begin(tau, config.rho)
            keep = None if journal is None else journal.keep
            found = sinkhorn(self.kernel, log_b, config, progress, g, without, reached, keep, world)
        shift = found.g.mean()
        text, video = tau * (found.f + shift), tau * (found.g - shift)
        if not bool(torch.isfinite(text).all() & torch.isfinite(video).all()):
            raise self._out_of_range()
        if not found.converged:
            warnings.warn(
                f"Sinkhorn-Knopp stopped after {found.rounds} rounds with a largest relative "
                f"error of {found.error:.3g} of a column sum (tolerance {config.tolerance:g}); "
                "allow more rounds or a higher temperature",
                ConvergenceWarning,
                stacklevel=3,
            )
        return Biases(
            text=text,
            video=video,
            temperature=tau,
            rounds=found.rounds,
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


# --- the algorithm, once -----------------------------------------------------------------


@dataclass(frozen=True)
class Potentials:
    """f (n_text,), g (n_video,), without unit, and how they were reached."""

    f: torch.Tensor
    g: torch.Tensor
    rounds: int
    error: float
    converged: bool


@dataclass(frozen=True)
class Reached:
    """All that the rounds to come depend on.

    Attributes
    ----------
    f : (n_text,)
    g, next_g : (n_video,)
        The potentials of the last round, and g of the next one.
    centre : (n_video,)
        The potentials that the kernel was made around.
    rounds : int
    error : float
    """

    f: torch.Tensor
    g: torch.Tensor
    next_g: torch.Tensor
    centre: torch.Tensor
    rounds: int
    error: float

    def to(self, device: torch.device) -> Reached:
        """The same on this device."""
        names = ("f", "g", "next_g", "centre")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class Journal(Protocol):
    """Keeps what a run's solves have reached: :class:`emcl_plugin.checkpoint.Checkpoint`."""

    def begin(self, temperature: float, rho: float) -> Reached | None:
        """What an earlier run reached in the solve that begins now."""

    def keep(self, reached: Reached) -> None:
        """What this solve has reached, after every round."""


class _Kernel(Protocol):
    centre: torch.Tensor

    def absorb(self, g: torch.Tensor) -> None:
        """Be made around these video potentials."""

    def sweep(self, g: torch.Tensor, rho: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """f from g by (f), and LSE_i(S_ij / tau + f_i) with that f, reading the scores once.

        A text of weight w_i counts as w_i texts: it adds log w_i to its terms of the latter.
        """


def sinkhorn(
    kernel: _Kernel,
    log_b: torch.Tensor,
    config: NCL,
    progress: Progress | None = None,
    start: torch.Tensor | None = None,
    without: Without | None = None,
    reached: Reached | None = None,
    keep: Callable[[Reached], None] | None = None,
    world: World = ALONE,
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
            reached.f, reached.g, reached.next_g, reached.rounds, reached.error
        )  # fmt: skip
        kernel.absorb(reached.centre)
    while done < config.rounds and not error <= config.tolerance:
        g, done = next_g, done + 1
        f, column_lse = sweep(g)  # (f)
        next_g = config.rho * (log_b - column_lse)  # (g)
        # with rho = 1 this is max_j |sum_i P_ij / b_j - 1|
        worst = world.max(torch.expm1(g - next_g).abs().max())  # one decision for all processes
        error = float(worst.clamp(max=torch.finfo(worst.dtype).max))
        if keep is not None:
            keep(Reached(f, g, next_g, kernel.centre, done, error))
        if progress is not None:
            progress("sinkhorn", done, config.rounds)
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


class BlockKernel:
    """Sweeps over blocks of scores that are recomputed each time.

    One exponential per score: shifted so that the largest of every row is 1, it is summed along
    the row and then, weighted by exp(f), along the column. Where a column's sum comes too close
    to the smallest numbers of the dtype to be trusted, the sweep is done again in the log domain.
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
        """Nothing is stored, so nothing is made around anything."""

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


class StoredKernel:
    """Matrix-vector sweeps over a stored K_ij = exp(S_ij / tau + f0_i + g0_j).

    The shifts f0 and g0 make the largest entry of every row and of every column 1 for the
    potentials at hand, so that nothing overflows. A sweep whose sums come too close to the
    smallest numbers of the dtype to be trusted is done again around the present potentials
    (absorption), and if that does not help either, as with extreme temperatures and rho < 1,
    in the log domain. A kernel in a narrower ``dtype`` is widened part by part.
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
        """f and the columns' log-sum-exp, or None where they cannot be trusted."""
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
        """K in parts, in the dtype of the scores, each to be used before the next."""
        room = None
        for first, last in self._parts(0, len(self.log_a)):
            block = self.kernel[first:last]
            if not self._wide:
                room = torch.empty_like(block, dtype=self.source.dtype) if room is None else room
                block = room[: last - first].copy_(block)
            yield first, last, block

    def _absorb(self, g: torch.Tensor) -> None:
        """Make K around g: shifts from the maxima of S / tau + g, then one exponential."""
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
        """Whether exponents can be kept in the kernel's place."""
        return self.kernel.dtype == self.source.dtype

    def _scaled(self, g: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
        """S / tau + g in parts to be written to, in the kernel's place if that is as wide."""
        for start, stop, block in self.source.blocks():
            for first, last in self._parts(start, stop):
                out = self.kernel[first:last] if self._wide else None
                out = torch.div(block[first - start : last - start], self.tau, out=out)
                yield first, last, out.add_(g)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        columns = self.source.shape[1]
        return ranges_in_cache(start, stop, columns, self.source.dtype, self.source.device)


class SharedKernel:
    """Sweeps of several processes, each over its own texts, put together."""

    def __init__(self, own: _Kernel, world: World, n_text: int) -> None:
        self.own, self.world, self.n_text = own, world, n_text
        self.centre = own.centre

    def absorb(self, g: torch.Tensor) -> None:
        self.own.absorb(g)
        self.centre = self.own.centre

    def sweep(self, g: torch.Tensor, rho: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        f, columns = self.own.sweep(g, rho)
        count, (first, last) = self.world.size, self.world.part(self.n_text)
        every = torch.zeros(self.n_text + count * len(g) + 1).to(f)  # f, columns of each, moved
        every[first:last] = f
        every[self.n_text : -1].view(count, -1)[self.world.rank] = columns
        every[-1] = float(self.own.centre is not self.centre)
        every = self.world.sum(every)  # one exchange: what counts is how many there are
        if every[-1] > 0:  # around the same potentials in every process
            self.absorb(g)
        columns = torch.logsumexp(every[self.n_text : -1].view(count, -1), 0)
        return every[: self.n_text], columns


def _stored_kernel(source: Similarity, *given: Any) -> StoredKernel | None:
    """The kernel, or None where a GPU's memory does not hold it."""
    rows = source.block_rows
    with suppress(OutOfMemory):
        return StoredKernel(source, *given)
    source.block_rows = rows  # blocks are only small because of the kernel
    torch.cuda.empty_cache()
    return None


class CandidateKernel(StoredKernel):
    """Sweeps over candidates: K is sparse, stored by rows and by columns, and beside it lie the
    samples that stand for all other pairs, see (s) of :mod:`emcl_plugin.candidates`.
    """

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
        self.of_texts, self.of_videos = source.others, source.T.others
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
    """The largest value of every group, (count,)."""
    return torch.full((count,), -math.inf).to(values).scatter_reduce_(0, group, values, "amax")


def _log_sums(values: torch.Tensor, group: torch.Tensor, count: int) -> torch.Tensor:
    """log sum exp of every group, (count,)."""
    largest = _largest(values, group, count)
    sums = torch.zeros_like(largest).index_add_(0, group, (values - largest[group]).exp())
    return sums.log() + largest


def _log_marginals(
    config: NCL, source: Similarity, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log a (n_text,) and log b (n_video,), with equal totals, each text counted by its weight."""
    n_text, n_video = source.shape
    a = _marginal(config.text_marginal, n_text, "text_marginal", source)
    b = _marginal(config.video_marginal, n_video, "video_marginal", source)
    total = a.sum() if weights is None else (a * weights).sum()
    return a.log(), (b * (total / b.sum())).log()


def _marginal(given: Any, size: int, name: str, source: Similarity) -> torch.Tensor:
    if given is None:
        return torch.ones(size, dtype=source.dtype, device=source.device)
    try:
        masses = torch.as_tensor(given, dtype=source.dtype, device=source.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{name} is not a list of numbers",
            f"{type(given).__name__}: {error}",
            "pass one positive number per item",
        ) from error
    if masses.shape != (size,):
        raise InputValueError(
            f"{name} must hold one number per item",
            f"shape {tuple(masses.shape)} for {size} items",
            "leave it out for a uniform marginal",
        )
    bad = ~(torch.isfinite(masses) & (masses > 0))
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise InputValueError(
            f"{name} must be positive",
            f"{name}[{first}] = {float(masses[first])}",
            "leave out items that should get no mass at all",
        )
    return masses


def _pot(
    source: Similarity, tau: float, log_a: torch.Tensor, log_b: torch.Tensor, config: NCL
) -> Potentials:
    """The same problem by POT's ``sinkhorn_log``: cost -S, regularisation tau."""
    import ot

    total = log_a.exp().sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ours is raised from the error below
        plan, log = ot.bregman.sinkhorn_log(
            log_a.exp() / total,
            log_b.exp() / total,
            -source.dense(),
            reg=tau,
            numItermax=config.rounds,
            stopThr=config.tolerance * float(log_b.min().exp() / total),  # of the rarest column
            log=True,
        )
    plan = plan * total
    error = float((plan.sum(0) / log_b.exp() - 1).abs().max())
    f = log["log_u"] + total.log()
    return Potentials(f, log["log_v"], int(log["niter"]) + 1, error, error <= config.tolerance)
