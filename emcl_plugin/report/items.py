"""Texts and videos that the report page names: the largest hubs, and queries won and lost."""

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
from emcl_plugin.scores import Similarity

HUBS = 10
QUERIES = 10
RESULTS = 5
_ORIGINS = 20  # image origins that the policy lists one by one
_IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif")


@dataclass(frozen=True)
class Item:
    """A text or video: its name, and its address if that is safe to show."""

    name: str
    link: str = ""
    image: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Query:
    """A text whose rank changed; results are (item, whether it is right)."""

    text: Item
    ranks: tuple[str, str]
    before: list[tuple[Item, bool]]
    after: list[tuple[Item, bool]]
    right: list[Item]
    more_right: int


def link_of(text: str) -> str:
    """Return an address that is safe in the page, or "".

    Allowed are http, https and paths relative to the page.

    >>> link_of("https://example.org/a.jpg"), link_of("thumbs/a#1.jpg")
    ('https://example.org/a.jpg', 'thumbs/a%231.jpg')
    >>> link_of("javascript:alert(1)"), link_of("//example.org/a.jpg"), link_of("data:,x")
    ('', '', '')
    """
    text = text.strip()
    if not text or not text.isprintable() or "\\" in text:
        return ""
    scheme, colon, _ = re.split(r"[/?#]", text, maxsplit=1)[0].partition(":")
    if not colon:
        return "" if text.startswith("/") else quote(text, safe="%/:@!$&'()*+,;=~")
    try:
        host = urlsplit(text).hostname
    except ValueError:
        return ""
    web = scheme.lower() in ("http", "https") and host
    return quote(text, safe="%/:?#[]@!$&'()*+,;=~") if web else ""


def policy(items: Iterable[Item]) -> str:
    """Return the content security policy: no scripts, images only from the given origins."""
    origins, local = set(), set()
    for found in (urlsplit(item.link) for item in items if item.image):
        if not found.scheme:
            local = {"'self'", "file:"}
        elif re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", found.netloc):
            origins.add(f"{found.scheme.lower()}://{found.netloc.lower()}")
        else:
            origins.add(f"{found.scheme.lower()}:")
    if len(origins) + len(local) > _ORIGINS:
        origins = {"http:", "https:"}
    images = " ".join(sorted(origins | local)) or "'none'"
    return (
        "default-src 'none'; script-src 'none'; style-src 'unsafe-inline'; "
        f"img-src {images}; base-uri 'none'; form-action 'none'"
    )


def hubs(ablation: Ablation) -> list[dict[str, Any]]:
    """Return the largest hubs of both sides, with their k-occurrence before and after."""
    found = []
    sides = (("Videos", "texts", _video), ("Texts", "videos", _text))
    for direction, (side, queries, of) in zip(DIRECTIONS, sides, strict=True):
        before, after = ablation.hubness[direction]
        rows = [(of(ablation, i), n, int(after.occurrence[i])) for i, n in before.largest(HUBS)]
        mean = float(before.occurrence.double().mean())
        found.append({"side": side, "rows": rows, "k": before.k, "mean": mean, "queries": queries})
    return found


def movers(ablation: Ablation) -> tuple[list[Query], list[Query]]:
    """Return the texts whose rank improved and worsened most, by the ratio of the ranks."""
    before = ablation.rows[0].evaluation.text_to_video
    ranks = before.ranks(), ablation.rows[-1].evaluation.text_to_video.ranks()
    change = np.log(ranks[0] / ranks[1])

    def show(place: int) -> Query:
        index = int(before.queries[place])
        low, high = np.searchsorted(before.truth.query, [index, index + 1])
        right = before.truth.item[low:high]

        def first(source: Similarity) -> list[tuple[Item, bool]]:
            row = source.rows(index, index + 1)[0]
            top = torch.topk(row, min(RESULTS, len(row))).indices.tolist()
            return [(_video(ablation, j), j in right) for j in top]

        return Query(
            text=_text(ablation, index),
            ranks=(f"{ranks[0][place]:,.6g}", f"{ranks[1][place]:,.6g}"),
            before=first(ablation.before),
            after=first(ablation.after),
            right=[_video(ablation, int(j)) for j in right[:3]],
            more_right=max(0, len(right) - 3),
        )

    won, lost = (
        [show(int(i)) for i in np.argsort(-gain, kind="stable")[:QUERIES] if gain[i] > 0]
        for gain in (change, -change)
    )
    return won, lost


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
    return Item(
        _name(ablation.names.video, "video", index), link, image, "" if link else one_line(given)
    )
