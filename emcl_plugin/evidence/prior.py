"""The prior: how far to trust NCL's assumption that every video is requested equally often.

Uniform marginals give every video the same mass, requested or not. Where the queries cover the
videos evenly, as in a benchmark, that is right and worth several points of R@1. Where they do
not, it lifts videos that nobody asked for over those that somebody did. Labels would tell which
it is. Without labels, two runs of NCL tell, at a higher temperature and with relaxed marginals:

- The *gentle* run corrects for hubs and leaves popular videos most of their mass.
- The *leave-best-out* run does the same, but leaves every text's best video out of that video's
  column sum. It still finds hubs, because a hub is also close to the texts that go elsewhere. A
  video that is merely popular keeps all of its mass.

With gain(r) the texts that gain a mutual nearest neighbour in run r, minus those that lose one;
m and c the masses that the biases of the gentle and of the leave-best-out run give the videos at
NCL's own temperature; and b the uniform marginal:

    q    = gain(leave-best-out) / gain(gentle), at most 1                                  (q)
    h    = clip((q - 0.3) / 0.15, 0, 1)      1: hubs, 0: popular videos                    (h)
    e    = sum_j min(m_j, b_j) / sum_j b_j   how evenly the queries cover the videos       (e)
    u    = clip((e - 0.5) / 0.35, 0, 1)      share of the uniform marginal                 (u)
    b'_j = h (u b_j + (1 - u) m_j) + (1 - h) c_j                                           (b)

NCL is then solved, at its own temperature, for the marginal b'. h = u = 1 is NCL as published.
h = 1, u = 0 returns the gentle biases, and h = 0 the leave-best-out ones, because biases solve
NCL for their own masses (with rho = 1; a smaller rho relaxes this last run, too). How much of it
is applied is the guard's decision (:mod:`emcl_plugin.evidence.guard`). Near-duplicate queries
count once throughout (:mod:`emcl_plugin.evidence.near_duplicates`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from emcl_plugin._internal.progress import Progress
from emcl_plugin._internal.warn import old_name
from emcl_plugin.evidence.guard import Evidence, ramp
from emcl_plugin.evidence.mutual_neighbours import Nearest
from emcl_plugin.ncl import NCL, Biases, Journal, Problem
from emcl_plugin.scores import Similarity

MODES = ("auto", "even", "gentle", "off")

GENTLE_TEMPERATURE_STD = 0.4
GENTLE_RHO = 0.65
HUBS = (0.3, 0.45)
"""q up to which h is 0, and from which it is 1."""
EVENNESS = (0.5, 0.85)
"""e up to which u is 0, and from which it is 1."""


@dataclass(frozen=True)
class Probes:
    """Biases of the gentle and of the leave-best-out run."""

    gentle: Biases
    leave_best_out: Biases

    cautious = old_name("cautious", "leave_best_out")


@dataclass(frozen=True)
class Prior:
    """What was assumed about how often each video is requested, and why.

    Attributes
    ----------
    mode : str
        "auto", "even", "gentle", or "given" with ``NCL(video_marginal=...)``.
    queries : float
        Number of different texts; near-duplicates count once.
    found_cautiously : float
        q: share of the gentle run's gain that the leave-best-out run finds, in [0, 1].
    hubs : float
        h: how far the gain is due to hubs rather than popular videos, in [0, 1].
    evenness : float
        e: how evenly the queries cover the videos, in [0, 1].
    uniform : float
        u: share of the uniform marginal in what is due to hubs, in [0, 1].
    """

    mode: str
    queries: float
    found_cautiously: float
    hubs: float
    evenness: float
    uniform: float

    @property
    def even(self) -> float:
        """Share of the uniform marginal in b', h u of (b); 1 for NCL as published.

        >>> Prior("auto", 190.0, found_cautiously=0.6, hubs=1.0, evenness=0.75, uniform=0.5).even
        0.5
        """
        return self.hubs * self.uniform

    @property
    def reason(self) -> str:
        """The choice in words."""
        even = ramp(self.evenness, EVENNESS)
        how = "evenly" if even == 1 else "fairly evenly" if even > 0 else "unevenly"
        seen = f"the queries cover the videos {how} ({100 * self.evenness:.0f} %)"
        if self.mode == "given":
            return f"given marginal; {seen}"
        if self.mode != "auto":
            return f"as requested; {seen}"
        if self.hubs < 1:
            return (
                f"popular videos are likely: {100 * self.found_cautiously:.0f} % of the gain is "
                f"due to hubs (below {100 * HUBS[1]:.0f} %)"
            )
        return seen

    def to_dict(self) -> dict[str, Any]:
        """Return the prior for JSON."""
        return {**vars(self), "even": self.even, "reason": self.reason}


@dataclass(frozen=True)
class Solving:
    """What all solves of a run share.

    Attributes
    ----------
    weights, memory, progress
        As in :func:`emcl_plugin.ncl.fit_biases`.
    journal : Journal, optional
        Checkpoint to resume from and to write every iteration to.
    """

    weights: torch.Tensor | None
    memory: int
    progress: Progress | None = None
    journal: Journal | None = None

    def problem(self, source: Similarity, ncl: NCL, std: float) -> Problem:
        """Return NCL's problem for these scores."""
        return Problem(source, ncl, std=std, weights=self.weights, memory=self.memory)

    def solve(self, problem: Problem, **settings: Any) -> Biases:
        """Solve it, with progress and checkpoint."""
        return problem.solve(progress=self.progress, journal=self.journal, **settings)


