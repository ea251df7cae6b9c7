"""Ranks against counting by hand and scipy.stats.rankdata, with ties and several right texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import plain_ranks
from scipy.stats import rankdata

from emcl_plugin.metrics import ranks, summarise
from emcl_plugin.similarity import Dense

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
seeds = st.integers(0, 10_000)


def tied_scores(shape, seed):
    """Scores from four values, so that most of them are tied."""
    return np.random.default_rng(seed).integers(0, 4, shape).astype(float)


@given(st.integers(1, 15), seeds, st.booleans(), st.integers(1, 3000))
def test_one_to_one_ranks_are_those_of_rankdata(n, seed, tied, memory):
    """Both directions, average ranks of ties, any block size."""
    x = np.random.default_rng(seed).standard_normal((n, n))
    x = tied_scores((n, n), seed) if tied else x
    text, video = ranks(Dense(x, dtype=torch.float64, memory=memory))
    assert_array_equal(text, np.diag(rankdata(-x, method="average", axis=1)))
    assert_array_equal(video, np.diag(rankdata(-x, method="average", axis=0)))


@given(shapes, seeds, st.booleans(), st.integers(1, 3000))
def test_many_to_one_ranks_are_those_counted_by_hand(shape, seed, tied, memory):
    """Several right texts per video: its best one counts; a video without text has no rank."""
    rng = np.random.default_rng(seed)
    x = tied_scores(shape, seed) if tied else rng.standard_normal(shape)
    truth = rng.integers(0, shape[1], shape[0])
    found = ranks(Dense(x, dtype=torch.float64, memory=memory), torch.from_numpy(truth))
    for got, wanted in zip(found, plain_ranks(x, truth), strict=True):
        assert_array_equal(got, wanted)


def test_a_constant_matrix_earns_an_average_rank():
    """Giving every pair the same score must not look perfect."""
    text, video = ranks(Dense(np.zeros((5, 5))))
    assert_array_equal(text, np.full(5, 3.0))
    assert_array_equal(video, np.full(5, 3.0))


@pytest.mark.parametrize("size", [1, 4, 5, 200])
def test_a_summary_is_its_formula(size):
    """R@K in percent, median and mean; NaN ranks are left out."""
    found = np.random.default_rng(size).integers(1, 30, size).astype(float)
    with_nan = np.concatenate([[np.nan], found, [np.nan]])
    summary = summarise(torch.from_numpy(with_nan)).to_dict()
    for k in (1, 5, 10):
        assert_allclose(summary[f"R@{k}"], 100 * np.mean(found <= k), rtol=1e-12, atol=1e-12)
    assert_allclose(summary["MdR"], np.median(found), rtol=1e-12)
    assert_allclose(summary["MnR"], found.mean(), rtol=1e-12)
