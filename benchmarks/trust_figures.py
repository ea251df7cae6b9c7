"""From single draws to the figures that `trust.py` keeps as JSON and shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from trust_measure import BEFORE, SETS, SHAPES, UNTOUCHED, WORLDS
from worlds import make

from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.evaluation.compare import INPUT, OURS

HARM = (1.0, 5.0)
"""Points of R@1 under the input from which a draw counts as harmed."""
FILLED = ", else "  # in the name of a shape: what stands for its unscored pairs
SHOWN = 12  # worst cases

Figures = dict[str, Any]
Draws = dict[tuple[str, str, int, str], dict[str, list[tuple[float, float]]]]
"""(R@1, input's R@1) of every draw, by part, case, direction and method, and by set."""


def summarise(kept: Iterable[Mapping[str, Any]], sizes: Mapping[str, Sequence[int]]) -> Figures:
    """Return all figures.

    Parameters
    ----------
    kept : iterable of {"task": ..., "found": ...}
        What :func:`trust_measure.measure` returned, by task.
    sizes : dict of str to two int
        Texts and videos of every set.
    """
    draws, refused = _draws(kept)
    rows = [_row(key, by_set, refused.get(key, 0)) for key, by_set in draws.items()]
    own = {(r["part"], r["case"], r["direction"]): r for r in rows if r["method"] == OURS}
    for (part, case, direction), row in own.items():
        if part == SHAPES:
            way = DIRECTIONS.index(direction)
            row |= _beside_untouched(
                *(draws[part, case, way, m] for m in (OURS, UNTOUCHED, BEFORE))
            )
    rows = [row for row in rows if row["method"] not in (BEFORE, UNTOUCHED)]
    return {"rows": rows, "sets": _by_set(draws, sizes), "worst": _worst(draws)}


def _draws(kept: Iterable[Mapping[str, Any]]) -> tuple[Draws, dict[Any, int]]:
    draws: Draws = defaultdict(lambda: defaultdict(list))
    refused: dict[Any, int] = defaultdict(int)
    for line in kept:
        part, name, _, draw = line["task"]
        if part == WORLDS:
            name = f"{name} {draw}"
        for shape, methods in line["found"].items():
            case = shape.partition(FILLED)[0]  # all fillings of the same pairs are one case
            for method, r1 in methods.items():
                for way, before in enumerate(methods[INPUT]):
                    key = part, case, way, method
                    if r1 is None:
                        refused[key] += 1
                        draws[key].update({})
                    elif way < len(r1):
                        draws[key][name].append((r1[way], before))
    return draws, refused


def independent(names: Iterable[str]) -> list[str]:
    """Return the sets that are not a part of another, nor of its kind; all if there are none."""
    names = list(names)
    return [n for n in names if not n.endswith("_split") and not n.startswith("demo")] or names


def _row(key: tuple[str, str, int, str], by_set: Mapping[str, Any], refused: int) -> Figures:
    """Means over independent sets of their draws' means, the worst set, the share harmed."""
    part, case, way, method = key
    row: Figures = {"part": part, "case": case, "direction": DIRECTIONS[way], "method": method}
    if refused:
        row["refused"] = refused
    if not by_set:
        return row
    means = {name: np.mean(pairs, axis=0) for name, pairs in by_set.items()}
    chosen = [means[name] for name in independent(means)]
    gains = {name: float(mean[0] - mean[1]) for name, mean in means.items()}
    where = min(gains, key=lambda name: gains[name])
    all_gains = np.concatenate([np.subtract(*np.transpose(pairs)) for pairs in by_set.values()])
    r1, before = np.mean(chosen, axis=0)
    row |= {"sets": len(means), "draws": len(all_gains), "r1": _2(r1), "input": _2(before)}
    row |= {"worst": _2(gains[where]), "where": where, "worst_draw": _2(all_gains.min())}
    return row | {"harmed": [_2(100 * np.mean(all_gains < -points)) for points in HARM]}


def _2(value: Any) -> float:
    return round(float(value), 2) + 0.0


def _beside_untouched(ours: Any, untouched: Any, before: Any) -> Figures:
    """How far our result lies from that on the untouched scores, and the share of its gain.

    ``spread`` is the largest difference between two fillings of the same pairs. Sets on which the
    untouched scores gain less than a point say nothing about the share.
    """
    if not ours:
        return {}
    r1 = {name: np.array(ours[name]) for name in ours}
    aims = {name: untouched[name][0][0] for name in ours}
    off = {name: float(max(r1[name][:, 0] - aims[name], key=abs)) for name in ours}
    far = max(off, key=lambda name: abs(off[name]))
    gains = [(np.mean(r1[n][:, 0] - r1[n][:, 1]), aims[n] - before[n][0][0]) for n in ours]
    gained = np.array([pair for pair in gains if pair[1] >= 1])
    kept = _2(100 * gained[:, 0].sum() / gained[:, 1].sum()) if len(gained) else None
    spread = max(float(np.ptp(each[:, 0])) for each in r1.values())
    return {"off": _2(off[far]), "off_where": far, "kept": kept, "spread": _2(spread)}


def _by_set(draws: Draws, sizes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """R@1 of the input and ours, text -> video and video -> text, by set and scenario."""
    found: dict[str, Any] = {name: {"size": list(size)} for name, size in sizes.items()}
    for (part, case, way, method), by_set in draws.items():
        if part == SETS and method in (INPUT, OURS):
            for name, pairs in by_set.items():
                cells = found[name].setdefault(case, {}).setdefault(method, [None, None])
                cells[way] = _2(np.mean(pairs, axis=0)[0])
    return found


def _worst(draws: Draws) -> list[Figures]:
    """Our worst cases: means of the draws of a set, single worlds, single shapes."""
    found = []
    for (part, case, way, method), by_set in draws.items():
        if method == OURS:
            for name, pairs in by_set.items():
                r1, before = np.mean(pairs, axis=0)
                found.append((float(r1 - before), part, name, case, DIRECTIONS[way], float(before)))
    chosen = []
    for part in (SETS, WORLDS, SHAPES):
        chosen += sorted(each for each in found if each[1] == part and each[0] < 0)[:SHOWN]
    names = ("gain", "part", "set", "case", "direction", "input")
    rows: list[Figures] = [dict(zip(names, each, strict=True)) for each in chosen]
    for row in rows:
        row["gain"], row["input"] = _2(row["gain"]), _2(row["input"])
        if row["part"] == WORLDS:
            kind, seed = row["set"].split()
            row["settings"] = str(make(kind, int(seed))[1])
    return rows
