"""Bank mode on real banks and on banks that have no business there: R@1 by method.

A folder holds text.npy, video.npy, text_bank.npy, video_bank.npy and, where row i does not belong
to row i, text_to_video.npy. Each direction is fitted on the bank of the side that asks, and no
query that is measured is seen before.

    python benchmarks/bank.py FOLDER [FOLDER ...] [--demo] [--tune SECONDS] [--json OUT.json]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin.bank import BANK, fit_corrector
from emcl_plugin.bank.corrector import Scores
from emcl_plugin.baselines import METHODS, Direction
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import EmclError
from emcl_plugin.evaluation.metrics import place
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.ncl import NCL
from emcl_plugin.scores import FeaturePair, Features, Similarity
from emcl_plugin.tune import tune

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Way:
    """One direction of one set; ``others`` is the gallery side's bank."""

    queries: Array
    gallery: Array
    bank: Array
    others: Array
    truth: GroundTruth

    def r1(self, scores: Similarity) -> float:
        return place(scores, self.truth).metric("R@1")

    def cosine(self) -> float:
        return self.r1(FeaturePair(Features(self.queries), Features(self.gallery)))

    def ours(self, bank: Array | None = None, **options: Any) -> float:
        corrector, _ = fit_corrector(self.bank if bank is None else bank, self.gallery, **options)
        return self.r1(Scores(corrector, self.queries))

    def peer(self, name: str) -> float:
        sides = [Features(x) for x in (self.queries, self.gallery, self.bank)]
        direction = Direction(FeaturePair(*sides[:2]), *sides[:2], query_bank=sides[2])
        return self.r1(METHODS[name].correct(direction))


def load(folder: Path) -> tuple[Way, Way]:
    text, video, texts, videos = (
        np.load(folder / f"{name}.npy") for name in ("text", "video", "text_bank", "video_bank")
    )
    found = folder / "text_to_video.npy"
    owner = np.load(found) if found.exists() else np.arange(len(text))
    truth = GroundTruth.from_index(owner, len(video))
    return Way(text, video, texts, videos, truth), Way(video, text, videos, texts, truth.T)


