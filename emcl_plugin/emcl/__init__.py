"""EMCL: weaken or amplify directions that text and video features share, found by EM.

The equations and the EM are in :mod:`emcl_plugin.emcl.subspaces`.
"""

from emcl_plugin.emcl.reconstruction import Reconstruction, renormalizing
from emcl_plugin.emcl.report import EMCLReport
from emcl_plugin.emcl.settings import EMCL, PRESETS, STRENGTHS
from emcl_plugin.emcl.subspaces import (
    NORM_FLOOR,
    SecondMoments,
    Subspaces,
    fit_subspaces,
    renormalized,
    second_moments,
)

__all__ = [
    "EMCL",
    "NORM_FLOOR",
    "PRESETS",
    "STRENGTHS",
    "EMCLReport",
    "Reconstruction",
    "SecondMoments",
    "Subspaces",
    "fit_subspaces",
    "renormalized",
    "renormalizing",
    "second_moments",
]
