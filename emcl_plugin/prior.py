"""How far to trust NCL's prior that every video is asked for equally often.

Uniform marginals give every video the same mass, whether or not anybody asked for it. Where the
queries are spread evenly, as in a benchmark, that is right and worth several points. Where they
are not, videos that nobody asked for are lifted over those that somebody did. Labels would tell
which it is; without them there is this:

1. A *gentle* run, at a higher temperature and with relaxed marginals, corrects for hubs and
   hardly for anything else: popular videos keep most of their mass.
2. The masses m_j that the videos then have at NCL's own temperature are an estimate of how often
   each is asked for. How evenly they lie,

       e = sum_j min(m_j, b_j) / sum_j b_j,    b the uniform marginal                      (e)

   is 1 where every video has its share, and the share of the gallery that is covered otherwise.
3. NCL is solved for the marginal

       b'_j = u b_j + (1 - u) m_j,             u = (e - 0.6) / 0.3, within [0, 1]          (b)

   the estimate shrunk towards the even prior, as pseudo-counts do. u = 1 is NCL as published.
   u = 0 gives back the gentle biases: they are the solution of NCL for their own masses.

Whether anything is applied at all is the guard's business (:mod:`emcl_plugin.agreement`), and
that near-equal queries count once is :mod:`emcl_plugin.repeats`'.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from emcl_plugin.errors import InputValueError
from emcl_plugin.ncl import NCL, Biases, Problem, Progress, fit_biases
from emcl_plugin.similarity import Similarity

MODES = ("auto", "even", "gentle", "off")

GENTLE_TEMPERATURE_STD = 0.4
GENTLE_RHO = 0.8
UNEVEN, EVEN = 0.6, 0.9
"""Coverage up to which the prior is not trusted at all, and from which it is trusted in full."""


@dataclass(frozen=True)
class Prior:
    """What was assumed about how often each video is asked for, and why.

    Attributes
    ----------
    mode : str
        "auto", "even", "gentle", or "given" where ``NCL(video_marginal=...)`` says it.
    queries : float
        How many different texts there are, near-equal ones counted once.
    evenness : float
        e, in [0, 1].
    uniform : float
        u: the share of the even prior in the marginal that was used, in [0, 1].
    """

    mode: str
    queries: float
    evenness: float
    uniform: float

    @property
    def reason(self) -> str:
        """The choice in words.

        >>> Prior("auto", queries=190.0, evenness=0.72, uniform=0.4).reason
        '40 % even: the queries seem to cover 72 % of the videos evenly (90 % would make it 100 %)'
        """
        covered = f"the queries seem to cover {100 * self.evenness:.0f} % of the videos evenly"
        otherwise = f"--prior auto would take it as {100 * uniform(self.evenness):.0f} % even"
        if self.mode == "given":
            return f"the marginal that was given; {covered}"
        if self.mode == "even":
            return f"even, as told; {covered}, {otherwise}"
        if self.mode == "gentle":
            return f"gentle, as told; {covered}, {otherwise}"
        if self.uniform == 1:
            return f"even: {covered}"
        return (
            f"{100 * self.uniform:.0f} % even: {covered} ({100 * EVEN:.0f} % would make it 100 %)"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "reason": self.reason}


def check_mode(mode: str) -> str:
    """``mode``, if it is one."""
    if mode not in MODES:
        raise InputValueError("this prior is not known", repr(mode), ", ".join(MODES))
    return mode


def uniform(evenness: float) -> float:
    """u of (b).

    >>> uniform(0.5), uniform(0.95)
    (0.0, 1.0)
    """
    return min(1.0, max(0.0, (evenness - UNEVEN) / (EVEN - UNEVEN)))


def gentle_biases(
    source: Similarity,
    ncl: NCL,
    *,
    std: float,
    weights: torch.Tensor | None,
    memory: int,
    progress: Progress | None = None,
) -> Biases:
    """Biases that correct for hubs and leave popular videos most of their mass."""
    config = replace(
        ncl,
        temperature=None,
        logit_scale=None,
        temperature_std=GENTLE_TEMPERATURE_STD,
        rho=GENTLE_RHO,
        rounds=NCL.rounds,
        tolerance=NCL.tolerance,
        solver="auto" if ncl.solver == "pot" else ncl.solver,
    )
    return fit_biases(source, config, std=std, weights=weights, memory=memory, progress=progress)


def earned_biases(
    source: Similarity,
    ncl: NCL,
    gentle: Biases,
    mode: str,
    *,
    std: float,
    weights: torch.Tensor | None,
    memory: int,
    progress: Progress | None = None,
) -> tuple[Biases, Prior]:
    """The biases for this mode of the prior, and what was found about the queries.

    Parameters
    ----------
    source : Similarity, (n_text, n_video)
    ncl : NCL
    gentle : Biases
        Of the same source.
    mode : {"auto", "even", "gentle"}
    std, weights, memory, progress
        As in :func:`emcl_plugin.ncl.fit_biases`.
    """
    problem = Problem(source, ncl, std=std, weights=weights, memory=memory)
    log_m, log_b = problem.log_masses(gentle.video), problem.log_b
    evenness = float(torch.minimum(log_m, log_b).exp().sum() / log_b.exp().sum())  # (e)
    queries = float(source.shape[0] if weights is None else weights.sum())
    if mode == "auto" and ncl.video_marginal is not None:
        mode = "given"
    share = uniform(evenness) if mode == "auto" else float(mode != "gentle")
    prior = Prior(mode, queries, evenness, share)
    if mode == "gentle":
        return gentle, prior
    mix = torch.tensor([share, 1 - share]).to(log_b).log()
    log_b = torch.logaddexp(mix[0] + log_b, mix[1] + log_m)  # (b)
    start = gentle.video if mode == "auto" else None
    return problem.solve(log_b=log_b, start=start, progress=progress), prior