def ends(way: Way) -> Iterator[Way]:
    """Queries and gallery from one end of the gallery's first principal component, bank from the
    other: the third of the pairs that lies lowest, the third that lies highest, and back.
    """
    unit = way.gallery.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    low, high = (np.flatnonzero(along < np.quantile(along, 1 / 3)),
                 np.flatnonzero(along > np.quantile(along, 2 / 3)))  # fmt: skip
    for asked, others in ((low, high), (high, low)):
        where = np.full(len(along), -1)
        where[asked] = np.arange(len(asked))
        query, item = way.truth.query, way.truth.item
        here = where[item] >= 0
        rows = np.unique(query[here])
        bank = np.unique(query[np.isin(item, others)])
        pairs = np.stack([np.searchsorted(rows, query[here]), where[item[here]]], 1)
        truth = GroundTruth.from_pairs(pairs, (len(rows), len(asked)))
        yield Way(
            way.queries[rows], way.gallery[asked], way.queries[bank], way.gallery[others], truth
        )


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--demo", action="store_true", help="also the data that ship here")
    parser.add_argument("--tune", type=float, metavar="SECONDS", help="also tune, each so long")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    sets = {folder.name: load(folder) for folder in given.folders}
    if given.demo:
        demo = load_demo()
        truth = GroundTruth.diagonal((len(demo.text), len(demo.video)))
        sets["demo"] = (
            Way(demo.text, demo.video, demo.text_bank, demo.video_bank, truth),
            Way(demo.video, demo.text, demo.video_bank, demo.text_bank, truth.T),
        )
    if not sets:
        parser.error("give a folder or --demo")
    own = [name for name in sets if name != "demo"] or list(sets)
    found: dict[str, dict[str, list[float]]] = {}

    def measure(label: str, of: Callable[[Way], float]) -> None:
        found[label] = {name: [of(way) for way in ways] for name, ways in sets.items()}

    def mean(label: str) -> float:
        return float(np.mean([found[label][name] for name in own]))

    measure("cosine", Way.cosine)
    measure("emcl_plugin", Way.ours)
    measure("emcl_plugin, both banks", lambda way: way.ours(gallery_bank=way.others))
    measure("emcl_plugin, no guard", partial(Way.ours, guard=False))
    measure("emcl_plugin, no EMCL", partial(Way.ours, emcl=None))
    for name, method in METHODS.items():
        if method.bank and "gallery bank" not in method.needs:
            measure(name, partial(Way.peer, name=name))
    rows = [
        [label, f"{mean(label):.2f}", *(f"{np.mean(r1):.1f}" for r1 in found[label].values())]
        for label in sorted(found, key=mean, reverse=True)
    ]
    title = "Mean R@1 of both directions, each from the bank of the side that asks"
    table(title, ["method", f"mean of {len(own)}", *sets], rows)

    rows = []
    for tau in (0.15, 0.2, 0.3, 0.4, 0.6):
        cells = []
        for rho in (0.65, 0.8, 0.9, 1.0):
            label = f"tau {tau:g} std, rho {rho:g}"
            measure(label, partial(Way.ours, ncl=NCL(temperature_std=tau, rho=rho)))
            mark = "**" if (tau, rho) == (BANK.temperature_std, BANK.rho) else ""
            cells.append(f"{mark}{mean(label):.2f}{mark}")
        rows.append([f"{tau:g} std", *cells])
    table(
        "The same by NCL's settings",
        ["temperature", *(f"rho {r:g}" for r in (0.65, 0.8, 0.9, 1.0))],
        rows,
    )

    rng = np.random.default_rng(0)
    kinds: dict[str, list[tuple[float, str]]] = {}
    for name, ways in sets.items():
        gains: dict[str, list[float]] = {}
        for side, way in enumerate(ways):
            dimension, plain = way.gallery.shape[1], way.cosine()
            junk = {
                "random vectors": rng.standard_normal((1000, dimension)).astype(np.float32),
                "ten of its own": way.bank[:10],
                "fifty of its own": way.bank[:50],
                "one of its own, 500 times": np.repeat(way.bank[:1], 500, axis=0),
                "the wrong side's": way.others,
            }
            for other, ways2 in sets.items():
                if other != name and ways2[side].bank.shape[1] == dimension:
                    junk[f"of {other}"] = ways2[side].bank
            for kind, bank in junk.items():
                gains.setdefault(kind, []).append(way.ours(bank) - plain)
            for cut in ends(way):
                gains.setdefault("of the other end of the set", []).append(
                    cut.ours() - cut.cosine()
                )
                both = cut.ours(gallery_bank=cut.others) - cut.cosine()
                gains.setdefault("of the other end, with its gallery bank", []).append(both)
        for kind, values in gains.items():
            common = "of another set" if kind.removeprefix("of ") in sets else kind
            kinds.setdefault(common, []).append((float(np.mean(values)), name))
    rows = [
        [kind, f"{np.mean([g for g, _ in gains]):+.2f}", "{:+.1f} ({})".format(*min(gains))]
        for kind, gains in kinds.items()
    ]
    title = "Banks of other kinds: mean R@1 of both directions over cosine"
    table(title, ["bank", "mean", "worst set"], rows)

    if given.tune:
        rows = []
        for name, ways in sets.items():
            for way, label in zip(ways, ("text -> video", "video -> text"), strict=True):
                started = time.perf_counter()
                tuned = tune(way.bank, way.others, budget=given.tune)
                seconds = time.perf_counter() - started
                settings = {"emcl": tuned.chosen.emcl, "ncl": tuned.chosen.ncl}
                plain, better = way.ours(), way.ours(**settings)
                found.setdefault("tuned", {}).setdefault(name, []).append(better)
                cells = [str(tuned.cuts), f"{seconds:.1f}", f"{plain:.1f}", f"{better:.1f}"]
                rows.append([name, label, tuned.chosen.name, *cells, f"{better - plain:+.1f}"])
        gain = mean("tuned") - mean("emcl_plugin")
        title = f"Tuned inside the bank, at most {given.tune:g} s each: mean {gain:+.2f}"
        header = ["set", "direction", "chosen", "cuts", "seconds", "defaults", "tuned", "gain"]
        table(title, header, rows)
    if given.json:
        given.json.write_text(json.dumps({"r1": found, "junk": kinds}))


if __name__ == "__main__":
    try:
        main()
    except EmclError as error:
        raise SystemExit(str(error)) from None
