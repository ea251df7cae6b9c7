"""How far to trust NCL's prior that every video is asked for equally often.

Uniform marginals give every video the same mass, whether or not anybody asked for it. Where the
queries are spread evenly, as in a benchmark, that is right and worth several points. Where they
are not, videos that nobody asked for are lifted over those that somebody did. Labels would tell
which it is; without them there are two runs of NCL at a higher temperature and with relaxed
marginals, which change less:

- The *gentle* run corrects for hubs and leaves popular videos most of their mass.
- The *cautious* run does the same, but leaves every text's best video out of that video's column
  sum. A hub is also close to the texts that go elsewhere and is still found; a video that is
  merely asked for often is not, and keeps all of its mass.

From them follow three numbers, each of which goes from 0 to 1 without a jump:

    strength   How much of the correction is applied: by how many standard errors z the cautious
               run makes more texts and videos mutual (:mod:`~.mutual_neighbours`). None up to
               1, all from 2 on. No hubs, too few queries: nothing is applied.

    hubs       h = (q - 0.3) / 0.15, with q the gain in mutual pairs of the cautious run, as a
               share of the gentle run's. Where hubs are what there is to correct, the cautious
               run finds half of it and more; where popular videos are, next to nothing.

    uniform    u = (e - 0.5) / 0.35, with e = sum_j min(m_j, b_j) / sum_j b_j for the masses m of
               the gentle run and the uniform marginal b: how evenly the gallery is asked for.

NCL is then solved, at its own temperature, for the marginal

    b'_j = h (u b_j + (1 - u) m_j) + (1 - h) c_j                                            (b)

with m and c the masses that the biases of the gentle and of the cautious run give the videos at
that temperature: estimates of how often each is asked for. h = u = 1 is NCL as published; h = 1,
u = 0 gives back the gentle biases and h = 0 the cautious ones, because biases solve NCL for
their own masses (with rho = 1; a smaller one relaxes this last run, too). Near-equal queries
count once throughout (:mod:`emcl_plugin.evidence.near_duplicates`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from emcl_plugin._internal.progress import Progress
from emcl_plugin.evidence.guard import Evidence, ramp
from emcl_plugin.evidence.mutual_neighbours import Nearest
from emcl_plugin.ncl import NCL, Biases, Journal, Problem
from emcl_plugin.scores import Similarity

MODES = ("auto", "even", "gentle", "off")

GENTLE_TEMPERATURE_STD = 0.4
GENTLE_RHO = 0.65
HUBS = (0.3, 0.45)
"""Share of the gentle run's gain that the cautious run finds: where h is 0 and where it is 1."""
EVENNESS = (0.5, 0.85)
"""Evenness where u is 0 and where it is 1."""


@dataclass(frozen=True)
class Probes:
    """The biases of the gentle and of the cautious run."""

    gentle: Biases
    cautious: Biases


@dataclass(frozen=True)
class Prior:
    """What was assumed about how often each video is asked for, and why.

    Attributes
    ----------
    mode : str
        "auto", "even", "gentle", or "given" where ``NCL(video_marginal=...)`` says it.
    queries : float
        How many different texts there are, near-equal ones counted once.
    found_cautiously : float
        q: what of the gentle run's gain in mutual pairs the cautious run finds, in [0, 1].
    hubs : float
        h: how far the gain is due to hubs rather than to popular videos, in [0, 1].
    evenness : float
        e: how evenly the queries cover the videos, in [0, 1].
    uniform : float
        u: the share of the even prior in what is due to hubs, in [0, 1].
    """

    mode: str
    queries: float
    found_cautiously: float
    hubs: float
    evenness: float
    uniform: float

    @property
    def even(self) -> float:
        """Share of the even prior in the marginal: h u of (b), 1 for NCL as published.

        >>> Prior("auto", 190.0, found_cautiously=0.6, hubs=1.0, evenness=0.75, uniform=0.5).even
        0.5
        """
        return self.hubs * self.uniform

    @property
    def reason(self) -> str:
        """The choice in words."""
        seen = f"the queries cover the videos {100 * self.evenness:.0f} % evenly"
        if self.mode == "given":
            return f"the given marginal; {seen}"
        if self.mode != "auto":
            return f"as told; {seen}"
        if self.hubs < 1:
            return (
                f"popular videos are likely, only {100 * self.found_cautiously:.0f} % of the gain "
                f"is due to hubs ({100 * HUBS[1]:.0f} % would do)"
            )
        low, high = (f"{100 * end:.0f} %" for end in EVENNESS)
        return f"{seen} (up to {low} counts as uneven, from {high} as even)"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "even": self.even, "reason": self.reason}


def probe(
    source: Similarity,
    ncl: NCL,
    best: Nearest,
    *,
    std: float,
    weights: torch.Tensor | None,
    memory: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Probes:
    """The gentle and the cautious run.

    Parameters
    ----------
    source : Similarity, (n_text, n_video)
    ncl : NCL
        Its temperature, relaxation and iterations are replaced, its marginals kept.
    best : Nearest
        The best matches of this source.
    std, weights, memory, progress
        As in :func:`emcl_plugin.ncl.fit_biases`.
    journal : Journal, optional
        Where to go on from, and where every iteration is kept.
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
    problem = Problem(source, config, std=std, weights=weights, memory=memory)
    gentle = problem.solve(progress=progress, journal=journal)
    own = best.video_of_text, best.text_score
    cautious = problem.solve(start=gentle.video, own=own, progress=progress, journal=journal)
    return Probes(gentle, cautious)


def earned_biases(
    source: Similarity,
    ncl: NCL,
    probes: Probes,
    gains: tuple[Evidence, Evidence],
    mode: str,
    *,
    std: float,
    weights: torch.Tensor | None,
    memory: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> tuple[Biases, Prior]:
    """The biases for this mode of the prior, and what was found about the queries.

    Parameters
    ----------
    source : Similarity, (n_text, n_video)
    ncl : NCL
    probes : Probes
        Of the same source.
    gains : (Evidence, Evidence)
        Of the gentle and of the cautious run.
    mode : {"auto", "even", "gentle"}
    std, weights, memory, progress, journal
        As in :func:`probe`.
    """
    problem = Problem(source, ncl, std=std, weights=weights, memory=memory)
    log_b = problem.log_b
    log_m = problem.log_masses(probes.gentle.video)
    evenness = float(torch.minimum(log_m, log_b).exp().sum() / log_b.exp().sum())
    gentle, cautious = (max(0.0, gain.gained - gain.lost) for gain in gains)
    found = cautious / gentle if cautious < gentle else 1.0
    if mode == "auto" and ncl.video_marginal is not None:
        mode = "given"
    hubs, uniform = ramp(found, HUBS), ramp(evenness, EVENNESS)
    if mode != "auto":
        hubs, uniform = 1.0, float(mode != "gentle")
    queries = float(source.shape[0] if weights is None else weights.sum())
    prior = Prior(mode, queries, found, hubs, evenness, uniform)
    if mode == "gentle":
        return probes.gentle, prior
    if mode != "auto":
        return problem.solve(progress=progress, journal=journal), prior
    log_c = problem.log_masses(probes.cautious.video) if hubs < 1 else log_m
    shares = log_b.new_tensor([hubs * uniform, hubs * (1 - uniform), 1 - hubs]).log()
    log_b = torch.logsumexp(torch.stack([log_b, log_m, log_c]) + shares[:, None], 0)  # (b)
    start = hubs * probes.gentle.video + (1 - hubs) * probes.cautious.video
    return problem.solve(log_b=log_b, start=start, progress=progress, journal=journal), prior
