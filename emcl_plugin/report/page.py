"""A study as one HTML page that stands alone: no script, nothing loaded but the given thumbnails.

Everything that comes from the data passes through the template's escaping; the only markup
that does not is the figures, which hold no names.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import torch

import emcl_plugin
from emcl_plugin.compare import INPUT, OURS
from emcl_plugin.io.atomic import atomic_writer, check_target
from emcl_plugin.metrics import DIRECTIONS, MEASURES
from emcl_plugin.report.plots import build, missing
from emcl_plugin.significance import Comparison
from emcl_plugin.similarity import Features, Similarity
from emcl_plugin.study import Study
from emcl_plugin.truth import GroundTruth, Ints

HUBS = 10
QUERIES = 10
RESULTS = 5
_LONGEST = 240  # characters of a caption
_ORIGINS = 20  # sources of thumbnails that the policy names one by one
_IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif")
_METHODS = {
    INPUT: "input",
    "+EMCL": "+ EMCL",
    "+NCL": "+ NCL",
    OURS: "both (emcl_plugin)",
}


@dataclass(frozen=True)
class Item:
    """A text or a video as shown: its name, and its address where that is safe."""

    name: str
    link: str = ""
    image: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Query:
    """A text whose rank changed much: (item, whether right) before and after."""

    text: Item
    ranks: tuple[str, str]
    before: list[tuple[Item, bool]]
    after: list[tuple[Item, bool]]
    right: list[Item]
    more_right: int


def write_report(
    path: Path,
    study: Study,
    *,
    settings: dict[str, object],
    force: bool,
    features: tuple[Features, Features] | None = None,
) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
    study : Study
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
    page = render(study, settings=settings, features=features)
    with atomic_writer(path, force=force) as file:
        file.write(page.encode("utf-8", "xmlcharrefreplace"))


def render(
    study: Study,
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
    for plot in build(study, features):
        plots[plot.topic].append({"svg": Markup(plot.svg()), **vars(plot)})
    gains = {
        row.name: row.gain_over(study.rows[0])
        for row in study.rows
        if row is not study.rows[0] and not row.note
    }
    own = study.gains() if OURS not in gains else dict(zip(DIRECTIONS, gains[OURS], strict=True))
    won, lost = _movers(study)
    hubs = _hubs(study)
    shown = [item for query in (*won, *lost) for item, _ in (*query.before, *query.after)]
    shown += [item for query in (*won, *lost) for item in query.right]
    shown += [hub[0] for side in hubs for hub in side["rows"]]
    gap = study.gap
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        policy=_policy(shown),
        study=study,
        shape=study.report.shape,
        headline=_headline(study, own),
        assumed=_assumed(study),
        warnings=_warnings(own),
        ablation=_ablation(study, gains),
        measures=MEASURES,
        plots=plots,
        gap=gap,
        hubs=hubs,
        won=won,
        lost=lost,
        settings=[(clean(str(k)), clean(str(v), None)) for k, v in settings.items()],
        facts=_facts(study),
        versions=_versions(),
    )


def link_of(text: str) -> str:
    """An address that may stand in the page, or "" where it may not.

    Allowed are http, https and the names of files beside the page.

    >>> link_of("https://example.org/a.jpg"), link_of("thumbs/a#1.jpg")
    ('https://example.org/a.jpg', 'thumbs/a%231.jpg')
    >>> link_of("javascript:alert(1)"), link_of("//example.org/a.jpg"), link_of("data:,x")
    ('', '', '')
    """
    text = text.strip()
    if not text or not text.isprintable() or "\\" in text:
        return ""
    scheme, colon, _ = re.split(r"[/?#]", text, maxsplit=1)[0].partition(":")
    if colon:
        try:
            found = urlsplit(text)
        except ValueError:
            return ""
        web = scheme.lower() in ("http", "https") and found.hostname
        return quote(text, safe="%/:?#[]@!$&'()*+,;=~") if web else ""
    return "" if text.startswith("/") else quote(text, safe="%/:@!$&'()*+,;=~")


def clean(text: str, longest: int | None = _LONGEST) -> str:
    """One line without control characters, cut where it is longer than ``longest``."""
    text = "".join(c if c.isprintable() or c in "\u200d\u200c" else " " for c in text)
    text = " ".join(text.split())
    if longest is None or len(text) <= longest:
        return text
    return text[: longest - 1].rstrip() + "…"


def _policy(items: Iterable[Item]) -> str:
    """The content security policy: no script, images only from where the thumbnails lie."""
    sources: set[str] = set()
    for item in items:
        if not item.image:
            continue
        found = urlsplit(item.link)
        if not found.scheme:
            sources |= {"'self'", "file:"}
        elif re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", found.netloc):
            sources.add(f"{found.scheme.lower()}://{found.netloc.lower()}")
        else:
            sources.add(f"{found.scheme.lower()}:")
    if len(sources) > _ORIGINS:
        local = sources & {"'self'", "file:"}
        sources = {"http:", "https:"} | local
    images = " ".join(sorted(sources)) or "'none'"
    return (
        "default-src 'none'; script-src 'none'; style-src 'unsafe-inline'; "
        f"img-src {images}; base-uri 'none'; form-action 'none'"
    )


def _headline(study: Study, gains: dict[str, Comparison]) -> str:
    parts = []
    before, after = study.rows[0].evaluation, study.rows[-1].evaluation
    pairs = zip(before.directions, after.directions, strict=True)
    for (direction, old), (_, new) in pairs:
        a, b, gain = old.metric("R@1"), new.metric("R@1"), gains[direction]
        words = direction.replace("->", "to")
        if not study.report.guard.applied:
            parts.append(f"{a:.1f} {words}")
        elif gain.gain == 0:
            parts.append(f"{words} stayed at {a:.1f} ({_test(gain)})")
        else:
            verb = "rose" if gain.gain > 0 else "fell"
            parts.append(f"{words} {verb} from {a:.1f} to {b:.1f} ({_test(gain)})")
    if not study.report.guard.applied:
        return (
            f"The input was left as it was ({study.report.guard.reason}); "
            f"R@1 is {parts[0]} and {parts[1]}."
        )
    what = "correction was" if study.report.biases is None else "biases were"
    how = study.report.protocol
    if how == "transductive":
        how = f"transductive: the {what} computed from all the texts at once"
    elif how == "bank":
        sides = " and ".join(d.partition(" ")[0] + "s" for d in study.report.banks)
        how = f"bank: the correction was learnt from other {sides}"
    return f"R@1 {parts[0]}, and {parts[1]} ({how})."


def _assumed(study: Study) -> str:
    """What was assumed about the queries, and why."""
    prior, guard = study.report.prior, study.report.guard
    if prior is None:
        return ""
    text = (
        f"How often each video is asked for was taken as {100 * prior.even:.0f} % even "
        f"(prior: {prior.mode}): {prior.reason}."
    )
    if guard.strength < 1:
        text += f" The biases were applied {guard.reason}."
    return text


def _test(gain: Comparison) -> str:
    if gain.changed == 0:
        return "no query changed"
    p = "p < 0.001" if gain.p_value < 0.001 else f"p = {gain.p_value:.3f}"
    verdict = "significant" if gain.significant else "not significant"
    interval = f"95 % interval {gain.low:+.1f} to {gain.high:+.1f}"
    return f"{gain.gain:+.1f}; {interval}; {verdict}, {p}"


def _warnings(gains: dict[str, Comparison]) -> list[str]:
    return [
        f"Too small to tell, {direction.replace('->', 'to')}: with {gain.queries} queries a "
        f"difference in R@1 must be about {gain.detectable:.1f} points for a set of this size to "
        f"tell it from chance; this one is {abs(gain.gain):.1f}."
        for direction, gain in gains.items()
        if gain.too_small
    ]


def _ablation(
    study: Study, gains: dict[str, tuple[Comparison, Comparison]]
) -> list[dict[str, Any]]:
    """A table per direction: the method, its metrics with the best marked, gain and interval."""
    tables = []
    for side, direction in enumerate(DIRECTIONS):
        values = [
            [round(row.evaluation.directions[side][1].metric(m), 1) for m in MEASURES]
            for row in study.rows
        ]
        best = [
            (min if m in ("MdR", "MnR") else max)(v[j] for v in values)
            for j, m in enumerate(MEASURES)
        ]
        rows = []
        for row, numbers in zip(study.rows, values, strict=True):
            gain = gains[row.name][side] if row.name in gains else None
            rows.append(
                {
                    "name": row.name if study.report.banks else _METHODS.get(row.name, row.name),
                    "cells": [(f"{x:.1f}", x == top) for x, top in zip(numbers, best, strict=True)],
                    "gain": "" if gain is None else f"{gain.gain:+.1f}",
                    "interval": "" if gain is None else f"{gain.low:+.1f} to {gain.high:+.1f}",
                    "significant": "" if gain is None else "yes" if gain.significant else "no",
                    "note": row.note,
                }
            )
        placement = study.rows[0].evaluation.directions[side][1]
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


def _name(names: Sequence[str], side: str, index: int) -> str:
    given = clean(str(names[index])) if index < len(names) else ""
    return given or (f"{side} {index} (no name)" if len(names) else f"{side} {index}")


def _text(study: Study, index: int) -> Item:
    return Item(_name(study.names.text, "text", index))


def _video(study: Study, index: int) -> Item:
    links = study.names.video_links
    given = str(links[index]) if index < len(links) else ""
    link = link_of(given)
    image = bool(link) and urlsplit(link).path.lower().endswith(_IMAGES)
    return Item(_name(study.names.video, "video", index), link, image, "" if link else clean(given))


def _hubs(study: Study) -> list[dict[str, Any]]:
    """The largest hubs of both sides, with their occurrences before and after."""
    found = []
    for direction, side, of in zip(DIRECTIONS, ("Videos", "Texts"), (_video, _text), strict=True):
        before, after = study.hubness[direction]
        rows = [
            (of(study, index), count, int(after.occurrence[index]))
            for index, count in before.largest(HUBS)
        ]
        mean = float(before.occurrence.double().mean())
        found.append({"side": side, "rows": rows, "k": before.k, "mean": mean,
                      "queries": "texts" if side == "Videos" else "videos"})  # fmt: skip
    return found


def _movers(study: Study) -> tuple[list[Query], list[Query]]:
    """The texts whose rank shrank and grew by the largest factor: 60 -> 1 before 800 -> 400."""
    before = study.rows[0].evaluation.text_to_video
    ranks = before.ranks(), study.rows[-1].evaluation.text_to_video.ranks()
    change = np.log(ranks[0] / ranks[1])
    order = np.argsort(-change, kind="stable")
    won = [int(i) for i in order[:QUERIES] if change[i] > 0]
    order = np.argsort(change, kind="stable")
    lost = [int(i) for i in order[:QUERIES] if change[i] < 0]
    queries = before.queries

    def show(place: int) -> Query:
        index = int(queries[place])
        right = _right(before.truth, index)

        def first(source: Similarity) -> list[tuple[Item, bool]]:
            return [(_video(study, j), j in right) for j in _first(source, index)]

        return Query(
            text=_text(study, index),
            ranks=(f"{ranks[0][place]:,.6g}", f"{ranks[1][place]:,.6g}"),
            before=first(study.before),
            after=first(study.after),
            right=[_video(study, int(j)) for j in right[:3]],
            more_right=max(0, len(right) - 3),
        )

    return [show(i) for i in won], [show(i) for i in lost]


def _right(truth: GroundTruth, query: int) -> Ints:
    low, high = np.searchsorted(truth.query, [query, query + 1])
    return truth.item[low:high]


def _first(source: Similarity, query: int) -> list[int]:
    """The first results of one text; only its row is read."""
    row = source.rows(query, query + 1)[0]
    return [int(j) for j in torch.topk(row, min(RESULTS, len(row))).indices]


def _facts(study: Study) -> list[tuple[str, str]]:
    """What the correction chose."""
    report = study.report
    facts = [
        ("texts", f"{report.shape[0]:,}"),
        ("videos", f"{report.shape[1]:,}"),
        ("protocol", report.protocol),
        ("standard deviation of the scores", f"{report.score_std:.6g}"),
    ]
    if report.emcl is not None:
        facts += [
            ("EMCL strength", f"{report.emcl.strength:g} ({report.emcl.reason})"),
            ("distinct subspaces that EM found", f"{report.emcl.effective_rank:.4g}"),
        ]
    if report.biases is not None:
        b = report.biases
        state = "converged" if b.converged else "not converged"
        facts += [
            ("NCL temperature", f"{b.temperature:.6g}"),
            ("NCL rounds", f"{b.rounds} ({state}, error {b.error:.2g}, solver {b.solver})"),
        ]
    if report.prior is not None:
        p = report.prior
        facts += [
            ("prior", f"{p.mode}, {100 * p.even:.0f} % even: {p.reason}"),
            ("different texts, near-equal ones counted once", f"{p.queries:,.0f}"),
        ]
    if not report.banks:
        facts.append(("guard", report.guard.reason))
    for direction, found in report.banks.items():
        facts += [(f"{direction}: {name}", value) for name, value in found.facts()]
    if any((report.repeated_texts, report.repeated_videos)):
        copies = f"{report.repeated_texts} texts, {report.repeated_videos} videos"
        facts.append(("exact copies", copies))
    return [(name, clean(value, None)) for name, value in facts]


def _versions() -> list[tuple[str, str]]:
    packages = ("torch", "numpy", "scipy", "matplotlib", "jinja2")
    return [
        ("emcl_plugin", emcl_plugin.__version__),
        ("Python", platform.python_version()),
        *((package, metadata.version(package)) for package in packages),
    ]
