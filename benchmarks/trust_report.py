"""The tables and the README's claim, from the figures that `trust.py` keeps as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from trust_figures import independent

from emcl_plugin._internal.directions import DIRECTIONS

Figures = Mapping[str, Any]
Row = Mapping[str, Any]

BEGIN, END = "<!-- trust.py: begin -->", "<!-- trust.py: end -->"
INPUT, OURS, PUBLISHED = "input", "emcl_plugin", "ncl-even"
SCENARIOS = ("even", "half", "fifth", "zipf", "few", "shift")
WORLDS = ("moderate", "nasty")
NAMES = {"ncl-even": "NCL as published", "sn": "Sinkhorn (SN)", "csls": "CSLS"}
SHORT = "mean / worst / % harmed by more than 1 / 5"


def report(figures: Figures) -> str:
    """Return everything between the marks of the page."""
    parts = [_what_was_run(figures)]
    if _rows(figures, part="sets"):
        parts += [_by_scenario(figures, direction) for direction in DIRECTIONS]
        parts.append(_by_set(figures))
    if _rows(figures, part="worlds"):
        parts.append(_worlds(figures))
    if _rows(figures, part="shapes"):
        parts += [_shapes(figures), _peers_on_shapes(figures)]
    return "\n\n".join([*parts, _worst(figures)])


def rewrite(page: Path, text: str) -> None:
    """Put a text between the page's marks."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines {BEGIN} and {END} to write between")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _rows(figures: Figures, **wanted: str) -> list[Row]:
    return [r for r in figures["rows"] if all(r[key] == value for key, value in wanted.items())]


def one_row(figures: Figures, **wanted: str) -> Row:
    """The row, or an empty one."""
    found = _rows(figures, **wanted)
    return found[0] if found else {}


def gain(row: Row) -> float:
    """Mean points over the input; NaN for an empty row."""
    return row["r1"] - row["input"] if "r1" in row else float("nan")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Row) -> str:
    """Mean gain / worst / share harmed by more than 1 / 5."""
    if "r1" not in row:
        return "refused" if row else "-"
    small, large = row["harmed"]
    return f"{gain(row):+.1f} / {row['worst']:+.1f} / {small:.0f} / {large:.0f}"


def _methods(figures: Figures, **wanted: str) -> list[str]:
    """Every method but the input, the largest mean gain first."""
    found: dict[str, list[float]] = {}
    for row in _rows(figures, **wanted):
        if row["method"] != INPUT and "r1" in row:
            found.setdefault(row["method"], []).append(gain(row))
    return sorted(found, key=lambda method: -np.mean(found[method]))


def _named(method: str) -> str:
    return f"**{method}**" if method == OURS else NAMES.get(method, method)


# --- tables --------------------------------------------------------------------------------------


def _what_was_run(figures: Figures) -> str:
    about = figures["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"`{about['command']}`: {len(figures['sets'])} sets, {about['draws']} draws of each uneven "
        f"scenario, {about['worlds']} worlds of each kind; {versions}."
    )


def _by_scenario(figures: Figures, direction: str) -> str:
    columns = [c for c in SCENARIOS if _rows(figures, part="sets", case=c, direction=direction)]

    def row(case: str, method: str) -> Row:
        return one_row(figures, part="sets", case=case, direction=direction, method=method)

    rows = [["input, R@1", *(f"{row(c, INPUT)['r1']:.1f}" for c in columns), ""]]
    for method in _methods(figures, part="sets", direction=direction):
        found = [row(case, method) for case in columns]
        rows.append([_named(method), *map(_cell, found), _worst_of(found)])
    first = row(columns[0], INPUT)
    title = f"## Real sets, {direction}\n\nPoints of R@1 over the input: {SHORT}. "
    title += f"{first['sets']} sets; means over {len(independent(figures['sets']))} of them.\n\n"
    return title + _table(["method", *columns, "worst case"], rows)


def _worst_of(rows: Iterable[Row]) -> str:
    worst = min((r for r in rows if "r1" in r), key=lambda r: float(r["worst"]), default={})
    return f"{worst['worst']:+.1f} ({worst['where']}, {worst['case']})" if worst else "-"


def _by_set(figures: Figures) -> str:
    rows = []
    for name, found in figures["sets"].items():
        cells = []
        for case in SCENARIOS:
            pairs = []
            for way in range(len(DIRECTIONS)):
                before, after = (found.get(case, {}).get(m, [None] * 2)[way] for m in (INPUT, OURS))
                if before is not None and after is not None:
                    pairs.append(f"{before:.1f} → {after:.1f}")
            cells.append(", ".join(pairs) or "-")
        rows.append([name, "{} x {}".format(*found["size"]), *cells])
    title = "## Every set\n\nR@1, input → default settings; text -> video, video -> text "
    title += "(`shift`: text -> video).\n\n"
    return title + _table(["set", "texts x videos", *SCENARIOS], rows)


def _worlds(figures: Figures) -> str:
    columns = [(kind, way) for kind in WORLDS for way in DIRECTIONS]

    def row(method: str, kind: str, way: str) -> Row:
        return one_row(figures, part="worlds", case=kind, direction=way, method=method)

    rows = [["input, R@1", *(f"{row(INPUT, *c)['r1']:.1f}" for c in columns)]]
    rows += [
        [_named(method), *(_cell(row(method, *column)) for column in columns)]
        for method in _methods(figures, part="worlds")
    ]
    title = f"## Generated worlds\n\nPoints of R@1 over the input: {SHORT} of the worlds.\n\n"
    return title + _table(["method", *(f"{kind}, {way}" for kind, way in columns)], rows)


