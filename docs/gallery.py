"""How the gallery's figures look: matplotlib's defaults with less around the data."""

from __future__ import annotations

import matplotlib as mpl

from emcl_plugin.report.plots import PALETTE


def plain_figures(_settings: object, _script: str) -> None:
    """Called by sphinx-gallery before each example, as ``reset_modules`` says."""
    mpl.rcParams.update(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": "medium",
            "axes.edgecolor": PALETTE["ink"],
            "font.size": 11,
            "legend.frameon": False,
        }
    )
