"""The constants of the prior: how much each matters, and whether one set alone decides it.

Every constant is varied with the others as they are, on the sets and on made data with hubs and
popular videos. Then it is chosen anew with each set left out: of the values whose worst case on
the remaining sets is at most 1.5 points of R@1 under the input, the one in use, unless another's
mean is better by more than two standard errors (over sets).

    python benchmarks/prior_constants.py FOLDER [FOLDER ...] [--draws 3]
"""

from __future__ import annotations

import argparse
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from hubs_and_popularity import make
from sets import ASKED, Data, load
from trust_measure import on

from emcl_plugin import rescore
from emcl_plugin.evaluation.compare import INPUT, OURS
from emcl_plugin.evidence import guard, near_duplicates, prior

CONSTANTS: list[tuple[Any, str, list[Any]]] = [
    (guard, "EVIDENCE", [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (0.5, 3.5)]),
    (prior, "GENTLE_TEMPERATURE_STD", [0.25, 0.4, 0.6]),
    (prior, "GENTLE_RHO", [0.5, 0.65, 0.8]),
    (prior, "HUBS", [(0.2, 0.4), (0.3, 0.45), (0.4, 0.5), (0.5, 0.6)]),
    (prior, "COMPANIONS", [(0.6, 0.9), (0.8, 1.2), (1.0, 1.5), (9.0, 9.9)]),
    (prior, "SEVERAL", [(1.0, 1.5), (1.25, 1.75), (1.5, 3.0)]),
    (prior, "WEAK", [(0.0, 0.1), (0.3, 0.5), (0.5, 0.7), (2.0, 3.0)]),
    (prior, "FEW", [(-1.0, 0.0), (0.0, 0.2), (0.1, 0.4)]),
    (prior, "EVENNESS", [(0.4, 0.8), (0.5, 0.85), (0.6, 0.9)]),
    (prior, "SHORTFALL", [(-0.35, -0.1), (-0.3, -0.05), (-0.2, 0.0)]),
    (prior, "UNPAIRED", [0.25, 0.35, 0.45]),
    (near_duplicates, "NEAR", [0.003, 0.01, 0.03]),
]
KINDS = ("none", "direction", "offset", "spread")
SCENARIOS = ("even", "half", "fifth", "zipf", "few")


def gains(data: Data, draws: int) -> np.ndarray:
    """Points of R@1 over the input, by scenario and direction: means of the draws."""
    found = []
    for scenario in SCENARIOS:
        cases = []
        for draw in range(1 if scenario == "even" else draws):
            random = np.random.default_rng([draw, zlib.crc32(f"{data.name}/{scenario}".encode())])
            asked = ASKED[scenario](data.owner, random)
            if len(asked):
                r1 = on(data.ask(asked), (INPUT, OURS))
                cases.append(np.subtract(r1[OURS], r1[INPUT]))
        found.append(np.mean(cases, axis=0) if cases else [np.nan, np.nan])
    return np.array(found)


def gains_on_made_data(kind: str, draws: int) -> list[float]:
    """The same, text -> video, by noise and by how many texts ask for a popular video."""
    found = []
    for noise in (1.2, 2.0):
        for texts_each in (0, 4, 12, 30):
            popular, asked = (20, 0.5) if texts_each else (0, 1.0)
            for seed in range(draws):
                world = make(
                    kind, seed, popular=popular, texts_each=texts_each, noise=noise, asked=asked
                )
                pair = world.scores, rescore(world.scores).scores
                right = [100 * (x.argmax(1) == world.right).mean() for x in pair]
                found.append(right[1] - right[0])
    return found


def choose(found: np.ndarray, made: np.ndarray, used: int) -> int:
    """The value to take, given gains by value, set, scenario and direction; and on made data."""
    means = np.concatenate([np.nanmean(found, axis=(2, 3)), made], axis=1)
    safe = [k for k in range(len(found)) if np.nanmin(found[k]) >= -1.5]
    for k in sorted(safe, key=lambda k: -means[k].mean()):
        better = means[k] - means[used]
        if used not in safe or better.mean() > 2 * better.std(ddof=1) / len(better) ** 0.5:
            return k
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    data = [load(folder) for folder in given.folders]
    print("Points of R@1 over the input, mean over sets, of both directions\n")
    header = [
        "constant",
        "value",
        *SCENARIOS,
        "mean",
        "worst",
        "made data",
        "taken without one set",
    ]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for module, constant, values in CONSTANTS:
        used, results, made = getattr(module, constant), [], []
        for value in values:
            print(f"{constant} = {value}", file=sys.stderr)
            setattr(module, constant, value)
            results.append([gains(each, given.draws) for each in data])
            made.append([np.mean(gains_on_made_data(kind, given.draws)) for kind in KINDS])
        setattr(module, constant, used)
        found, own = np.array(results), values.index(used)
        others = [np.delete(found, k, axis=1) for k in range(len(data))]
        taken = [choose(rest, np.array(made), own) for rest in others]
        for k, value in enumerate(values):
            cells = [f"{x:+.2f}" for x in np.nanmean(found[k], axis=(0, 2))]
            cells += [f"{np.nanmean(found[k], axis=(1, 2)).mean():+.2f}"]
            cells += [f"{np.nanmin(found[k]):+.1f}", f"{np.mean(made[k]):+.2f}"]
            mark = "**" if k == own else ""
            print(
                f"| {constant if not k else ''} | {mark}{value}{mark} | {' | '.join(cells)} | "
                f"{taken.count(k)} of {len(data)} |"
            )


if __name__ == "__main__":
    main()
