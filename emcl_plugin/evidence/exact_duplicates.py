"""Count exact duplicates; each remains an item of its own, and the user is warned."""

from __future__ import annotations

import numpy as np
import torch

from emcl_plugin.scores import Features


def repeated(features: Features) -> int:
    """Return how many vectors are exact duplicates of an earlier one.

    >>> repeated(Features(np.float32([[1, 0], [0, 1], [2, 0]])))  # the third is the first's cosine
    1
    """
    words = features.shape[1] * features.dtype.itemsize // 4
    factors = np.random.default_rng(0).integers(0, 1 << 63, words, np.uint64) * 2 + 1
    keys = []  # of every vector a sum of its words, each times its own factor, modulo 2^64
    for _, _, block in features.blocks():
        bits = np.ascontiguousarray(block.cpu().numpy()).view(np.uint32)
        keys.append(bits.astype(np.uint64) @ factors)
    own = torch.from_numpy(np.concatenate(keys).view(np.int64))
    every = features.group.rows(own, features.shape[0]).numpy()
    return features.shape[0] - len(np.unique(every))
