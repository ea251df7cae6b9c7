"""What the cost of a method follows from its size: laws, fits, and what they predict.

Laws, for n texts, n videos, d dimensions and k candidates of each item:

- dense: c0 + c1 n n + c2 n n iterations (the last where iterations differ between sizes),
- candidates: c1 n n d (the search) + c2 2 n k.

Coefficients are not negative and have the least squared relative error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.stats import t as student

Row = Mapping[str, Any]
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Law:
    """Seconds as a sum of terms.

    Attributes
    ----------
    terms : tuple of str
        What each coefficient is multiplied by.
    coefficients : tuple of float
        In seconds per term.
    """

    terms: tuple[str, ...]
    coefficients: tuple[float, ...]

    def __call__(self, terms: Mapping[str, float]) -> float:
        return sum(c * terms[name] for name, c in zip(self.terms, self.coefficients, strict=True))

    def __str__(self) -> str:
        parts = zip(self.terms, self.coefficients, strict=True)
        return " + ".join(f"{c:.3g}" + (f" {x}" if x != "1" else "") for x, c in parts)


def terms(row: Row, k: int, dimension: int) -> dict[str, float]:
    """All terms that a law may have, at the size of a measured row."""
    n, iterations = float(row["size"]), float(row.get("iterations", 0))
    return {"1": 1, "n n": n * n, "n n iterations": n * n * iterations, "n n d": n * n * dimension,
            "2 n k": 2 * n * k}  # fmt: skip


def names(rows: Sequence[Row]) -> tuple[str, ...]:
    """The terms of the law that these rows of a method are to follow."""
    if "search_s" in rows[-1]:
        return "n n d", "2 n k"
    varying = len({row.get("iterations") for row in rows}) > 1 and len(rows) > 3
    return ("1", "n n", "n n iterations") if varying else ("1", "n n")


def fit(named: Sequence[str], at: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> Law:
    """The law of these terms that comes closest to the seconds, relatively.

    >>> fit(["1", "n"], [{"1": 1, "n": n} for n in (1, 2, 3)], [5, 7, 9]).coefficients
    (3.0, 2.0)
    """
    table = np.array([[point[name] for name in named] for point in at], dtype=np.float64)
    table /= np.asarray(seconds, dtype=np.float64)[:, None]
    scale = table.max(0)
    found, _ = nnls(table / scale, np.ones(len(table)))
    return Law(tuple(named), tuple(float(f"{c:.12g}") for c in found / scale))


@dataclass(frozen=True)
class Slope:
    """Of log y against log x, with its 95 % interval and R^2."""

    slope: float
    low: float
    high: float
    r2: float

    def __str__(self) -> str:
        return f"{self.slope:.2f} ({self.low:.2f} to {self.high:.2f}), R^2 {self.r2:.4f}"


def slope(x: Sequence[float], y: Sequence[float]) -> Slope:
    """Least squares in logarithms; at least three points.

    >>> round(slope([1, 10, 100, 1000], [2, 20, 200, 2000]).slope, 6)
    1.0
    """
    a, b = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    centred = a - a.mean()
    found = float(centred @ b / (centred @ centred))
    left = b - b.mean() - found * centred
    error = float(left @ left) / (len(a) - 2)
    spread = float(student.ppf(0.975, len(a) - 2)) * (error / float(centred @ centred)) ** 0.5
    r2 = 1 - float(left @ left) / float(((b - b.mean()) ** 2).sum())
    return Slope(found, found - spread, found + spread, r2)


# --- arithmetic for GPUs ------------------------------------------------------------------------

PEAKS = {
    "bf16": (989e12, "989 TFLOP/s dense bf16 tensor cores"),
    "fp32": (67e12, "67 TFLOP/s float32"),
    "exp": (3.9e12, "3.9e12 exponentials/s (16 a clock on each of 132 multiprocessors, 1.83 GHz)"),
    "memory": (3.35e12, "3.35 TB/s HBM3"),
    "link": (450e9, "450 GB/s NVLink each way"),
}
"""Published figures of the H100 SXM: assumptions."""

EFFICIENCY = 0.5
"""Share of the peak that is assumed to be reached."""

_TILE = 1024  # texts for whom a fused kernel reads all videos once
_PASSES = 10  # over a block in BlockKernel.sweep: product 1, scaling 2, maxima 1, shift 2, exp 2,
# sums of rows and of columns 2


def gpu(n: int, d: int, gpus: int, fused: bool) -> list[tuple[str, float, str, float]]:
    """One Sinkhorn iteration over recomputed blocks: (what, amount, rate, seconds at the peak).

    ``fused`` is one kernel with bf16 products that never writes a score, and so computes each
    twice, for its row's sum and then for its column's; otherwise the torch operations of today on
    float32 blocks, whose passes over memory are counted.
    """
    entries, times = n * n / gpus, 1 + fused
    product = "bf16" if fused else "fp32"
    if fused:
        moved, why = times * entries / _TILE * d * 2, f"videos, bf16, twice for {_TILE} texts"
    else:
        moved, why = entries * 4 * _PASSES, f"{_PASSES} passes over float32 blocks"
    lines = [
        (f"products, {2 * times} n n d FLOP", times * 2 * entries * d, product),
        ("exponentials, 2 n n" if fused else "exponentials, n n", times * entries, "exp"),
        (f"memory, bytes: {why}", moved, "memory"),
    ]
    if gpus > 1:
        ring = 2 * (gpus - 1) / gpus * 4 * n
        lines.append(("all-reduce of n float32, bytes a GPU", ring, "link"))
    return [(what, amount, PEAKS[rate][1], amount / PEAKS[rate][0]) for what, amount, rate in lines]


def gpu_seconds(n: int, d: int, gpus: int, fused: bool) -> float:
    """One iteration at the assumed efficiency, its parts one after the other."""
    return sum(seconds for *_, seconds in gpu(n, d, gpus, fused)) / EFFICIENCY
