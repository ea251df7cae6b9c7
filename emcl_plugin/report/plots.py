"""All plots of a report, and how they are written to files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.errors import InputValueError
from emcl_plugin.evaluation.ablation import Ablation
from emcl_plugin.evaluation.metrics import Placement
from emcl_plugin.ground_truth import Floats
from emcl_plugin.io.atomic import atomic_writer, check_inside, check_target, settle
from emcl_plugin.report.figure import NO_METADATA, PALETTE, Plot, both, drawing, plain_ticks
from emcl_plugin.report.gap_plot import gap
from emcl_plugin.report.hub_plots import mass, occurrence, probability
from emcl_plugin.scores import Features

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")

RESULTS = 50  # largest K of the recall curves
_RANK_GROUPS = ((1, 1), (2, 5), (6, 10), (11, 50), (51, 0))


def build(ablation: Ablation, features: tuple[Features, Features] | None = None) -> list[Plot]:
    """Return all plots, computed but not drawn; reads the scores six times.

    With the features of texts and videos, one shows the modality gap.
    """
    first, last = ablation.rows[0].evaluation, ablation.rows[-1].evaluation
    plots = []
    sides = list(zip(DIRECTIONS, (("video", "texts"), ("text", "videos")), strict=True))
    for direction, (item, queries) in sides:
        plots.append(occurrence(item, queries, *ablation.hubness[direction]))
    masses = zip(probability(ablation.before), probability(ablation.after), strict=True)
    for (_, (item, queries)), (before, after) in zip(sides, masses, strict=True):
        plots.append(mass(item, queries, before, after))
    pairs = zip(first.directions, last.directions, strict=True)
    plots += [_recall(direction, a, b) for (direction, a), (_, b) in pairs]
    plots.append(_ranks(first.text_to_video.ranks(), last.text_to_video.ranks()))
    if features is not None:
        plots.append(gap(*features))
    return plots


NAMES = (
    *(f"{what}-{side}" for what in ("occurrence", "probability") for side in ("videos", "texts")),
    "recall-text-to-video",
    "recall-video-to-text",
    "rank-change",
    "modality-gap",
)
"""File names, without suffix, that :func:`build` may use."""


def check_plots(folder: Path, formats: Sequence[str] = FORMATS, *, force: bool) -> None:
    """Raise InputFileError if the plots cannot be written to this folder."""
    check_inside(folder)
    for name in NAMES if folder.exists() else ():
        for form in formats:
            check_target(folder / f"{name}.{form}", 0, force=force)


def write_plots(
    folder: Path,
    ablation: Ablation,
    formats: Sequence[str] = FORMATS,
    *,
    force: bool = False,
    features: tuple[Features, Features] | None = None,
) -> list[Path]:
    """Write every plot in every format and return the paths; ``force`` replaces existing files.

    The folder is created if it does not exist; ``features`` are as in :func:`build`. Raise
    InputValueError for an unknown format, InputFileError if a file exists or cannot be written,
    EmclError if matplotlib is not installed.
    """
    for form in formats:
        if form not in FORMATS:
            raise InputValueError("unknown plot format", repr(form), ", ".join(FORMATS))
    with drawing():
        pass  # fail early without matplotlib
    plots = build(ablation, features)
    check_inside(folder)
    folder.mkdir(exist_ok=True)
    wanted = [(plot, form, folder / f"{plot.name}.{form}") for plot in plots for form in formats]
    for _, _, path in wanted:
        check_target(path, 1 << 18, force=force)
    with ExitStack() as files:  # all are renamed at the end
        for plot, form, path in wanted:
            file = files.enter_context(atomic_writer(path, force=force))
            with drawing(**{"svg.hashsalt": plot.name}):
                plot.figure().savefig(
                    file, format=form, dpi=200, facecolor="white", metadata=NO_METADATA[form]
                )
            settle(file)
    return [path for _, _, path in wanted]


def _recall(direction: str, before: Placement, after: Placement) -> Plot:
    last = min(RESULTS, before.truth.shape[1])
    cuts = np.arange(1, last + 1)
    curves = [
        100 * np.searchsorted(np.sort(ranks), cuts, side="right") / len(ranks)
        for ranks in (before.ranks(), after.ranks())
    ]

    def draw(axes: Axes) -> None:
        both(axes, cuts, *curves)
        if last > 1:
            axes.set_xscale("log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50) if k <= last]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(0.95, max(last, 2))
        axes.set_xlabel("K")
        axes.set_ylabel("R@K (%)")

    arrow = direction.replace("->", "to")
    ends = [f"R@{k} {curves[0][k - 1]:.1f} before, {curves[1][k - 1]:.1f} after" for k in (1, last)]
    return Plot(
        name="recall-" + direction.replace(" -> ", "-to-"),
        topic="recall",
        title=f"Recall, {arrow}",
        caption=f"{arrow.capitalize()}: percentage of queries with a right item among the first K "
        "results. Higher is better; the distance between the curves is the gain.",
        label=f"Recall curves, {arrow}: {'; '.join(dict.fromkeys(ends))}.",
        header=["K", "R@K before", "R@K after"],
        rows=[
            [str(k), f"{a:.1f}", f"{b:.1f}"] for k, a, b in zip(cuts, *curves, strict=True)
        ],
        draw=draw,
    )  # fmt: skip


def _ranks(before: Floats, after: Floats) -> Plot:
    top = float(max(before.max(), after.max(), 2))

    def binned(ranks: Floats) -> Floats:
        """Keep ranks up to 10; bin larger ones, twelve bins per power of ten."""
        return np.where(ranks <= 10, ranks, 10 ** (np.round(np.log10(ranks) * 12) / 12))

    spots, counts = np.unique(
        np.stack([binned(before), binned(after)], axis=1), axis=0, return_counts=True
    )
    better, worse = int((after < before).sum()), int((after > before).sum())
    same = len(before) - better - worse

    def draw(axes: Axes) -> None:
        axes.plot([1, top], [1, top], color=PALETTE["ink"], linewidth=0.8, linestyle=":")
        size = 9 + 300 * counts / max(counts.max(), 40)
        gained = spots[:, 1] <= spots[:, 0]
        for here, colour in ((gained, "after"), (~gained, "before")):
            x, y = spots[here].T
            axes.scatter(x, y, size[here], PALETTE[colour], alpha=0.55, linewidth=0, zorder=3)
        for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            scale("log")
            plain_ticks(axis)
        axes.set_xlim(0.7, top * 1.4)
        axes.set_ylim(0.7, top * 1.4)
        axes.set_xlabel("rank of the right video before")
        axes.set_ylabel("rank after")

    names = [f"{a}" if a == b else f"{a} to {b}" if b else f"over {a - 1}" for a, b in _RANK_GROUPS]
    starts = [a for a, _ in _RANK_GROUPS[1:]]
    groups = [np.searchsorted(np.array(starts) - 1, x, side="left") for x in (before, after)]
    table = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(table, (groups[0], groups[1]), 1)
    finding = f"{better} texts improved, {worse} worsened, {same} unchanged"
    return Plot(
        name="rank-change",
        topic="ranks",
        title="Rank of the right video, before and after",
        caption="Rank of the right video for every text. Texts below the dotted line improved, "
        f"those above it worsened. Larger marks stand for more texts. {finding}.",
        label=f"Rank after against rank before: {finding}.",
        header=["rank before", *(f"{name} after" for name in names)],
        rows=[[name, *map(str, row)] for name, row in zip(names, table, strict=True)],
        draw=draw,
    )
