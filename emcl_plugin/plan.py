"""How much memory there is, and what a run will take: said before the work starts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from emcl_plugin.errors import InputValueError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes from a size such as ``4G``, ``512M``, ``1.5GiB`` or ``1000000``.

    >>> parse_size("1.5G")
    1610612736
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1 << 20:
        raise InputValueError(
            "this is not a memory size of at least 1M", repr(text), "write for example 4G or 800M"
        )
    return size


def format_size(size: float) -> str:
    """Bytes for people.

    >>> format_size(5 << 20)
    '5.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


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


@dataclass(frozen=True)
class Estimate:
    """What a run will do and hold.

    Attributes
    ----------
    store_scores, store_kernel : bool
        Whether scores and Sinkhorn's kernel are kept, or recomputed block by block.
    held : int
        Bytes of scores and kernel held at the peak.
    """

    n_text: int
    n_video: int
    store_scores: bool
    store_kernel: bool
    held: int

    def __str__(self) -> str:
        kernel = "stored kernel" if self.store_kernel else "scores recomputed in every round"
        return f"{self.n_text} x {self.n_video} scores, {kernel}, {format_size(self.held)} held"


def estimate(
    shape: tuple[int, int], dtype: torch.dtype, memory: int, *, from_features: bool, ncl: bool
) -> Estimate:
    """Decide what is stored: the kernel first, then computed scores, within half the budget."""
    matrix = shape[0] * shape[1] * dtype.itemsize
    store_kernel = ncl and matrix <= memory // 2
    room = memory // 2 - (matrix if store_kernel else 0)
    store_scores = from_features and matrix <= room
    held = matrix * (store_kernel + store_scores)
    return Estimate(shape[0], shape[1], store_scores, store_kernel, held)
