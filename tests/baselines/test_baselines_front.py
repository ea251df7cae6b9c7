"""Baselines on arrays: the result is of the kind of the input, and misuse is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import cone_pair

from emcl_plugin.baselines import METHODS, Direction, correct
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.scores import FeaturePair, Features

TEXT, VIDEO = (x.astype(np.float32) for x in cone_pair(21, 17, 8, seed=3))
QUERY_BANK, GALLERY_BANK = (x.astype(np.float32) for x in cone_pair(19, 13, 8, seed=4))
BANKS = {"query_bank": QUERY_BANK, "gallery_bank": GALLERY_BANK}
SIM = TEXT @ VIDEO.T


@pytest.mark.parametrize("name", METHODS)
def test_arrays_give_what_the_direction_gives(name):
    sides = [Features(x) for x in (TEXT, VIDEO, *BANKS.values())]
    direction = Direction(FeaturePair(*sides[:2]), *sides)
    found = correct(name, feats=(TEXT, VIDEO), **BANKS)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert_allclose(found, METHODS[name].correct(direction).dense(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_tensors_give_tensors(name):
    inputs = [torch.from_numpy(x).double().requires_grad_() for x in (TEXT, VIDEO)]
    banks = {key: torch.from_numpy(x).double() for key, x in BANKS.items()}
    before = [x.detach().clone() for x in (*inputs, *banks.values())]
    found = correct(name, feats=tuple(inputs), **banks)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    expected = correct(name, feats=(TEXT, VIDEO), **BANKS)
    assert_allclose(found, expected, rtol=0, atol=2e-5)
    for x, held in zip((*inputs, *banks.values()), before, strict=True):
        assert_array_equal(x.detach(), held)


@pytest.mark.parametrize("name", ["csls", "is", "dsl", "nnn", "sn"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_similarity_is_enough_for_methods_without_needs(name, dtype):
    held = SIM.astype(dtype)
    sim = held.copy()
    found = correct(name, sim)
    assert found.dtype == dtype
    expected = correct(name, feats=(TEXT, VIDEO))
    assert_allclose(found, expected, rtol=0, atol=0.05 if dtype == np.float16 else 1e-5)
    assert_array_equal(sim, held)


def test_settings_are_the_methods_own():
    assert not np.allclose(correct("csls", SIM, k=1), correct("csls", SIM))
    with pytest.raises(InputValueError, match="one of k") as caught:
        correct("csls", SIM, temperature=0.1)
    assert "'temperature'" in caught.value.received
    with pytest.raises(InputValueError, match="it has none"):
        correct("centre", feats=(TEXT, VIDEO), k=1)


def test_an_unknown_name_is_refused_with_all_names():
    with pytest.raises(InputValueError) as caught:
        correct("cslss", SIM)
    assert caught.value.received == "'cslss'"
    for name in METHODS:
        assert name in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "given", "needs"),
    [
        ("centre", {"sim": SIM}, "features"),
        ("dis", {"feats": (TEXT, VIDEO)}, "query bank"),
        ("dual-is", {"feats": (TEXT, VIDEO)}, "query bank and gallery bank"),
        ("dbsn", {"feats": (TEXT, VIDEO), "query_bank": BANKS["query_bank"]}, "gallery bank"),
    ],
)
def test_missing_needs_are_named(name, given, needs):
    with pytest.raises(InputValueError) as caught:
        correct(name, **given)
    assert caught.value.problem == f"{name} needs {needs}"
    assert "csls" in caught.value.remedy
    assert caught.value.received == ", ".join(given)


def test_a_similarity_that_would_not_be_heeded_is_refused():
    with pytest.raises(InputValueError, match="would not heed sim"):
        correct("centre", SIM, (TEXT, VIDEO))
    with pytest.raises(InputValueError, match="would not heed sim"):
        correct("csls", 100 * SIM, (TEXT, VIDEO), query_bank=BANKS["query_bank"])
    with pytest.raises(InputValueError, match="nothing to be compared with"):
        correct("csls", SIM, query_bank=BANKS["query_bank"])
    assert_array_equal(correct("csls", SIM, (TEXT, VIDEO)), correct("csls", SIM))


def test_bad_arrays_are_refused():
    for given, kind, words in (
        ({"sim": np.where(SIM[2, 3] == SIM, np.nan, SIM)}, InputValueError, "NaN"),
        ({"query_bank": np.ones((4, 5), np.float32)}, InputValueError, "another dimension"),
        ({"query_bank": [[1.0]]}, InputTypeError, "query_bank is not an array"),
        ({"metric": "l2"}, InputValueError, "metric"),
    ):
        with pytest.raises(kind, match=words):
            correct("nnn", **({} if "sim" in given else {"feats": (TEXT, VIDEO)}), **given)
