"""The plot of `trust.py`: points of R@1 over the input, mean and worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from trust_report import (
    NAMES,
    OURS,
    PUBLISHED,
    SCENARIOS,
    WORLDS,
    Figures,
    everywhere,
    gain,
    one_row,
)

from emcl_plugin._internal.directions import DIRECTIONS

INK, GRID = "#24292f", "#d8dee4"
COLOURS = ("#1b5fb8", "#16765a", "#7d3fa6", "#b8520a", "#8a6d00", "#6e7781")
TICKS = (-50, -20, -10, -5, 0, 5, 10, 20)
COLUMNS = [("sets", case) for case in SCENARIOS] + [("worlds", kind) for kind in WORLDS]


def draw_plot(figures: Figures, path: Path) -> None:
    """Draw every scenario and kind of world: a mark at the mean, and a line to the worst."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [OURS, PUBLISHED, *everywhere(figures)[:4]]
    with mpl.rc_context({"font.size": 9.5, "svg.hashsalt": "trust", "legend.frameon": False}):
        figure = Figure(figsize=(8.4, 6.4), layout="constrained", facecolor="white")
        panels = figure.subplots(2, 1, sharex=True)
        for direction, axes in zip(DIRECTIONS, panels, strict=True):
            _panel(axes, figures, direction, shown)
        ticks = [case if part == "sets" else f"{case}\nworlds" for part, case in COLUMNS]
        panels[1].set_xticks(range(len(COLUMNS)), ticks)
        unit = "points of R@1 over the input: mean, and a line to the worst"
        figure.supylabel(unit, fontsize=9.5, color=INK)
        handles = panels[0].lines[1:]
        figure.legend(handles=handles, loc="outside upper center", ncols=6, labelcolor=INK)
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axes: Any, figures: Figures, direction: str, shown: Sequence[str]) -> None:
    axes.axhline(0, color=INK, linewidth=0.8)
    for k, (method, colour) in enumerate(zip(shown, COLOURS, strict=False)):
        asked = {"direction": direction, "method": method}
        rows = [one_row(figures, part=part, case=case, **asked) for part, case in COLUMNS]
        x = np.arange(len(COLUMNS)) + 0.13 * (k - (len(shown) - 1) / 2)
        mean = [gain(row) for row in rows]
        axes.vlines(
            x, [row.get("worst", np.nan) for row in rows], mean, color=colour, linewidth=0.9
        )
        face = colour if method == OURS else "white"
        label = NAMES.get(method, method)
        axes.plot(x, mean, "osD^vP"[k], color=colour, markerfacecolor=face, label=label)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_yticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS])
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_title(direction, loc="left", fontsize=10, color=INK)
