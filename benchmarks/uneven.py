"""What corrections do when the queries ask unevenly for the videos: R@1 by scenario.

A folder holds text.npy, video.npy and, where row i does not belong to row i, text_to_video.npy.

    python benchmarks/uneven.py FOLDER [FOLDER ...] [--demo] [--draws 5] [--methods a,b,c]
                                [--json OUT.json] [--plot OUT.svg]
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.baselines import METHODS, Direction
from emcl_plugin.data.demo import load_demo
from emcl_plugin.emcl import Reconstruction
from emcl_plugin.errors import EmclError
from emcl_plugin.evaluation.compare import INPUT, OURS, compare
from emcl_plugin.evaluation.metrics import place
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Settings
from emcl_plugin.scores import Biased, FeaturePair, Features, Similarity

Array = np.ndarray[Any, Any]
Data = tuple[Array, Array, Array]  # texts, videos, and the video's index of every text
Random = np.random.Generator

PEERS = [name for name, method in METHODS.items() if "gallery bank" not in method.needs]
DEFAULT = [INPUT, OURS, "ncl-even", "ncl-gentle", *PEERS]
ALONE = 20  # queries that are asked alone
LARGE = 200  # videos that a set needs to count in the means


def even(owner: Array, _: Random) -> Array:
    """Every text once."""
    return np.arange(len(owner))


def share(owner: Array, random: Random, part: float) -> Array:
    """All texts of a random part of the videos; nobody asks for the others."""
    videos = np.unique(owner)
    chosen = random.choice(videos, max(1, round(part * len(videos))), replace=False)
    return np.flatnonzero(np.isin(owner, chosen))


def zipf(owner: Array, random: Random) -> Array:
    """As many draws as there are texts, each text's chance 1 / its rank in a random order."""
    chance = 1 / (1 + random.permutation(len(owner)))
    return random.choice(len(owner), len(owner), p=chance / chance.sum())


def clusters(owner: Array, random: Random) -> Array:
    """Five texts of each of a fifth of the videos, where so many have five."""
    videos, counts = np.unique(owner, return_counts=True)
    size = max(1, round(len(videos) / 5))
    if (counts >= 5).sum() < size:
        return np.arange(0)
    chosen = random.choice(videos[counts >= 5], size, replace=False)
    texts = (np.flatnonzero(owner == video) for video in chosen)
    return np.concatenate([random.choice(five, 5, replace=False) for five in texts])


def few(owner: Array, random: Random) -> Array:
    """Fifty random texts, where there are more than a hundred."""
    return random.choice(len(owner), 50 if len(owner) > 100 else 0, replace=False)


ASKED: dict[str, Callable[[Array, Random], Array]] = {
    "even": even, "half": partial(share, part=1 / 2), "fifth": partial(share, part=1 / 5),
    "zipf": zipf, "clusters": clusters, "few": few,
}  # fmt: skip
UNEVEN = ("half", "fifth", "zipf")
SCENARIOS = (*ASKED, "shift")


def shifted(text: Array, video: Array, bank: Array) -> Similarity:
    """Our scores of texts when the bank's texts, not they themselves, make the correction.

    The gentle prior: what a bank asks for says little about what will be asked next.
    """
    found = Job(None, (bank, video), Settings(prior="gentle")).correct()
    query, gallery = Features(text), Features(video)
    scores: Similarity = FeaturePair(query, gallery)
    if found.guard.applied and found.emcl is not None and found.subspaces is not None:
        emcl = Reconstruction(query, gallery, found.subspaces, renormalize=True)
        scores = emcl.scores(scores, found.emcl.strength) if found.emcl.strength else scores
    if found.guard.applied and found.biases is not None:
        bias = found.biases.video
        scores = Biased(scores, bias.new_zeros(len(text)), bias)
    return scores


@dataclass
class Results:
    """R@1 of every draw by set, scenario, direction and method.

    ``alone`` counts by method: queries asked alone, refused, and of another rank than before.
    """

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    draws: dict[tuple[str, ...], list[float]] = field(default_factory=dict)
    alone: dict[str, Array] = field(default_factory=dict)

    def r1(self, *key: str) -> float:
        """Mean of the draws; NaN where there are none."""
        return float(np.mean(self.draws.get(key, [np.nan])))

    def gain(self, *key: str) -> float:
        """Points of R@1 over the input."""
        return self.r1(*key) - self.r1(*key[:3], INPUT)

    def sets(self, videos: int = 0) -> list[str]:
        """Those that are not a part of another, with at least so many videos; else all."""
        own = [s for s, n in self.sizes.items() if not s.endswith("_split") and n[1] >= videos]
        return own or list(self.sizes)

    def average(self, method: str, ways: Sequence[str], *cases: str, videos: int = LARGE) -> float:
        """Mean over the sets that have a scenario, then over scenarios and directions."""
        keys = [(scenario, way, method) for scenario in cases for way in ways]
        table = [[self.r1(name, *key) for name in self.sets(videos)] for key in keys]
        return float(np.mean(np.nanmean(table, axis=1)))


