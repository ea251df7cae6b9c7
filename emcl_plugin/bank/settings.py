"""NCL's settings in bank mode: gentler than where the queries are known."""

from __future__ import annotations

from emcl_plugin.evidence.prior import GENTLE_RHO, GENTLE_TEMPERATURE_STD
from emcl_plugin.ncl import NCL

BANK = NCL(temperature_std=0.4, rho=0.8)
"""Gentler than for queries that are known: what a bank asks for is not what will be asked."""
GENTLE = NCL(temperature_std=GENTLE_TEMPERATURE_STD, rho=GENTLE_RHO)


def default_ncl(prior: str) -> NCL:
    """NCL's settings in bank mode: gentle ones, or with "even" those of the paper.

    >>> default_ncl("auto").rho, default_ncl("even").rho
    (0.8, 1.0)
    """
    return {"gentle": GENTLE, "even": NCL()}.get(prior, BANK)
