"""Correctors fitted on synthetic data, with slow reference computations."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from oracles import banked, unit

from emcl_plugin import EMCL
from emcl_plugin.bank import BANK, fit_corrector

METRICS = ("cosine", "dot")
EMCLS = {
    "no EMCL": None,
    "EMCL": EMCL(strength=-0.75),
    "stronger, not brought back": EMCL(strength=0.5, renormalize=False),
}
EVERY = pytest.mark.parametrize(
    ("metric", "emcl"), [(metric, emcl) for metric in METRICS for emcl in EMCLS]
)


@functools.lru_cache
def data(metric="cosine", seed=0):
    """Queries, gallery and bank; lengths differ by up to two where they count."""
    found = banked(seed, n_gallery=90, n_bank=150, dimension=21)
    if metric == "cosine":
        return found
    lengths = np.random.default_rng(seed)
    return type(found)(*(x * lengths.uniform(1, 2, (len(x), 1)) for x in found))


@functools.lru_cache
def fitted(metric="cosine", emcl="EMCL", dtype="f8", seed=0, ncl=BANK, names=()):
    """A corrector for them."""
    x = data(metric, seed)
    return fit_corrector(
        x.bank.astype(dtype),
        x.gallery.astype(dtype),
        emcl=EMCLS[emcl],
        ncl=ncl,
        metric=metric,
        names=names,
    )[0]


def mixed(metric="cosine", n=75):
    """Queries of the bank's kind, some half like it, and some of another kind."""
    rng = np.random.default_rng(1)
    x = data(metric).queries
    away = np.array([0, 0.7, 1.2, 2, 5])[np.arange(n) % 5, None] * np.abs(x).mean()
    return x[rng.integers(0, len(x), n)] + away * rng.standard_normal((n, x.shape[1]))


def whole(blocks):
    return torch.cat(list(blocks))


def crowd(n, seed=0):
    """New gallery items that are close to three of the queries."""
    rng = np.random.default_rng(seed)
    x = data().queries[rng.integers(0, 3, n)]
    return unit(x + 0.05 * rng.standard_normal(x.shape))