def measure(results: Results, name: str, data: Data, methods: Sequence[str], draws: int) -> None:
    """All scenarios on one set."""
    text, video, owner = data
    results.sizes[name] = (len(text), len(video))
    for scenario in SCENARIOS:
        print(f"{name}: {scenario}", file=sys.stderr)
        for draw in range(1 if scenario == "even" else draws):
            random = np.random.default_rng([draw, zlib.crc32(f"{name}/{scenario}".encode())])
            found = {}
            if scenario == "shift":
                found = {(DIRECTIONS[0], m): r1 for m, r1 in shift(data, methods, random).items()}
            elif len(asked := ASKED[scenario](owner, random)):
                truth = GroundTruth.from_index(owner[asked], len(video))
                rows, _ = compare(None, (text[asked], video), truth=truth, methods=methods)
                ways = [(row, *way) for row in rows for way in row.evaluation.directions]
                found = {(way, row.name): place.metric("R@1") for row, way, place in ways}
            for key, value in found.items():
                results.draws.setdefault((name, scenario, *key), []).append(value)
    random = np.random.default_rng(zlib.crc32(name.encode()))
    for method, counts in one(data, methods, random).items():
        results.alone[method] = results.alone.get(method, 0) + counts


def shift(data: Data, methods: Sequence[str], random: Random) -> dict[str, float]:
    """R@1 of the texts of half of the videos, corrected by the texts of the other half alone."""
    text, video, owner = data
    asked = np.isin(np.arange(len(text)), share(owner, random, 1 / 2))
    query, gallery, bank = text[asked], Features(video), text[~asked]
    scores = FeaturePair(Features(query), gallery)
    direction = Direction(scores, scores.text, gallery, query_bank=Features(bank))
    found: dict[str, Similarity] = {INPUT: scores}
    for name in methods:
        if name == OURS:
            found[name] = shifted(query, video, bank)
        elif name in METHODS and METHODS[name].bank and not METHODS[name].missing(direction):
            found[name] = METHODS[name].correct(direction)
    truth = GroundTruth.from_index(owner[asked], len(video))
    return {name: place(source, truth).metric("R@1") for name, source in found.items()}


def one(data: Data, methods: Sequence[str], random: Random) -> dict[str, Array]:
    """Random queries each alone, by our own methods: asked, refused, of another rank."""
    text, video, owner = data

    def rank(query: Array, method: str) -> float | None:
        truth = GroundTruth.from_index(owner[query], len(video))
        try:
            rows, _ = compare(None, (text[query], video), truth=truth, methods=[method])
        except EmclError:
            return None
        return float(rows[0].evaluation.text_to_video.ranks()[0])

    counts = {m: np.zeros(3, dtype=int) for m in methods if m not in (INPUT, *METHODS)}
    for query in random.choice(len(text), (min(ALONE, len(text)), 1), replace=False):
        before = rank(query, INPUT)
        for method in counts:
            after = rank(query, method)
            counts[method] += [1, after is None, after not in (None, before)]
    return counts


def cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


def best_first(r1: dict[str, float]) -> list[str]:
    return sorted(r1, key=lambda method: -np.nan_to_num(r1[method]))


