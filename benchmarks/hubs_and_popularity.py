"""Hubs and popular videos where the truth is known: what each prior does, and who is who.

Videos are Gaussian vectors, a text is its video plus noise. Some videos are made hubs, others
are asked for by many different texts, the rest by one text or by none.

    python benchmarks/hubs_and_popularity.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from emcl_plugin import rescore

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class World:
    """Scores, the right video of every text, and which videos are hubs and popular."""

    scores: Array
    right: Array
    hubs: Array
    popular: Array


def make(
    kind: str, seed: int, *, popular: int, texts_each: int, noise: float, asked: float
) -> World:
    """400 videos of 64 dimensions, 20 of them hubs of one kind.

    none: no hubs but those that chance makes. direction: all texts share a direction, hubs lean
    towards it. offset: hubs score higher with every text. spread: with some texts much higher.
    """
    random = np.random.default_rng(seed)
    video = random.standard_normal((400, 64))
    order = random.permutation(400)
    hubs, loved, rest = np.split(order, [20, 20 + popular])
    others = np.concatenate([hubs, rest])
    once = random.choice(others, int(asked * len(others)), replace=False)
    right = np.concatenate([np.repeat(loved, texts_each), once])
    text = video[right] + noise * random.standard_normal((len(right), 64))
    if kind == "direction":
        shared = random.standard_normal(64)
        text, video[hubs] = text + shared, video[hubs] + 1.5 * shared
    text, video = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video))
    scores = text @ video.T
    if kind == "offset":
        scores[:, hubs] += 0.18
    if kind == "spread":
        scores[:, hubs] += 0.22 * np.abs(random.standard_normal((len(text), 20)))
    return World(scores, right, hubs, loved)


def auc(hubs: Array, popular: Array) -> float:
    """How often a hub has the larger value."""
    pairs = hubs[:, None] - popular
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean()) if pairs.size else np.nan


def look(world: World) -> list[float]:
    """R@1 of the input and with each prior, the guard's strength, what is due to hubs, AUCs."""

    def r1(scores: Array) -> float:
        return 100 * float((scores.argmax(1) == world.right).mean())

    auto = rescore(world.scores)
    even = rescore(world.scores, prior="even", guard=False)
    ways = []
    assert auto.probes is not None
    for biases in (auto.probes.leave_best_out, even.biases):
        assert biases is not None
        lowered = -np.asarray(biases.video)
        ways.append(auc(lowered[world.hubs], lowered[world.popular]))
    gentle = rescore(world.scores, prior="gentle", guard=False)
    found = [r1(world.scores), *(r1(x.scores) for x in (auto, gentle, even))]
    return [*found, auto.guard.strength, auto.prior.hubs if auto.prior else np.nan, *ways]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    warnings.simplefilter("ignore")
    header = ["hubs", "popular", "noise", "R@1 input", "auto", "gentle", "even"]
    header += ["strength", "due to hubs", "AUC leave-best-out", "AUC even"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    crowds = [("none, all asked", 0, 0, 1.0), ("none, half asked", 0, 0, 0.5)]
    crowds += [(f"20 by {k}", 20, k, 0.5) for k in (4, 12, 30)]
    for kind in ("none", "direction", "offset", "spread"):
        for noise in (1.2, 2.0, 3.0):
            for name, popular, each, asked in crowds:
                settings = {"popular": popular, "texts_each": each, "noise": noise, "asked": asked}
                found = [look(make(kind, seed, **settings)) for seed in range(seeds)]  # type: ignore[arg-type]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    means = np.nanmean(found, axis=0)
                cells = [f"{x:.1f}" for x in means[:4]] + [f"{x:.2f}" for x in means[4:]]
                shown = " | ".join("-" if cell == "nan" else cell for cell in cells)
                print(f"| {kind} | {name} | {noise} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
