"""NCL's settings in bank mode: gentler than in transductive mode."""

from __future__ import annotations

from emcl_plugin.evidence.prior import GENTLE_RHO, GENTLE_TEMPERATURE_STD
from emcl_plugin.ncl import NCL

BANK = NCL(temperature_std=0.4, rho=0.8)
"""Gentler, because future queries need not request the same items as the bank."""
GENTLE = NCL(temperature_std=GENTLE_TEMPERATURE_STD, rho=GENTLE_RHO)


def default_ncl(prior: str) -> NCL:
    """Return NCL's settings in bank mode: gentle ones, or with "even" those of the paper.

    >>> default_ncl("auto").rho, default_ncl("even").rho
    (0.8, 1.0)
    """
    return {"gentle": GENTLE, "even": NCL()}.get(prior, BANK)
