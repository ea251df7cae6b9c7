"""Exported vectors: inner products of query and gallery vectors are the corrector's scores."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from served import all_scores

from emcl_plugin.baselines import METHODS
from emcl_plugin.errors import EmclError, InputValueError
from emcl_plugin.index.export import export
from emcl_plugin.index.faiss import search_faiss, to_faiss
from emcl_plugin.index.vectors import (
    SPACES,
    MissingLibraryError,
    gallery_vectors,
    longest,
    query_vectors,
    require_servable,
    to_scores,
)


@pytest.mark.parametrize("space", SPACES)
def test_scores_come_back_from_every_space(side, space):
    corrector, queries = side[0], side[1][:100]
    items, asked = gallery_vectors(corrector, space), query_vectors(corrector, queries, space)
    assert items.shape == (945, asked.shape[1]) == (945, 129 if space == "ip" else 130)
    assert items.dtype == asked.dtype == np.float32
    assert corrector.bias.std() > 0.01  # or all would pass without the last dimension
    assert len(corrector.change)
    found = asked @ items.T
    if space == "l2":
        found = np.square(asked[:, None, :] - items[None]).sum(2)
    assert_allclose(
        to_scores(corrector, queries, found, space), all_scores(corrector, queries), atol=1e-5
    )


@pytest.mark.parametrize("space", ["cosine", "l2"])
def test_a_later_item_beyond_phi_is_an_error(forward, space):
    corrector, _ = forward
    long = replace(corrector, bias=corrector.bias.clone().index_fill_(0, torch.tensor([7]), 0.9))
    with pytest.raises(InputValueError, match=r"item 7 of length 1\.3"):
        gallery_vectors(long, space, phi=longest(corrector))


def test_missing_library(forward, monkeypatch, tmp_path):
    corrector, queries = forward
    for module in ("faiss", "pyarrow", "lancedb", "qdrant_client"):
        monkeypatch.setitem(sys.modules, module, None)
    for call, remedy in (
        (lambda: to_faiss(corrector), "emcl-plugin[cpu]"),
        (lambda: search_faiss(corrector, None, queries), "emcl-plugin[cpu]"),
        (lambda: export(corrector, tmp_path / "x", "faiss"), "emcl-plugin[cpu]"),
        (lambda: export(corrector, tmp_path / "x", "parquet"), "emcl-plugin[formats]"),
        (lambda: export(corrector, tmp_path / "x", "lancedb"), "pip install lancedb"),
        (lambda: export(corrector, tmp_path / "x", "qdrant"), "pip install qdrant-client"),
    ):
        with pytest.raises(MissingLibraryError) as caught:
            call()
        assert isinstance(caught.value, EmclError)
        assert isinstance(caught.value, ImportError)
        assert remedy in caught.value.remedy
    assert not list(tmp_path.iterdir())
    export(corrector, tmp_path / "x", "npy")


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_serve_are_told_from_those_that_do_not(name):
    if METHODS[name].serves:
        require_servable(name)
        return
    with pytest.raises(InputValueError, match="cannot be exported") as caught:
        require_servable(name)
    assert caught.value.received.startswith(f"{name}: ")
    listed = re.findall(r"[\w+-]+", caught.value.remedy)
    assert {method.name for method in METHODS.values() if method.serves} <= set(listed)
    assert not {method.name for method in METHODS.values() if not method.serves} & set(listed)


def test_own_and_unknown_methods():
    for name in ("emcl_plugin", "input", "+NCL", "ncl-even"):
        require_servable(name)
    with pytest.raises(InputValueError, match="no method has this name"):
        require_servable("magic")
    assert {"dis", "dsl", "dual-dis"} <= {m.name for m in METHODS.values() if not m.serves}
