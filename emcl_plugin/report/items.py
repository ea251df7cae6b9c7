"""The texts and videos that the page shows: the largest hubs, and who won and lost most."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import torch

from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.errors import one_line
from emcl_plugin.evaluation.ablation import Ablation
from emcl_plugin.ground_truth import GroundTruth, Ints
from emcl_plugin.scores import Similarity

HUBS = 10
QUERIES = 10
RESULTS = 5
_ORIGINS = 20  # sources of thumbnails that the policy names one by one
_IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif")


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


def policy(items: Iterable[Item]) -> str:
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


def hubs(ablation: Ablation) -> list[dict[str, Any]]:
    """The largest hubs of both sides, with their occurrences before and after."""
    found = []
    for direction, side, of in zip(DIRECTIONS, ("Videos", "Texts"), (_video, _text), strict=True):
        before, after = ablation.hubness[direction]
        rows = [
            (of(ablation, index), count, int(after.occurrence[index]))
            for index, count in before.largest(HUBS)
        ]
        mean = float(before.occurrence.double().mean())
        found.append({"side": side, "rows": rows, "k": before.k, "mean": mean,
                      "queries": "texts" if side == "Videos" else "videos"})  # fmt: skip
    return found


def movers(ablation: Ablation) -> tuple[list[Query], list[Query]]:
    """The texts whose rank shrank and grew by the largest factor: 60 -> 1 before 800 -> 400."""
    before = ablation.rows[0].evaluation.text_to_video
    ranks = before.ranks(), ablation.rows[-1].evaluation.text_to_video.ranks()
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
            return [(_video(ablation, j), j in right) for j in _first(source, index)]

        return Query(
            text=_text(ablation, index),
            ranks=(f"{ranks[0][place]:,.6g}", f"{ranks[1][place]:,.6g}"),
            before=first(ablation.before),
            after=first(ablation.after),
            right=[_video(ablation, int(j)) for j in right[:3]],
            more_right=max(0, len(right) - 3),
        )

    return [show(i) for i in won], [show(i) for i in lost]


def _name(names: Sequence[str], side: str, index: int) -> str:
    given = one_line(str(names[index])) if index < len(names) else ""
    return given or (f"{side} {index} (no name)" if len(names) else f"{side} {index}")


def _text(ablation: Ablation, index: int) -> Item:
    return Item(_name(ablation.names.text, "text", index))


def _video(ablation: Ablation, index: int) -> Item:
    links = ablation.names.video_links
    given = str(links[index]) if index < len(links) else ""
    link = link_of(given)
    image = bool(link) and urlsplit(link).path.lower().endswith(_IMAGES)
    name = _name(ablation.names.video, "video", index)
    return Item(name, link, image, "" if link else one_line(given))


def _right(truth: GroundTruth, query: int) -> Ints:
    low, high = np.searchsorted(truth.query, [query, query + 1])
    return truth.item[low:high]


def _first(source: Similarity, query: int) -> list[int]:
    """The first results of one text; only its row is read."""
    row = source.rows(query, query + 1)[0]
    return [int(j) for j in torch.topk(row, min(RESULTS, len(row))).indices]
