"""Hubness against SciPy and counting by hand; extremes that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import softmax

from emcl_plugin.evaluation.hubness import hubness, modality_gap
from emcl_plugin.scores import Dense, Features


def dense(x, memory=None):
    return Dense(x, dtype=torch.float64, memory=memory)


@pytest.mark.parametrize("memory", [None, 1000])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_against_slow_counting(k, memory):
    x = np.random.default_rng(0).standard_normal((80, 30)) + np.linspace(0, 2, 30)
    found = hubness(dense(x, memory), k)
    top = np.argsort(-x, axis=1)[:, :k]
    counts = np.bincount(top.ravel(), minlength=30)
    assert_array_equal(found.occurrence, counts)
    assert_allclose(found.skewness, stats.skew(counts), rtol=1e-12)
    mean = 80 * k / 30
    assert_allclose(found.robin_hood, np.abs(counts - mean).sum() / (2 * counts.sum()))
    assert_allclose(found.hub_share, counts[counts >= 2 * mean].sum() / counts.sum())
    assert_allclose(found.anti_hub_share, (counts == 0).mean())
    mass = softmax(x / (0.15 * x.std()), axis=1).sum(0)
    assert_allclose(found.normalization_error, np.abs(mass * 30 / 80 - 1).mean(), rtol=1e-9)
    largest = found.largest(3)
    assert [n for _, n in largest] == sorted(counts, reverse=True)[:3]
    assert all(counts[item] == n for item, n in largest)


def test_even_retrieval_has_no_hubs():
    found = hubness(dense(np.eye(20)), k=1)
    assert (found.skewness, found.robin_hood, found.anti_hub_share) == (0, 0, 0)


def test_one_item_for_everyone_is_the_largest_hub_there_can_be():
    x = np.zeros((50, 20))
    x[:, 7] = 1
    found = hubness(dense(x), k=1)
    assert found.largest(3) == [(7, 50)]
    assert found.hub_share == 1
    assert_allclose(found.anti_hub_share, 19 / 20)
    assert_allclose(found.robin_hood, 19 / 20)


def test_constant_scores_are_measured_without_a_division_by_zero():
    assert hubness(dense(np.ones((5, 5)))).normalization_error == pytest.approx(0)


@pytest.mark.parametrize("memory", [None, 1000])
def test_modality_gap_is_the_distance_of_means_and_of_pairs(memory):
    rng = np.random.default_rng(1)
    text, video = rng.standard_normal((30, 6)), rng.standard_normal((20, 6)) + 1
    sides = [Features(x, metric="dot", dtype=torch.float64, memory=memory) for x in (text, video)]
    pairs = np.arange(30), rng.integers(0, 20, 30)
    found = modality_gap(*sides, pairs)
    assert_allclose(found.means, np.linalg.norm(text.mean(0) - video.mean(0)), rtol=1e-12)
    assert_allclose(
        found.pairs, np.linalg.norm(text[pairs[0]] - video[pairs[1]], axis=1).mean(), rtol=1e-12
    )
    assert np.isnan(modality_gap(*sides).pairs)
