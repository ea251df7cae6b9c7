"""Banks of pairs to tune on."""

from __future__ import annotations

import functools

import numpy as np
from oracles import cone_pair

from emcl_plugin.ground_truth import GroundTruth


@functools.lru_cache
def bank(n=60, seed=0, dtype="f4"):
    """Pairs that NCL helps a little."""
    return tuple(x.astype(dtype) for x in cone_pair(n, n, 16, seed, cone=1.5, noise=0.6))


def linked(groups, seed=0, extra=1):
    """Truth of groups of (queries, items) that pairs hold together, in any order."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(sum(column)) for column in zip(*groups, strict=True))
    order = [rng.permutation(n) for n in shape]
    pairs, at = set(), np.zeros(2, int)
    for queries, items in groups:
        for k in range(max(queries, items)):
            pairs.add((at[0] + min(k, queries - 1), at[1] + min(k, items - 1)))
            pairs.add((at[0] + min(k, queries - 1), at[1]))
        for _ in range(extra):
            pairs.add((at[0] + rng.integers(queries), at[1] + rng.integers(items)))
        at += (queries, items)
    moved = [(order[0][query], order[1][item]) for query, item in pairs]
    return GroundTruth.from_pairs(sorted(moved), shape)
