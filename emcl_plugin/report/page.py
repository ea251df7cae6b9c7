"""The report page: one self-contained HTML file without scripts.

The template escapes everything that comes from the data. Only the figures are inserted as markup,
and they contain no names. Nothing is loaded except the given thumbnails.
"""

from __future__ import annotations

import platform
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.errors import one_line
from emcl_plugin.evaluation.ablation import Ablation
from emcl_plugin.evaluation.compare import INPUT, OURS
from emcl_plugin.evaluation.metrics import MEASURES
from emcl_plugin.evaluation.significance import Comparison
from emcl_plugin.io.atomic import atomic_writer, check_target
from emcl_plugin.report.figure import missing
from emcl_plugin.report.items import hubs, movers, policy
from emcl_plugin.report.plots import build
from emcl_plugin.report.words import assumed, choices, headline, warnings
from emcl_plugin.scores import Features
from emcl_plugin.version import __version__

_PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "jinja2")
_METHODS = {INPUT: "input", "+EMCL": "+ EMCL", "+NCL": "+ NCL", OURS: "both (emcl_plugin)"}


def write_report(
    path: Path,
    ablation: Ablation,
    *,
    settings: dict[str, object],
    force: bool,
    features: tuple[Features, Features] | None = None,
) -> None:
    """Write the report page; ``force`` replaces an existing file.

    ``settings`` repeat the run, by name, and are shown as given; ``features`` are those of texts
    and videos, for the plot of the modality gap. Raise InputFileError if the file exists or cannot
    be written, EmclError if jinja2 or matplotlib is not installed.
    """
    check_target(path, 1 << 20, force=force)
    page = render(ablation, settings=settings, features=features)
    with atomic_writer(path, force=force) as file:
        file.write(page.encode("utf-8", "xmlcharrefreplace"))


def render(
    ablation: Ablation,
    *,
    settings: dict[str, object],
    features: tuple[Features, Features] | None = None,
) -> str:
    """Return the page as text; see :func:`write_report`."""
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise missing("jinja2") from error
    template = resources.files("emcl_plugin.report").joinpath("page.html.j2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    plots: dict[str, list[dict[str, Any]]] = {t: [] for t in ("hubness", "recall", "ranks", "gap")}
    for plot in build(ablation, features):
        plots[plot.topic].append({"svg": Markup(plot.svg()), **vars(plot)})
    first, *others = ablation.rows
    gains = {row.name: row.gain_over(first) for row in others if not row.note}
    own = ablation.gains() if OURS not in gains else dict(zip(DIRECTIONS, gains[OURS], strict=True))
    versions = {"emcl_plugin": __version__, "Python": platform.python_version()}
    versions |= {package: metadata.version(package) for package in _PACKAGES}
    won, lost = movers(ablation)
    largest = hubs(ablation)
    shown = [hub[0] for side in largest for hub in side["rows"]]
    for query in (*won, *lost):
        shown += [item for item, _ in (*query.before, *query.after)] + query.right
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        policy=policy(shown),
        run=ablation,
        shape=ablation.report.shape,
        headline=headline(ablation, own),
        assumed=assumed(ablation),
        warnings=warnings(own),
        ablation=[_ablation(ablation, gains, side) for side in range(2)],
        measures=MEASURES,
        plots=plots,
        gap=ablation.gap,
        hubs=largest,
        won=won,
        lost=lost,
        settings=[(one_line(str(k)), one_line(str(v), None)) for k, v in settings.items()],
        facts=choices(ablation),
        versions=list(versions.items()),
    )


def _ablation(
    ablation: Ablation, gains: dict[str, tuple[Comparison, Comparison]], side: int
) -> dict[str, Any]:
    """Return the table of one direction: metrics of each method, its gain and interval."""
    placements = [row.evaluation.directions[side][1] for row in ablation.rows]
    values = [[round(found.metric(m), 1) for m in MEASURES] for found in placements]
    best = [
        (min if measure in ("MdR", "MnR") else max)(column)
        for measure, column in zip(MEASURES, zip(*values, strict=True), strict=True)
    ]
    rows = []
    for row, numbers in zip(ablation.rows, values, strict=True):
        found: dict[str, Any] = {
            "name": row.name if ablation.report.banks else _METHODS.get(row.name, row.name),
            "cells": [(f"{x:.1f}", x == top) for x, top in zip(numbers, best, strict=True)],
            "note": row.note,
        }
        if row.name in gains:
            gain = gains[row.name][side]
            found["gain"] = f"{gain.gain:+.1f}"
            found["interval"] = f"{gain.low:+.1f} to {gain.high:+.1f}"
            found["significant"] = "yes" if gain.significant else "no"
        rows.append(found)
    queries, (texts, items) = len(placements[0].queries), placements[0].truth.shape
    return {
        "title": DIRECTIONS[side].replace("->", "to").capitalize(),
        "rows": rows,
        "queries": queries,
        "left_out": texts - queries,
        "items": items,
    }
