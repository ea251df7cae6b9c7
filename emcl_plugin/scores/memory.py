"""Memory estimate of a stored kernel."""

from __future__ import annotations

import torch


def kernel_fits(shape: tuple[int, int], dtype: torch.dtype, memory: int) -> bool:
    """Return whether a stored Sinkhorn kernel takes at most half of the memory budget."""
    return shape[0] * shape[1] * dtype.itemsize <= memory // 2