def _shapes(figures: Figures) -> str:
    rows = []
    for case in dict.fromkeys(r["case"] for r in _rows(figures, part="shapes")):
        for way in DIRECTIONS:
            row = one_row(figures, part="shapes", case=case, direction=way, method=OURS)
            if "r1" not in row:
                rows.append([case, way, "-", "refused", "-", "-", "-", "-"])
                continue
            kept = "-" if row["kept"] is None else f"{row['kept']:.0f} %"
            cells = [f"{row['input']:.1f}", f"{gain(row):+.1f}"]
            cells += [f"{row['worst_draw']:+.1f}" + (f" ({row['where']})" * (row["worst"] < 0))]
            cells += [f"{row['off']:+.1f} ({row['off_where']})", kept, f"{row['spread']:.1f}"]
            if row.get("refused"):
                cells[1] += f" ({row['refused']} refused)"
            rows.append([case, way, *cells])
    title = "## Shapes of scores\n\nR@1 of the input, gain, the worst set against its own input, "
    title += "the set whose result is farthest from that of the untouched scores, the share of "
    title += "their gain, and the largest difference between two fillings. Of the queries with a "
    title += "scored right pair.\n\n"
    header = ["shape", "direction", "input", "gain", "worst", "farthest from untouched"]
    return title + _table([*header, "gain kept", "between fillings"], rows)


def _peers_on_shapes(figures: Figures) -> str:
    methods = _methods(figures, part="shapes")
    rows = []
    for case in dict.fromkeys(r["case"] for r in _rows(figures, part="shapes")):
        cells = []
        for method in methods:
            both = _rows(figures, part="shapes", case=case, method=method)
            found = [r for r in both if "r1" in r]
            mean = f"{np.mean([gain(r) for r in found]):+.1f} / " if found else ""
            worst = f"{min(r['worst_draw'] for r in found):+.1f}" if found else "refused"
            cells.append(mean + worst)
        rows.append([case, *cells])
    title = "### All methods\n\nPoints over the input, both directions: mean / worst.\n\n"
    return title + _table(["shape", *map(_named, methods)], rows)


def _worst(figures: Figures) -> str:
    rows = []
    for found in figures["worst"]:
        what = found.get("settings", "")
        name = f"{found['set']}: {what}" if what else f"{found['set']}, {found['case']}"
        cells = [found["part"], name, found["direction"], f"{found['input']:.1f}"]
        rows.append([*cells, f"{found['gain']:+.1f}"])
    title = "## The worst cases found\n\nOf the default settings, in every part.\n\n"
    return title + _table(["part", "case", "direction", "input", "points"], rows)


# --- the README's claim --------------------------------------------------------------------------


def claim(figures: Figures) -> str:
    """Return the README's tables and the sentences about the worst cases."""
    columns = {"even": "every video requested", "half": "half", "fifth": "a fifth",
               "zipf": "Zipf's law", "few": "50 queries"}  # fmt: skip
    peers = everywhere(figures)
    tables = []
    for way in DIRECTIONS:
        chosen = _rows(figures, part="sets", direction=way)
        r1 = {(row["method"], row["case"]): row["r1"] for row in chosen if "r1" in row}
        best = [max(r1[method, case] for method in peers) for case in columns]
        rows = {
            "input": [r1[INPUT, case] for case in columns],
            "NCL as published": [r1[PUBLISHED, case] for case in columns],
            "best other method in each column": best,
            "`emcl_plugin`, default settings": [r1[OURS, case] for case in columns],
        }
        sets = len(independent(figures["sets"]))
        title = f"R@1, {way.replace('->', '→')}, mean of {sets} sets"
        cells = [[name, *(f"{value:.1f}" for value in values)] for name, values in rows.items()]
        tables.append(_table([title, *columns.values()], cells))
    return "\n\n".join([*tables, _sentences(figures, peers)])


def everywhere(figures: Figures) -> list[str]:
    """Return the peers that could be run on all sets, the largest mean gain first."""
    sets = one_row(figures, part="sets", case="even", direction=DIRECTIONS[0], method=INPUT)["sets"]
    rows = _rows(figures, part="sets", case="even", direction=DIRECTIONS[0])
    whole = {row["method"] for row in rows if row.get("sets") == sets} - {OURS, PUBLISHED}
    return [method for method in _methods(figures, part="sets") if method in whole]


def _sentences(figures: Figures, peers: Sequence[str]) -> str:
    own = _rows(figures, part="sets", method=OURS)
    worst = min(own, key=lambda row: float(row["worst"]))
    cases = sum(row["sets"] for row in own)

    def lowest(method: str) -> float:
        return min(row["worst"] for row in _rows(figures, part="sets", method=method))

    others = ", ".join(f"{_named(m)} {-lowest(m):.0f}" for m in (PUBLISHED, *peers[:3]))
    text = (
        f"The worst of {cases} cases ({len(figures['sets'])} sets, {len(SCENARIOS)} scenarios, "
        f"both directions) is {-worst['worst']:.1f} points below the input ({worst['where']}, "
        f"{worst['case']}, {worst['direction'].replace('->', '→')}). "
        f"The same figure of other methods: {others}."
    )
    for kind in WORLDS:
        rows = _rows(figures, part="worlds", case=kind, method=OURS)
        if rows:
            harmed = " and ".join(f"{row['harmed'][1]:.1f} %" for row in rows)
            text += f" Of {rows[0]['draws']} generated {kind} worlds {harmed} lose more than 5"
            text += " points (text → video, video → text)."
    return text
