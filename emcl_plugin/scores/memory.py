"""Whether a matrix of scores can be kept within a budget."""

from __future__ import annotations

import torch


def kernel_fits(shape: tuple[int, int], dtype: torch.dtype, memory: int) -> bool:
    """Whether Sinkhorn's kernel of this dtype takes at most half of the memory budget."""
    return shape[0] * shape[1] * dtype.itemsize <= memory // 2
