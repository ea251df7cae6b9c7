"""The tables, fits, predictions and the plot of `scale.py`, from what it keeps as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scale_measure import QUIET
from scale_methods import ITERATIONS, METHODS
from scale_model import EFFICIENCY, Law, fit, gpu, gpu_seconds, names, slope, terms

Figures = Mapping[str, Any]
Row = Mapping[str, Any]

GROUPS = {
    "whole": "Whole methods, from embeddings to scores",
    "solver": f"Sinkhorn alone, {ITERATIONS} iterations",
    "subspaces": "EMCL's bases alone, of texts and videos together",
}
BEGIN, END = "<!-- scale.py: begin -->", "<!-- scale.py: end -->"
MILLION = 1_000_000
_CALM = 0.5  # cores' worth of other processes beyond which a run tells no law
_LAW_FROM = 2000  # below this a run is mostly what it costs to begin
_INK, _GRID = "#24292f", "#d8dee4"
_OURS = ("#1b5fb8", "#16765a", "#7d3fa6", "#0f8a9d")
_OTHERS = ("#b8520a", "#8a6d00", "#6e7781", "#c0392b", "#a0527a", "#57606a", "#946c4b", "#3d4752")


def report(figures: Figures) -> str:
    """Everything in Markdown that can be read as text."""
    parts = [_what_was_run(figures)]
    for group, title in GROUPS.items():
        methods = [name for name in METHODS if METHODS[name].group == group]
        found = [name for name in methods if _of(figures, name)]
        if found:
            parts.append(f"## {title}\n\nSeconds / peak MiB.\n\n" + _costs(figures, found))
    parts += [_quality(figures), _errors(figures), _left_out(figures), _laws(figures)]
    parts += [_plans(figures), _million(figures), _gpus(figures)]
    return "\n\n".join(part for part in parts if part)


def rewrite(page: Path, text: str) -> None:
    """Put the report between the page's marks."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines {BEGIN} and {END} to write between")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


# --- tables --------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown with its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    ruled = ["-" * width for width in widths]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (header, ruled, *rows)
    ]
    return "\n".join(f"| {line} |" for line in lines)


def number(value: float) -> str:
    """Two or three digits, in full.

    >>> [number(x) for x in (0.01234, 1.234, 123.4, 4567.8)]
    ['0.012', '1.2', '123', '4,568']
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _of(figures: Figures, name: str) -> list[Row]:
    return sorted((r for r in figures["rows"] if r["method"] == name), key=lambda r: r["size"])


def _sizes(rows: Sequence[Row]) -> list[int]:
    return sorted({row["size"] for row in rows})


def _cells(figures: Figures, methods: Sequence[str], keys: Sequence[str]) -> str:
    """A row per method and a column per size; several values side by side."""
    rows = [r for name in methods for r in _of(figures, name) if keys[0] in r]
    if not rows:
        return ""
    sizes, lines = _sizes(rows), []
    for name in methods:
        at = {row["size"]: row for row in rows if row["method"] == name}
        cells = [
            " / ".join(_shown(key, at[size][key]) for key in keys if key in at[size])
            if size in at
            else ""
            for size in sizes
        ]
        if at:
            lines.append([METHODS[name].title, *cells])
    return table(["", *(f"{size:,}" for size in sizes)], lines)


def _shown(key: str, value: float) -> str:
    if key in ("rounding", "marginal"):
        return f"{value:.1e}" if value < 0.001 else f"{value:.2g}"
    return f"{value:.1f}" if key == "R@1" else number(value)


def _costs(figures: Figures, methods: Sequence[str]) -> str:
    return _cells(figures, methods, ("seconds", "peak_mib"))


def _what_was_run(figures: Figures) -> str:
    machine = figures["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"`{figures['command']}`: {figures['seconds']:.0f} s in all on {machine['cpu']} "
        f"({machine['device']}), Python {machine['python']}, {versions}."
        + _disturbed(figures)
        + figures.get("note", "")
    )


def _disturbed(figures: Figures) -> str:
    rows = [row for row in figures["rows"] if row["others"] > QUIET]
    named = ", ".join(
        f"{METHODS[row['method']].title} at {row['size']:,} ({row['others']:.1f})" for row in rows
    )
    return named and f" While these ran, other processes used that many cores: {named}."


def _quality(figures: Figures) -> str:
    found = _cells(figures, [n for n in METHODS if METHODS[n].group == "whole"], ("R@1",))
    return found and f"## R@1, text to video\n\n{found}"


def _errors(figures: Figures) -> str:
    found = _cells(
        figures, [n for n in METHODS if METHODS[n].group == "solver"], ("rounding", "marginal")
    )
    return found and (
        f"## Errors of the solvers\n\nLargest difference of a bias, in units of tau and less a "
        f"constant, from the same {ITERATIONS} iterations in the same order in float64 in the log "
        "domain / largest relative error of a row's or column's sum that the iterations have left."
        f"\n\n{found}"
    )


def _left_out(figures: Figures) -> str:
    lines = [
        f"- {METHODS[entry['method']].title}, from {entry['size']:,}: {entry['why']}"
        for entry in figures["left_out"]
    ]
    return "## Left out\n\n" + "\n".join(lines) if lines else ""


# --- laws ----------------------------------------------------------------------------------------


def law(figures: Figures, rows: Sequence[Row]) -> Law:
    """The law of a method's rows."""
    k, dimension = figures["candidates"], figures["dimension"]
    at = [terms(row, k, dimension) for row in rows]
    return fit(names(rows), at, [row["seconds"] for row in rows])


