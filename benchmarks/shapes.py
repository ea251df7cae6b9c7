"""The same scores in other shapes: what retrievers return in place of logits of all pairs.

`shapes(sim, right)` yields shapes of three kinds:

- "same": all the information is kept, so the result must be that of the untouched scores;
- "filled": some pairs are not scored, and a value stands for them; whatever the value, the result
  must be the same;
- "less": information is lost; the result must not fall below the shape's own input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FILLINGS = (0.0, -1.0, -100.0, -1e4, -1e9, float(np.finfo("f4").min), -np.inf, np.nan)
TOP = 50


@dataclass(frozen=True)
class Shape:
    """Scores in another shape.

    Attributes
    ----------
    name, kind : str
        The kind is "same", "filled" or "less".
    scores : (n_text, n_video)
    scored : (n_text, n_video) bool, optional
        Which pairs were scored; default: all.
    group : str
        Fillings of the same pairs have the same group.
    """

    name: str
    kind: str
    scores: Array
    scored: Array | None = None
    group: str = ""

    @property
    def options(self) -> dict[str, str]:
        """Options that this shape needs: NaN stands for an unscored pair only on request."""
        return {"unscored": "nan"} if np.isnan(self.scores).any() else {}


def softmax(logits: Array) -> Array:
    """Return the softmax of every row, in float64."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def top(sim: Array, k: int) -> Array:
    """Return which pairs are among the k best videos of their text."""
    best = np.argpartition(-sim, min(k, sim.shape[1] - 1), axis=1)[:, :k]
    out = np.zeros(sim.shape, bool)
    np.put_along_axis(out, best, True, 1)
    return out


def shapes(sim: Array, right: Array, seed: int = 0) -> Iterator[Shape]:
    """Yield ``sim`` (n_text, n_video) in every shape, as float32 or float16.

    ``right`` (n_text, n_video) marks the right pairs, which random masks leave alone.
    """
    sim = sim.astype("f8")
    random = np.random.default_rng(seed)
    yield from _same(sim, random)
    listed, mask = top(sim, TOP), (random.random(sim.shape) < 0.3) & ~right
    one = np.zeros(sim.shape, bool)
    one[np.arange(len(sim)), (right.argmax(1) + 1) % sim.shape[1]] = True
    positive = sim - sim.min() + 0.01 * np.ptp(sim)
    for name, hidden in (("top 50", ~listed), ("30 % masked", mask), ("one per text masked", one)):
        yield from _filled(name, positive, hidden & ~right if name[0] != "t" else hidden)
    yield from _less(sim)


def _same(sim: Array, random: np.random.Generator) -> Iterator[Shape]:
    z = (sim - sim.mean()) / sim.std()
    spot = random.integers(sim.shape[0]), random.integers(sim.shape[1])
    changed = {
        "times 100": 100 * sim,
        "plus 7": sim + 7,
        "softmax of rows": softmax(4 * z),
        "sigmoid": 1 / (1 + np.exp(-z)),
        "sharp sigmoid": 1 / (1 + np.exp(-3 * (z - z.max()) - 8)),
    }
    yield Shape("float16", "same", sim.astype("f2"))
    for name, scores in changed.items():
        yield Shape(name, "same", scores.astype("f4"))
    for value in (1000.0, -1000.0):
        scores = sim.astype("f4")
        scores[spot] = value
        yield Shape(f"one {value:g}", "same", scores)


def _filled(name: str, positive: Array, hidden: Array) -> Iterator[Shape]:
    for value in FILLINGS:
        scores = np.where(hidden, value, positive).astype("f4")
        yield Shape(f"{name}, else {value:.3g}", "filled", scores, ~hidden, name)


def _less(sim: Array) -> Iterator[Shape]:
    low, high = sim.min(), sim.max()
    z = (sim - sim.mean()) / sim.std()
    changed = {
        "two decimals": np.round(sim / max(abs(low), abs(high)), 2),
        "uint8": np.round((sim - low) / (high - low) * 255),
        "saturated tops": np.minimum(sim, np.quantile(sim, 0.999)),
        "saturated sigmoid": 1 / (1 + np.exp(-8 * z.astype("f4"), dtype="f4")),
        "ReLU": np.maximum(z, 0),
    }
    for name, scores in changed.items():
        yield Shape(name, "less", scores.astype("f4"))
