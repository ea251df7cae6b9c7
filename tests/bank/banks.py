"""A bank's fit on made data, and the plain way to the same."""

from __future__ import annotations

import functools

import numpy as np
from oracles import banked, plain_map, plain_weights, unit

from emcl_plugin import EMCL
from emcl_plugin.bank import fit_corrector

MAP = EMCL(strength=-0.75)


@functools.lru_cache
def data(seed=0, repeats="near", metric="cosine"):
    """A gallery of 70, a bank of 90 queries; some come again, and some "near" themselves."""
    x = banked(seed, n_gallery=70, n_bank=90, dimension=20)
    if repeats:
        rng = np.random.default_rng(seed)
        noise = 0.01 * rng.standard_normal((20, 20))
        near = unit(x.bank[:20] + noise) if repeats == "near" else x.bank[:20]
        bank = np.concatenate([x.bank, x.bank[10:25], x.bank[15:20], near])
        x = x._replace(bank=bank[rng.permutation(len(bank))])
    if metric == "dot":
        rng = np.random.default_rng(seed + 1)
        x = type(x)(*(y * rng.uniform(1, 1.5, (len(y), 1)) for y in x))
    return x


def fit(x, *, dual=False, dtype="f8", **settings):
    """Corrector and report of a bank and its gallery, with the gallery bank where ``dual``."""
    settings = {"emcl": None, **settings}
    if dual:
        settings["gallery_bank"] = x.gallery_bank.astype(dtype)
    return fit_corrector(x.bank.astype(dtype), x.gallery.astype(dtype), **settings)


def spread(x):
    """Of an array or a tensor."""
    return float(np.asarray(x, float).std())


def plain_scores(x, corrector=None, *, dual=False, metric="cosine"):
    """Bank queries x gallery (and gallery bank), after the corrector's EMCL."""
    columns = np.concatenate([x.gallery, x.gallery_bank]) if dual else x.gallery
    sides = x.bank, columns
    if metric == "cosine":
        sides = [unit(side) for side in sides]
    if corrector is not None:
        emcl = corrector.basis.double().numpy(), corrector.change.double().numpy()
        sides = [plain_map(side, *emcl, renormalize=corrector.renormalize) for side in sides]
    return sides[0] @ sides[1].T


def plain_bank_weights(x, *, dual=False, metric="cosine"):
    """As how many queries each of the bank counts."""
    vectors = unit(x.bank) if metric == "cosine" else x.bank
    return plain_weights(vectors, plain_scores(x, dual=dual, metric=metric).argmax(1))
