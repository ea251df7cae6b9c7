"""How much memory there is, and what a run will take: said before the work starts."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from emcl_plugin.sizes import format_size


def available(device: torch.device) -> int:
    """Bytes that are free on a device now; on the CPU, the container's limit is heeded."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    free = 4 << 30
    try:
        meminfo = Path("/proc/meminfo").read_text()
        free = int(re.findall(r"MemAvailable:\s+(\d+) kB", meminfo)[0]) * 1024
    except (OSError, IndexError):
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        if "SC_PHYS_PAGES" in names:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, max(0, limit - int((group / "memory.current").read_text())))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return free


def kernel_fits(shape: tuple[int, int], dtype: torch.dtype, memory: int) -> bool:
    """Whether Sinkhorn's kernel takes at most half of the memory budget."""
    return shape[0] * shape[1] * dtype.itemsize <= memory // 2


@dataclass(frozen=True)
class Estimate:
    """What a run will do and hold.

    Attributes
    ----------
    shape : tuple of int
        (texts, videos).
    dimension : int
        Of the features that scores are computed from; 0 where scores are given.
    store_scores, store_kernel : bool
        Whether scores and Sinkhorn's kernel are kept, or recomputed block by block.
    held : int
        Bytes of scores and kernel held at the peak.
    """

    shape: tuple[int, int]
    dimension: int
    store_scores: bool
    store_kernel: bool
    held: int

    @property
    def is_long(self) -> bool:
        """Whether the run is worth announcing."""
        return self.shape[0] * self.shape[1] * (1 if self.store_kernel else 10) > 1e7

    def seconds(self, device: torch.device, dtype: torch.dtype) -> float:
        """Rough duration, from a calibration of some milliseconds on this device.

        Counted per score: products of the features, exponentials, and passes over a matrix.
        Sinkhorn is taken to need 40 rounds, a usual number.
        """
        entries = self.shape[0] * self.shape[1]
        rounds = 40
        products = 1 if self.store_scores else 4 + (0 if self.store_kernel else rounds)
        exponentials = 3 + (0 if self.store_kernel else 2 * rounds)
        passes = 200 + (2 * rounds if self.store_kernel else 6 * rounds)
        costs = _calibrate(max(1, self.dimension), device, dtype)
        counts = (products if self.dimension else 0, exponentials, passes)
        return entries * sum(n * cost for n, cost in zip(counts, costs, strict=True))

    def __str__(self) -> str:
        kernel = "stored kernel" if self.store_kernel else "scores recomputed in every round"
        held = format_size(self.held)
        return f"{self.shape[0]} x {self.shape[1]} scores, {kernel}, {held} held"


def estimate(
    shape: tuple[int, int], dimension: int, dtype: torch.dtype, memory: int, *, ncl: bool
) -> Estimate:
    """Decide what is stored: the kernel first, then computed scores, within half the budget.

    ``dimension`` is 0 where scores are given, ``ncl`` whether there will be a kernel at all.
    """
    matrix = shape[0] * shape[1] * dtype.itemsize
    store_kernel = ncl and kernel_fits(shape, dtype, memory)
    room = memory // 2 - (matrix if store_kernel else 0)
    store_scores = dimension > 0 and matrix <= room
    held = matrix * (store_kernel + store_scores)
    return Estimate(shape, dimension, store_scores, store_kernel, held)


def _calibrate(
    dimension: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Seconds per score of a product, of an exponential, and of a pass over memory."""
    side = 1024
    x = torch.ones(side, dimension, dtype=dtype, device=device)
    scores = torch.ones(4 * side, side, dtype=dtype, device=device)
    vector = torch.ones(side, dtype=dtype, device=device)
    product = _time(lambda: x @ x.T, device) / side**2
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