def print_tables(results: Results, methods: Sequence[str]) -> None:
    """Everything, as Markdown."""
    print(f"Means over those that have the scenario of {', '.join(results.sets(LARGE))}.")
    for direction, columns in zip(DIRECTIONS, (SCENARIOS, SCENARIOS[:-1]), strict=True):
        three = {method: results.average(method, [direction], *UNEVEN) for method in methods}
        rows = []
        for method in best_first(three):
            cells = [cell(results.average(method, [direction], name)) for name in columns]
            cells.insert(4, cell(three[method]))
            keys = [(name, scenario, direction) for name in results.sizes for scenario in columns]
            gains = [(results.gain(*key, method), *key[:2]) for key in keys]
            if gains := [found for found in gains if not np.isnan(found[0])]:
                gain, name, scenario = min(gains)
                worst = "-" if method == INPUT else f"{gain:+.1f} ({name}, {scenario})"
                rows.append([method, *cells, worst])
        header = ["method", *columns[:4], "mean of the three", *columns[4:]]
        table(f"R@1, {direction}", [*header, "worst case against the input"], rows)

    title = f"Even: mean R@1 of both directions over {', '.join(results.sets())}"
    r1 = {method: results.average(method, DIRECTIONS, "even", videos=0) for method in methods}
    table(title, ["method", "R@1"], [[method, cell(r1[method])] for method in best_first(r1)])
    rows = [[method, *map(str, counts)] for method, counts in results.alone.items()]
    table("Queries alone", ["method", "asked", "refused", "of another rank than before"], rows)
    for name, (texts, videos) in results.sizes.items():
        rows = []
        for method in (m for m in (INPUT, "ncl-even", OURS) if m in methods):
            pairs = [[results.r1(name, s, d, method) for d in DIRECTIONS] for s in SCENARIOS]
            rows.append([method, *(" / ".join(map(cell, pair)) for pair in pairs)])
        title = f"{name}, {texts} x {videos}: R@1, {' / '.join(DIRECTIONS)}"
        table(title, ["method", *SCENARIOS], rows)


def draw_plot(results: Results, methods: Sequence[str], path: Path) -> None:
    """Points of R@1 over the input: mean of the large sets, and a line to the worst of them."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink, sets = "#24292f", results.sets(LARGE)
    ours = [method for method in methods if method not in (INPUT, *METHODS)][:3]
    three = {m: results.average(m, DIRECTIONS, *UNEVEN) for m in methods if m in METHODS}
    shown = [*ours, *best_first(three)[:3]]
    colours = ("#1b5fb8", "#16765a", "#7d3fa6", "#b8520a", "#8a6d00", "#6e7781")
    with mpl.rc_context({"font.size": 9.5, "svg.hashsalt": "uneven", "legend.frameon": False}):
        figure = Figure(figsize=(8.4, 6.4), layout="constrained", facecolor="white")
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        for direction, axes in zip(DIRECTIONS, panels, strict=True):
            axes.axhline(0, color=ink, linewidth=0.8)
            for k, (name, colour, marker) in enumerate(zip(shown, colours, "osD^vP", strict=False)):
                gains = [[results.gain(s, c, direction, name) for s in sets] for c in SCENARIOS]
                x = np.arange(len(gains)) + 0.13 * (k - (len(shown) - 1) / 2)
                mean, low = np.nanmean(gains, axis=1), np.nanmin(gains, axis=1)
                axes.vlines(x, low, mean, color=colour, linewidth=0.9)
                face = colour if name in ours else "white"
                axes.plot(x, mean, marker, color=colour, markerfacecolor=face, label=name)
            axes.grid(axis="y", color="#d8dee4", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(length=0, colors=ink)
            axes.spines[:].set_visible(False)
            axes.set_title(direction, loc="left", fontsize=10, color=ink)
        panels[1].set_xticks(range(len(SCENARIOS)), SCENARIOS)
        unit = f"points of R@1 over the input: mean of up to {len(sets)} sets, line to the worst"
        figure.supylabel(unit, fontsize=9.5, color=ink)
        handles = panels[0].lines[1:]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(shown), labelcolor=ink)
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--demo", action="store_true", help="also the data that ship here")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--methods", default=",".join(DEFAULT))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    methods = list(dict.fromkeys([INPUT, *given.methods.split(",")]))
    warnings.simplefilter("ignore")
    data: dict[str, Data] = {}
    for folder in given.folders:
        text, video = np.load(folder / "text.npy"), np.load(folder / "video.npy")
        truth = folder / "text_to_video.npy"
        owner = np.load(truth) if truth.exists() else np.arange(len(text))
        data[folder.name] = text, video, owner
    if given.demo:
        demo = load_demo()
        data["demo"] = demo.text, demo.video, np.arange(len(demo.text))
    if not data:
        parser.error("give a folder or --demo")
    results = Results()
    for name in data:
        measure(results, name, data[name], methods, given.draws)
    print_tables(results, methods)
    if given.json:
        found = {**vars(results), "draws": [[*k, v] for k, v in results.draws.items()]}
        given.json.write_text(json.dumps(found, default=np.ndarray.tolist))
    if given.plot:
        draw_plot(results, methods, given.plot)


if __name__ == "__main__":
    main()