def _lawful(figures: Figures, name: str) -> list[Row]:
    rows = _of(figures, name)
    return [r for r in rows if r["others"] <= _CALM and r["size"] >= _LAW_FROM]


def _laws(figures: Figures) -> str:
    k, dimension = figures["candidates"], figures["dimension"]
    lines = []
    for name, method in METHODS.items():
        rows = _lawful(figures, name)
        if len(rows) < 3 or method.group == "subspaces":
            continue
        found, last = law(figures, rows[:-1]), rows[-1]
        told = found(terms(last, k, dimension))
        if method.candidates:
            x = [2.0 * row["size"] * k for row in rows]
            y = [row["seconds"] - row["search_s"] for row in rows]
            against = "2 n k, less the search"
        else:
            x, y = [float(row["size"]) ** 2 for row in rows], [row["seconds"] for row in rows]
            against = "n n"
        cells = [f"{told:.3g}", f"{last['seconds']:.3g}", f"{told / last['seconds']:.2f}"]
        lines.append(
            [method.title, str(found), f"{last['size']:,}", *cells, f"{slope(x, y)}", against]
        )
    if not lines:
        return ""
    header = ["", "seconds, fitted without the largest", "largest", "predicted", "seen", "ratio",
              "slope in logarithms", "against"]  # fmt: skip
    return (
        f"## Cost against size\n\nFrom the runs at {_LAW_FROM:,} and more (less is mostly what it "
        "costs to begin), without those beside which others took more than half a core. n texts, n "
        "videos, d dimensions, k candidates; iterations are Sinkhorn's, all runs of a method "
        "together. The law is fitted to all but the largest run and checked on that; where the "
        "iterations hardly vary, what goes with n n and with n n iterations cannot be told apart. "
        "Slopes have 95 % intervals; 1 is linear.\n\n" + table(header, lines)
    )


def _plans(figures: Figures) -> str:
    methods = [name for name in METHODS if METHODS[name].budget is not None]
    rows = [row for name in methods for row in _of(figures, name)]
    if not rows:
        return ""
    sizes, lines = _sizes(rows), []
    for name in methods:
        at = {row["size"]: row["plan_s"] / row["seconds"] for row in _of(figures, name)}
        cells = [f"{at[size]:.2f}" if size in at else "" for size in sizes]
        if at:
            lines.append([METHODS[name].title, *cells])
    body = table(["", *(f"{size:,}" for size in sizes)], lines)
    return f"## What `--plan` says\n\nSeconds planned / seconds taken.\n\n{body}"


def _million(figures: Figures) -> str:
    k, dimension = figures["candidates"], figures["dimension"]
    lines = []
    for name in ("dense-blocks", "sinkhorn-blocks", "candidates"):
        rows = _lawful(figures, name)
        if len(rows) < 3:
            continue
        last = rows[-1]
        iterations = last.get("iterations", ITERATIONS)
        point = terms({"size": MILLION, "iterations": iterations}, k, dimension)
        hours = law(figures, rows)(point) / 3600
        gib = last["peak_mib"] / 1024 * MILLION / last["size"]
        if name == "dense-blocks":
            gib = 4 * MILLION**2 / (1 << 30)
        of = f"{iterations} iterations as at {last['size']:,}"
        lines.append([METHODS[name].title, of, number(hours), number(gib)])
    if not lines:
        return ""
    header = ["", "with", "hours", "peak GiB"]
    return (
        f"## A million by a million, {dimension} dimensions\n\n**Predicted, not measured.** On "
        "this machine, by the laws fitted to all runs. Memory: in proportion to the largest run's; "
        "of a whole dense run it is the result, which the command line writes to a file.\n\n"
        + table(header, lines)
    )


