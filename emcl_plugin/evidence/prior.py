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
NCL's own temperature; b the uniform marginal; r the queries per video; A and a the mutual pairs of
the input and after the gentle run, as a share of the smaller side; and n_0, n_1 the mean number of
other queries that a query meets on its best video, in the input and after the gentle run:

    q    = gain(leave-best-out) / gain(gentle), at most 1                                  (q)
    k    = n_1^2 / n_0                       companions that the gentle run leaves         (k)
    s    = ramp(r, 1, 1.5)                   1: the queries have to share videos           (s)
    w    = 1 - ramp(A, 0.3, 0.5)             1: few videos have a partner as it is         (w)
    h    = ramp(q, 0.4, 0.5) ramp(r, 0, 0.2) ((1 - s) (1 - ramp(k, 0.8, 1.2)) + s w)
                                             1: hubs, 0: popular videos                    (h)
    e    = sum_j min(m_j, b_j) / sum_j b_j   how evenly the queries cover the videos       (e)
    e'   = e - 0.35 - 0.65 a                 less what an even demand gives: a query in a
                                             pair covers its video, another about a third  (e')
    u    = (ramp(e, 0.5, 0.85) + ramp(e', -0.3, -0.05)) / 2
                                             share of the uniform marginal                 (u)
    b'_j = h (u b_j + (1 - u) m_j) + (1 - h) c_j                                           (b)

NCL is then solved, at its own temperature, for the marginal b', which gives g, the videos' biases
(text -> video). h = u = 1 is NCL as published. h = 1, u = 0 returns the gentle biases, and h = 0
the leave-best-out ones, because biases solve NCL for their own masses (with rho = 1; a smaller
rho relaxes this last run, too).

f, the texts' biases (video -> text), are a decision of their own. Whether a video is popular does
not matter to the order of its texts, so they solve NCL for the marginal with h = 1. NCL lifts
every text until it is some video's, bad texts too, and makes all confident texts of one video
equal. Where each video has several texts and most videos find one of theirs already, f is
therefore relaxed:

    rho_f = 1 - A (1 - min(1, r^-1/2)) / 2                                                 (r)

How much of both is applied is the guard's decision (:mod:`emcl_plugin.evidence.guard`).
Near-duplicate queries count once throughout (:mod:`emcl_plugin.evidence.near_duplicates`).
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
HUBS = (0.4, 0.5)
"""q up to which a gain is not due to hubs, and from which it is."""
COMPANIONS = (0.8, 1.2)
"""k up to which they can be due to hubs, and from which they share a video."""
SEVERAL = (1.0, 1.5)
"""Queries per video up to which k can be read, and from which they have to share videos."""
WEAK = (0.3, 0.5)
"""A up to which hubs outweigh popular videos all the same, and from which they do not."""
FEW = (0.0, 0.2)
"""Queries per video; fewer say little about a single video."""
EVENNESS = (0.5, 0.85)
"""e up to which u is 0, and from which it is 1, by (e)."""
SHORTFALL = (-0.3, -0.05)
"""The same by (e')."""
UNPAIRED = 0.35
"""Share of a video that a query without a partner covers, in the mean."""


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
    companions : float
        k: other queries that a query still meets on its best video after the gentle run.
    hubs : float
        h: how far the gain is due to hubs rather than popular videos, in [0, 1].
    evenness : float
        e: how evenly the queries cover the videos, in [0, 1].
    paired : float
        a: mutual nearest neighbours after the gentle run, in [0, 1].
    uniform : float
        u: share of the uniform marginal in what is due to hubs, in [0, 1].
    text_rho : float
        rho_f: how much of the texts' biases is applied, in (0.5, 1].
    """

    mode: str
    queries: float
    found_cautiously: float
    companions: float
    hubs: float
    evenness: float
    paired: float
    uniform: float
    text_rho: float

    @property
    def even(self) -> float:
        """Share of the uniform marginal in b', h u of (b); 1 for NCL as published.

        >>> prior = Prior(
        ...     "auto", 190.0, found_cautiously=0.6, companions=0.2, hubs=1.0, evenness=0.75,
        ...     paired=0.6, uniform=0.5, text_rho=1.0,
        ... )
        >>> prior.even
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
            found = f"{100 * self.found_cautiously:.0f} % of the gain is due to hubs"
            return f"popular videos are likely: {found}; {self.queries:.0f} different queries"
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


@dataclass(frozen=True)
class Found:
    """What the two runs found, on the same source.

    Attributes
    ----------
    gentle, leave_best_out : Evidence
    before, after : Nearest
        Best matches of the source, and after the gentle run.
    """

    gentle: Evidence
    leave_best_out: Evidence
    before: Nearest
    after: Nearest

    def share(self) -> float:
        """Return (q)."""
        runs = self.gentle, self.leave_best_out
        gentle, without = (max(0.0, run.gained - run.lost) for run in runs)
        return without / gentle if without < gentle else 1.0  # (q)

    def companions(self, weights: torch.Tensor) -> float:
        """Return (k)."""
        before, after = (_companions(found, weights) for found in (self.before, self.after))
        return after**2 / before if before > 0 else 0.0  # (k)


def _paired(found: Nearest, weights: torch.Tensor) -> float:
    """Return the mutual pairs as a share of the smaller side."""
    texts, videos = found.in_pairs()
    pairs = min(float(weights[texts].sum()), float(videos.sum()))
    return min(1.0, pairs / min(float(weights.sum()), len(videos)))


def _companions(found: Nearest, weights: torch.Tensor) -> float:
    """Return how many other queries a query meets on its best video, in the mean."""
    counts = torch.bincount(found.video_of_text, weights)
    return max(0.0, float(counts.square().sum() / weights.sum()) - 1)


def earned_biases(
    source: Similarity,
    ncl: NCL,
    probes: Probes,
    found: Found,
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
    found : Found
        Of the same source.
    mode : {"auto", "even", "gentle"}
    std, solving
        As in :func:`probe`.
    """
    problem = solving.problem(source, ncl, std)
    log_m = problem.log_masses(probes.gentle.video)
    if mode == "auto" and ncl.video_marginal is not None:
        mode = "given"
    prior = _prior(problem, log_m, found, mode, solving.weights)
    if mode == "gentle":
        return probes.gentle, prior
    if mode != "auto":
        return solving.solve(problem), prior
    h, u = prior.hubs, prior.uniform
    gentle = _mixture([problem.log_b, log_m], [u, 1 - u])
    biases = solving.solve(problem, log_b=gentle, start=probes.gentle.video)
    text = prior.text_rho * biases.text
    if h < 1:
        log_c = problem.log_masses(probes.leave_best_out.video)
        start = h * probes.gentle.video + (1 - h) * probes.leave_best_out.video
        biases = solving.solve(problem, log_b=_mixture([gentle, log_c], [h, 1 - h]), start=start)
    return replace(biases, text=text), prior


def _mixture(log_masses: list[torch.Tensor], shares: list[float]) -> torch.Tensor:
    """Return the logarithm of the mixture of two marginals, (b)."""
    log_shares = log_masses[0].new_tensor(shares).log()
    return torch.logsumexp(torch.stack(log_masses) + log_shares[:, None], 0)


def _prior(
    problem: Problem,
    log_m: torch.Tensor,
    found: Found,
    mode: str,
    weights: torch.Tensor | None,
) -> Prior:
    """Return the decisions (h), (u) and (r), and what they rest on."""
    masses, b = log_m.exp(), problem.log_b.exp()
    counts = torch.ones_like(problem.log_a) if weights is None else weights
    counts = counts.to(torch.float64)
    queries = float(counts.sum())
    per_video = queries / len(b)
    q, k, a = found.share(), found.companions(counts), _paired(found.after, counts)
    e = float(torch.minimum(masses, b).sum() / b.sum())  # (e)
    pairs, shared = _paired(found.before, counts), ramp(per_video, SEVERAL)  # (s)
    expected = UNPAIRED + (1 - UNPAIRED) * a
    hubs, uniform, rho = 1.0, float(mode != "gentle"), 1.0
    if mode in ("auto", "given"):
        alone, weak = 1 - ramp(k, COMPANIONS), 1 - ramp(pairs, WEAK)  # (w)
        hubs = ramp(q, HUBS) * ramp(per_video, FEW) * ((1 - shared) * alone + shared * weak)  # (h)
        uniform = (ramp(e, EVENNESS) + ramp(e - expected, SHORTFALL)) / 2  # (u)
        rho = 1 - pairs * (1 - min(1.0, per_video**-0.5)) / 2  # (r)
    return Prior(mode, queries, q, k, hubs, e, a, uniform, rho)
