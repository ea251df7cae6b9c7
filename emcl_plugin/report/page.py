"""An ablation as one self-contained HTML page: no script, only the given thumbnails are loaded.

Everything that comes from the data passes through the template's escaping; the only markup
that does not is the figures, which hold no names.
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

_METHODS = {
    INPUT: "input",
    "+EMCL": "+ EMCL",
    "+NCL": "+ NCL",
    OURS: "both (emcl_plugin)",
}


def write_report(
    path: Path,
    ablation: Ablation,
    *,
    settings: dict[str, object],
    force: bool,
    features: tuple[Features, Features] | None = None,
) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
    ablation : Ablation
    settings : dict
        What to repeat the run with, by name; shown as it is.
    force : bool
        Replace a file that is there.
    features : (Features, Features), optional
        Texts and videos, for the view of the modality gap.

    Raises
    ------
    InputFileError
        If the file is there already or cannot be written.
    EmclError
        If jinja2 or matplotlib is not installed.
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
    """The page as text; as :func:`write_report`."""
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise missing("jinja2") from error
    template = resources.files("emcl_plugin.report").joinpath("page.html.j2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    plots: dict[str, list[dict[str, Any]]] = {
        topic: [] for topic in ("hubness", "recall", "ranks", "gap")
    }
    for plot in build(ablation, features):
        plots[plot.topic].append({"svg": Markup(plot.svg()), **vars(plot)})
    gains = {
        row.name: row.gain_over(ablation.rows[0])
        for row in ablation.rows
        if row is not ablation.rows[0] and not row.note
    }
    own = ablation.gains() if OURS not in gains else dict(zip(DIRECTIONS, gains[OURS], strict=True))
    won, lost = movers(ablation)
    largest = hubs(ablation)
    shown = [item for query in (*won, *lost) for item, _ in (*query.before, *query.after)]
    shown += [item for query in (*won, *lost) for item in query.right]
    shown += [hub[0] for side in largest for hub in side["rows"]]
    gap = ablation.gap
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        policy=policy(shown),
        run=ablation,
        shape=ablation.report.shape,
        headline=headline(ablation, own),
        assumed=assumed(ablation),
        warnings=warnings(own),
        ablation=_ablation(ablation, gains),
        measures=MEASURES,
        plots=plots,
        gap=gap,
        hubs=largest,
        won=won,
        lost=lost,
        settings=[(one_line(str(k)), one_line(str(v), None)) for k, v in settings.items()],
        facts=choices(ablation),
        versions=_versions(),
    )


def _ablation(
    ablation: Ablation, gains: dict[str, tuple[Comparison, Comparison]]
) -> list[dict[str, Any]]:
    """A table per direction: the method, its metrics with the best marked, gain and interval."""
    tables = []
    for side, direction in enumerate(DIRECTIONS):
        values = [
            [round(row.evaluation.directions[side][1].metric(m), 1) for m in MEASURES]
            for row in ablation.rows
        ]
        best = [
            (min if m in ("MdR", "MnR") else max)(v[j] for v in values)
            for j, m in enumerate(MEASURES)
        ]
        rows = []
        for row, numbers in zip(ablation.rows, values, strict=True):
            gain = gains[row.name][side] if row.name in gains else None
            rows.append(
                {
                    "name": row.name if ablation.report.banks else _METHODS.get(row.name, row.name),
                    "cells": [(f"{x:.1f}", x == top) for x, top in zip(numbers, best, strict=True)],
                    "gain": "" if gain is None else f"{gain.gain:+.1f}",
                    "interval": "" if gain is None else f"{gain.low:+.1f} to {gain.high:+.1f}",
                    "significant": "" if gain is None else "yes" if gain.significant else "no",
                    "note": row.note,
                }
            )
        placement = ablation.rows[0].evaluation.directions[side][1]
        tables.append(
            {
                "title": direction.replace("->", "to").capitalize(),
                "rows": rows,
                "queries": len(placement.queries),
                "left_out": placement.truth.shape[0] - len(placement.queries),
                "items": placement.truth.shape[1],
            }
        )
    return tables


def _versions() -> list[tuple[str, str]]:
    packages = ("torch", "numpy", "scipy", "matplotlib", "jinja2")
    return [
        ("emcl_plugin", __version__),
        ("Python", platform.python_version()),
        *((package, metadata.version(package)) for package in packages),
    ]
