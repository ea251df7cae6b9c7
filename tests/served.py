"""Correctors of the demo data, and checks of what a vector store returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from emcl_plugin import EMCL, Reranker

faiss = pytest.importorskip("faiss", reason='serving from FAISS needs pip install ".[cpu]"')
K = 10


def fitted(bank, gallery, **options):
    names = options.pop("names", ())
    options = {"emcl": EMCL(strength=-0.75), **options}  # or there is no map to fold in
    return Reranker(**options).fit(bank, gallery, names=names).corrector_


def all_scores(corrector, queries):
    return torch.cat(list(corrector.scores(queries))).numpy()


def check_top(corrector, queries, items, scores=None, atol=1e-5):
    """The items found are the best, in order, but for ties within ``atol``."""
    assert items.shape == (len(queries), K)
    assert (items >= 0).all()
    assert all(len(set(row)) == K for row in items.tolist())
    expected, _ = (x.numpy() for x in corrector.search(queries, K))
    found = np.take_along_axis(all_scores(corrector, queries), items, axis=1)
    assert_allclose(found, expected, rtol=0, atol=atol)
    if scores is not None:
        assert_allclose(scores, expected, rtol=0, atol=atol)


def recall(corrector, queries, items):
    best = corrector.search(queries, K)[1].numpy()
    return np.mean([len({*a} & {*b}) / K for a, b in zip(items, best, strict=True)])
