"""Estimate the memory and the time that a run takes, before it starts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emcl_plugin._internal.sizes import format_size, physical_memory
from emcl_plugin.scores.memory import kernel_fits


def available(device: torch.device) -> int:
    """Return the bytes free on a device; on the CPU within the container's limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    try:
        meminfo = Path("/proc/meminfo").read_text()
        free = int(re.findall(r"MemAvailable:\s+(\d+) kB", meminfo)[0]) * 1024
    except (OSError, IndexError):
        free = physical_memory() // 2
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, max(0, limit - int((group / "memory.current").read_text())))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return free


@dataclass(frozen=True)
class Estimate:
    """What a run stores and recomputes.

    Attributes
    ----------
    shape : tuple of int
        (texts, videos).
    dimension : int
        Of the features; 0 if scores are given.
    store_scores, store_kernel : bool
        Whether scores and Sinkhorn's kernel are stored, or recomputed block by block.
    held : int
        Peak bytes: scores and kernel, or the data of the candidates.
    pairs : int
        Maximum number of candidates; 0 if all pairs are scored.
    """

    shape: tuple[int, int]
    dimension: int
    store_scores: bool
    store_kernel: bool
    held: int
    pairs: int = 0

    @property
    def is_long(self) -> bool:
        """True if the run is long enough to announce."""
        if self.pairs:
            return self.pairs > 1e6
        return self.shape[0] * self.shape[1] * (1 if self.store_kernel else 10) > 1e7

    @property
    def way(self) -> str:
        """How the scores are processed, in words."""
        if self.pairs:
            return f"up to {self.pairs} candidates"
        return "stored kernel" if self.store_kernel else "scores recomputed in every iteration"

    def seconds(self, device: torch.device, dtype: torch.dtype) -> float:
        """Estimate the duration from a calibration of some milliseconds on this device.

        Counts products of features, exponentials and passes over a matrix per score. Assumes 40
        Sinkhorn iterations, and an exhaustive search for candidates in both directions.
        """
        entries = self.shape[0] * self.shape[1]
        costs = _calibrate(max(1, self.dimension), device, dtype)
        if self.pairs:
            return 2 * entries * costs[0] + self.pairs * _PASSES_PER_PAIR * costs[2]
        iterations = 40
        products = 1 if self.store_scores else 4 + (0 if self.store_kernel else iterations)
        exponentials = 3 + (0 if self.store_kernel else 2 * iterations)
        passes = 200 + (2 * iterations if self.store_kernel else 6 * iterations)
        counts = (products if self.dimension else 0, exponentials, passes)
        return entries * sum(n * cost for n, cost in zip(counts, costs, strict=True))

    def to_dict(self, seconds: float, memory: int) -> dict[str, Any]:
        """Return the estimate and the budget, for JSON."""
        return {
            "texts": self.shape[0],
            "videos": self.shape[1],
            "way": self.way,
            "seconds": round(seconds, 2),
            "held": self.held,
            "memory": memory,
        }

    def __str__(self) -> str:
        held = format_size(self.held)
        return f"{self.shape[0]} x {self.shape[1]} scores, {self.way}, {held} held"


_PASSES_PER_PAIR = 6000
"""Work per candidate after the search, in passes over a score: 1.9 us at 0.3 ns per pass."""

_BYTES_PER_PAIR = 110
"""Peak memory per candidate."""


def estimate(
    shape: tuple[int, int],
    dimension: int,
    dtype: torch.dtype,
    memory: int,
    *,
    kernel: torch.dtype | None,
    candidates: int | None = None,
    fused: bool = False,
) -> Estimate:
    """Decide what is stored: the kernel first, then computed scores, within half the budget.

    ``dimension`` is 0 where scores are given, ``kernel`` the dtype of a stored kernel; None where
    there will not be one. ``fused``: the iterations want vectors, not scores.
    """
    if candidates is not None:
        pairs = min(shape[0] * min(candidates, shape[1]) + shape[1] * min(candidates, shape[0]),
                    shape[0] * shape[1])  # fmt: skip
        return Estimate(shape, dimension, False, False, pairs * _BYTES_PER_PAIR, pairs)
    entries, held = shape[0] * shape[1], 0
    store_kernel = kernel is not None and kernel_fits(shape, kernel, memory)
    if kernel is not None and store_kernel:
        held = entries * kernel.itemsize
    matrix = entries * dtype.itemsize
    store_scores = dimension > 0 and matrix <= memory // 2 - held and not fused
    return Estimate(shape, dimension, store_scores, store_kernel, held + matrix * store_scores)


def _calibrate(
    dimension: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Return seconds per score of a product, an exponential, and a pass over memory."""
    side, most = 1024, 4096
    times = max(1.0, dimension / most)  # more dimensions would take too long to measure
    x = torch.ones(side, min(dimension, most), dtype=dtype, device=device)
    scores = torch.ones(4 * side, side, dtype=dtype, device=device)
    vector = torch.ones(side, dtype=dtype, device=device)
    product = times * _time(lambda: x @ x.T, device) / side**2
    exponential = _time(lambda: scores.exp(), device) / scores.numel()
    sweep = _time(lambda: scores @ vector, device) / scores.numel()
    return product, exponential, sweep


def _time(work: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best
