"""Tables of metrics, and the comparison of methods as text, Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass

from emcl_plugin.errors import InputValueError
from emcl_plugin.evaluation.compare import Row
from emcl_plugin.evaluation.metrics import MEASURES, Placement

FORMATS = ("text", "markdown", "latex", "csv", "json")

_SMALLER_IS_BETTER = ("MdR", "MnR")


@dataclass(frozen=True)
class Table:
    """Methods x metrics, formatted; ``best`` holds the (row, column) of all best cells."""

    header: list[str]
    body: list[list[str]]
    best: set[tuple[int, int]]


def metrics_table(
    rows: Sequence[tuple[str, str, Placement]], measures: Sequence[str] = MEASURES
) -> str:
    """Return (direction, method, placement) rows as a text table."""
    width = max(len(method) for _, method, _ in rows) + 3
    lines = [" " * (17 + width) + "".join(f"{name:>9}" for name in measures)]
    previous = ""
    for direction, method, found in rows:
        values = "".join(_number(found.metric(name), name) for name in measures)
        lines.append(f"  {direction if direction != previous else '':15}{method:{width}}{values}")
        previous = direction
    return "\n".join(lines)


def _number(value: float, measure: str) -> str:
    """Format percentages and ranks with one decimal, measures in [0, 1] with three."""
    return f"{value:9.3f}" if measure.startswith(("MRR", "mAP", "nDCG")) else f"{value:9.1f}"


def sort_rows(rows: Sequence[Row], by: str) -> list[Row]:
    """Sort by the mean of a metric over both directions, best first; "none" keeps the order."""
    if by == "none":
        return list(rows)
    return sorted(rows, key=lambda row: row.mean(by), reverse=by not in _SMALLER_IS_BETTER)


def build(rows: Sequence[Row], measures: Sequence[str]) -> Table:
    """Return metrics of both directions, mean R@1, hubness, seconds, protocol and servability.

    The column "beats" holds the letters of the methods that a method beats significantly in R@1
    (p < 0.05) in at least one direction, without losing significantly in the other.
    """
    letters = dict(zip((row.name for row in rows), string.ascii_lowercase, strict=False))
    header = ["", "method"]
    header += [f"{arrow} {m}" for arrow in ("t>v", "v>t") for m in measures]
    header += ["mean R@1", "beats", "skew", "seconds", "protocol", "serves"]
    body, values = [], []
    for row in rows:
        numbers = [p.metric(m) for _, p in row.evaluation.directions for m in measures]
        numbers.append(row.mean("R@1"))
        values.append(numbers)
        beaten = "".join(letters.get(o.name, "?") for o in rows if o is not row and _beats(row, o))
        ours = [letters.get(row.name, "?"), row.name, *(f"{x:.1f}" for x in numbers), beaten]
        ours += [f"{row.hubness.skewness:.1f}", f"{row.seconds:.2f}", row.protocol]
        body.append([*ours, "yes" if row.serves else "no"])
    best: set[tuple[int, int]] = set()
    for column, measure in enumerate([*measures, *measures, "R@1"]):
        cells = [round(numbers[column], 1) for numbers in values]
        top = min(cells) if measure in _SMALLER_IS_BETTER else max(cells)
        best |= {(i, column + 2) for i, cell in enumerate(cells) if cell == top}
    return Table(header, body, best)


def _beats(row: Row, other: Row) -> bool:
    gains = row.gain_over(other)
    won = any(g.significant and g.gain > 0 for g in gains)
    return won and not any(g.significant and g.gain < 0 for g in gains)


def render(rows: Sequence[Row], measures: Sequence[str], form: str) -> str:
    """Return the table in one of :data:`FORMATS`."""
    if form == "json":
        return json.dumps([row.to_dict(measures) for row in rows], indent=2)
    table = build(rows, measures)
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["letter", *table.header[1:]])
        writer.writerows(table.body)
        return out.getvalue().rstrip("\n")
    makers = {"text": _text, "markdown": _markdown, "latex": _latex}
    if form not in makers:
        raise InputValueError("unknown table format", repr(form), ", ".join(FORMATS))
    return makers[form](table)


def _text(table: Table) -> str:
    """Align columns; mark the best cell of a column with a star."""
    metrics = range(2, len(table.header) - 5)
    cells = [
        [
            f"{cell}{'*' if (i, j) in table.best else ' '}" if j in metrics else cell
            for j, cell in enumerate(row)
        ]
        for i, row in enumerate(table.body)
    ]
    lines = [table.header, *cells]
    widths = [max(len(line[j]) for line in lines) for j in range(len(table.header))]
    left = {1, len(widths) - 5, len(widths) - 2}

    def line(row: list[str]) -> str:
        parts = (
            cell.ljust(width) if j in left else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(parts).rstrip()

    return "\n".join(line(row) for row in lines)


def _markdown(table: Table) -> str:
    def cell(i: int, j: int, text: str) -> str:
        return f"**{text}**" if (i, j) in table.best else text

    rows = [table.header, ["---"] * len(table.header)]
    rows += [[cell(i, j, c) for j, c in enumerate(row)] for i, row in enumerate(table.body)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


_LATEX = str.maketrans({c: rf"\{c}" for c in "&%_#${}"})


def _latex(table: Table) -> str:
    def clean(text: str) -> str:
        return text.translate(_LATEX).replace("t>v", r"t$\to$v").replace("v>t", r"v$\to$t")

    def cell(i: int, j: int, text: str) -> str:
        return rf"\textbf{{{text}}}" if (i, j) in table.best else clean(text)

    lines = [rf"\begin{{tabular}}{{ll{'r' * (len(table.header) - 4)}ll}}", r"\toprule"]
    lines.append(" & ".join(map(clean, table.header)) + r" \\")
    lines.append(r"\midrule")
    for i, row in enumerate(table.body):
        lines.append(" & ".join(cell(i, j, c) for j, c in enumerate(row)) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines)