def _gpus(figures: Figures) -> str:
    dimension = figures["dimension"]
    ours = _of(figures, "dense-blocks")
    iterations = ours[-1]["iterations"] if ours else ITERATIONS
    parts = [
        "### On H100s\n\n**Predicted from published peaks, not measured; no H100 ran this.** One "
        "Sinkhorn iteration over recomputed blocks, texts split evenly over the GPUs; "
        f"{EFFICIENCY:.0%} of every peak is assumed to be reached, and nothing to overlap. "
        "`today`: the package's operations in float32. `fused`: one kernel with bf16 products, "
        "which the package does not have. The iterations are those of the largest run above; "
        "matches and moments, a few passes more, are not counted."
    ]
    lines, totals = [], []
    for gpus in (1, 8):
        for fused in (False, True):
            kind = f"{gpus} x H100, {'fused' if fused else 'today'}"
            for what, amount, rate, seconds in gpu(MILLION, dimension, gpus, fused):
                lines.append([kind, what, f"{amount:.3g}", rate, f"{seconds:.2g}"])
            spent = gpu_seconds(MILLION, dimension, gpus, fused)
            totals.append([kind, number(spent), number(spent * iterations / 60)])
    work = "work of a GPU in an iteration"
    parts.append(table(["", work, "amount", "published peak", "seconds at the peak"], lines))
    one = f"seconds an iteration at {EFFICIENCY:.0%}"
    parts.append(table(["", one, f"minutes for {iterations} iterations"], totals))
    return "\n\n".join(parts)


# --- the plot ------------------------------------------------------------------------------------


def draw_plot(figures: Figures, path: Path) -> None:
    """Time and memory against size, both axes logarithmic, lines labelled at their ends."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {"font.size": 8.5, "font.sans-serif": "DejaVu Sans", "svg.hashsalt": "scale",
             "svg.fonttype": "none"}  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(10.5, 8.2), layout="constrained", facecolor="white")
        panels = figure.subplots(2, 2, sharex=True)
        shown = {"seconds": "seconds", "peak_mib": "peak memory, MiB"}
        for line, group in zip(panels, ("whole", "solver"), strict=True):
            for axes, (key, label) in zip(line, shown.items(), strict=True):
                _panel(axes, figures, group, key)
                axes.set_title(f"{GROUPS[group]}: {label}", loc="left", fontsize=9.5, color=_INK)
        for axes in panels[1]:
            axes.set_xlabel("texts, and as many videos")
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axes: Any, figures: Figures, group: str, key: str) -> None:
    from matplotlib.collections import LineCollection

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    colours = {True: iter(_OURS), False: iter(_OTHERS)}
    ends: list[tuple[float, float, str, str]] = []
    least = 1.0 if key == "peak_mib" else 0.0
    for name, method in METHODS.items():
        rows = [row for row in _of(figures, name) if row[key] > least]
        if method.group != group:
            continue
        ours = method.title.startswith("our")
        colour = next(colours[ours])
        if not rows:
            continue
        x, y = [row["size"] for row in rows], [row[key] for row in rows]
        axes.plot(x, y, "-o", color=colour, linewidth=2.2 if ours else 1.2, markersize=3.5)
        ends.append((math.log(y[-1]), x[-1], method.title, colour))
    if not ends:
        return
    sizes = _sizes([r for r in figures["rows"] if METHODS[r["method"]].group != "subspaces"])
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,g}")
    axes.minorticks_off()
    leaders = []
    low, high = (math.log(bound) for bound in axes.get_ylim())
    top = high - (high - low) / 30
    for (y, x, title, colour), place in zip(
        sorted(ends), spread([end[0] for end in sorted(ends)], low, top), strict=True
    ):
        # in the axes' height, right of its edge
        height = (place - low) / (high - low)
        axes.text(1.03, height, title, transform=axes.transAxes, color=colour, va="center")
        end = axes.transAxes.inverted().transform(axes.transData.transform((x, math.exp(y))))
        leaders.append(([tuple(end), (1.02, height)], colour))
    axes.add_collection(
        LineCollection(
            [points for points, _ in leaders], colors=[colour for _, colour in leaders],
            linewidths=0.5, alpha=0.5, transform=axes.transAxes, clip_on=False,
        )
    )  # fmt: skip
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK)
    axes.spines[:].set_visible(False)


def spread(places: Sequence[float], low: float, high: float) -> list[float]:
    """Sorted places moved apart by a fifteenth of the range, as little as that takes.

    >>> [round(x, 2) for x in spread([0.0, 0.0, 9.0], 0.0, 15.0)]
    [0.0, 1.0, 9.0]
    """
    gap, moved = (high - low) / 15, np.array(places, dtype=float)
    for _ in range(200):
        close = np.maximum(0, gap - np.diff(moved)) / 2
        if close.max(initial=0) < 1e-6:
            break
        moved[:-1] -= close
        moved[1:] += close
        moved = moved.clip(low, high)
    return [float(x) for x in moved]