def probe(source: Similarity, ncl: NCL, best: Nearest, std: float, solving: Solving) -> Probes:
    """Return the biases of the gentle and of the leave-best-out run.

    Parameters
    ----------
    source : Similarity, (n_text, n_video)
    ncl : NCL
        Its marginals are used; temperature, relaxation and iterations are replaced.
    best : Nearest
        The best matches of this source.
    std : float
        Standard deviation of the scores.
    solving : Solving
    """
    config = replace(
        ncl,
        temperature=None,
        logit_scale=None,
        temperature_std=GENTLE_TEMPERATURE_STD,
        rho=GENTLE_RHO,
        iterations=NCL.iterations,
        tolerance=NCL.tolerance,
        solver="auto" if ncl.solver == "pot" else ncl.solver,
    )
    problem = solving.problem(source, config, std)
    gentle = solving.solve(problem)
    own = best.video_of_text, best.text_score
    without = solving.solve(problem, start=gentle.video, own=own)
    return Probes(gentle, without)


def earned_biases(
    source: Similarity,
    ncl: NCL,
    probes: Probes,
    gains: tuple[Evidence, Evidence],
    mode: str,
    std: float,
    solving: Solving,
) -> tuple[Biases, Prior]:
    """Return the biases for this mode of the prior, and what was found about the queries.

    Parameters
    ----------
    source : Similarity, (n_text, n_video)
    ncl : NCL
    probes : Probes
        Of the same source.
    gains : (Evidence, Evidence)
        Of the gentle and of the leave-best-out run.
    mode : {"auto", "even", "gentle"}
    std, solving
        As in :func:`probe`.
    """
    problem = solving.problem(source, ncl, std)
    log_b = problem.log_b
    log_m = problem.log_masses(probes.gentle.video)
    evenness = float(torch.minimum(log_m, log_b).exp().sum() / log_b.exp().sum())  # (e)
    gentle, without = (max(0.0, gain.gained - gain.lost) for gain in gains)
    found = without / gentle if without < gentle else 1.0  # (q)
    if mode == "auto" and ncl.video_marginal is not None:
        mode = "given"
    hubs, uniform = ramp(found, HUBS), ramp(evenness, EVENNESS)  # (h), (u)
    if mode != "auto":
        hubs, uniform = 1.0, float(mode != "gentle")
    weights = solving.weights
    queries = float(source.shape[0] if weights is None else weights.sum())
    prior = Prior(mode, queries, found, hubs, evenness, uniform)
    if mode == "gentle":
        return probes.gentle, prior
    if mode != "auto":
        return solving.solve(problem), prior
    log_c = problem.log_masses(probes.leave_best_out.video) if hubs < 1 else log_m
    shares = log_b.new_tensor([hubs * uniform, hubs * (1 - uniform), 1 - hubs]).log()
    log_b = torch.logsumexp(torch.stack([log_b, log_m, log_c]) + shares[:, None], 0)  # (b)
    start = hubs * probes.gentle.video + (1 - hubs) * probes.leave_best_out.video
    return solving.solve(problem, log_b=log_b, start=start), prior
