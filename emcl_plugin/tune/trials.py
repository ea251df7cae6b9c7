"""Candidate settings of EMCL and NCL, and their results per query.

Two candidates differ by this many standard errors over the queries,

    z = mean d / (std d / sqrt(n)),   d the paired differences of n queries                 (z)

A query that was used in several cuts counts once, with its mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from emcl_plugin.bank import BANK
from emcl_plugin.emcl import EMCL
from emcl_plugin.ground_truth import Floats, Ints
from emcl_plugin.ncl import NCL

TEMPERATURES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
RHOS = (0.65, 0.8, 0.9, 1.0)
STRENGTHS = (-1.0, -0.5, 0.5, 1.0)


@dataclass(frozen=True)
class Candidate:
    """One setting: EMCL and NCL as :class:`~emcl_plugin.Reranker` takes them, and its name."""

    name: str
    emcl: EMCL | str | None
    ncl: NCL | None


NOTHING = Candidate("nothing", None, None)
DEFAULTS = Candidate("defaults", "auto", BANK)
NCLS = tuple(
    Candidate(f"NCL {t:g} std, rho {r:g}", "auto", NCL(temperature_std=t, rho=r))
    for t in TEMPERATURES
    for r in RHOS
    if (t, r) != (BANK.temperature_std, BANK.rho)
)


def emcls(stands: Candidate) -> tuple[Candidate, ...]:
    """Return the settings of EMCL to try with the current NCL, and EMCL alone."""
    fixed = [replace(stands, name=f"EMCL {s:+g}", emcl=EMCL(strength=s)) for s in STRENGTHS]
    alone = replace(stands, name="no NCL", ncl=None)
    return (replace(stands, name="no EMCL", emcl=None), *fixed, alone)


def settings(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate for JSON."""
    emcl, ncl = candidate.emcl, candidate.ncl
    return {
        "name": candidate.name,
        "emcl_strength": emcl.strength if isinstance(emcl, EMCL) else emcl,
        "temperature_std": None if ncl is None else ncl.temperature_std,
        "rho": None if ncl is None else ncl.rho,
    }


@dataclass
class Trial:
    """A candidate and its results per query.

    ``hits`` and ``gains`` are sums over the cuts of R@1 (0 or 1) and of the reciprocal rank,
    ``asked`` the number of cuts that used the query, (n_queries,) each.
    """

    candidate: Candidate
    hits: Floats
    gains: Floats
    asked: Ints

    def add(self, queries: Ints, ranks: Floats) -> None:
        """Add one cut."""
        self.hits[queries] += ranks < 1.5
        self.gains[queries] += 1 / ranks
        self.asked[queries] += 1

    def per_query(self, sums: Floats, other: Trial | None = None) -> Floats:
        """Return the means of the queries that were used here (and by the other)."""
        there = self.asked > 0
        if other is not None:
            there &= other.asked > 0
        found: Floats = sums[there] / self.asked[there]
        return found

    @property
    def r1(self) -> float:
        """R@1 in percent."""
        return 100 * float(self.per_query(self.hits).mean())

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank."""
        return float(self.per_query(self.gains).mean())

    def z(self, other: Trial) -> float:
        """Return the standard errors by which the reciprocal ranks are better, (z)."""
        difference = self.per_query(self.gains, other) - other.per_query(other.gains, self)
        spread = float(difference.std())
        return float(difference.mean()) / (spread / math.sqrt(len(difference))) if spread else 0.0
