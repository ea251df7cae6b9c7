"""Streaming reductions against NumPy and SciPy on the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import logsumexp as scipy_logsumexp

from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Dense
from emcl_plugin.scores.reductions import logsumexp, moments, slope, topk

F32, F64 = torch.float32, torch.float64
PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-12)])
MEMORIES = pytest.mark.parametrize("memory", [None, 1, 3000])


def scores(shape=(31, 23), seed=0, mean=0.3, std=0.05):
    return mean + std * np.random.default_rng(seed).standard_normal(shape)


@PRECISIONS
@MEMORIES
@pytest.mark.parametrize("mean", [0.0, 0.3, -100.0])
def test_moments_are_those_of_the_matrix(mean, memory, dtype, tolerance):
    """Mean, population standard deviation, smallest and largest, also far from 0."""
    x = scores(mean=mean, std=1.0).astype(str(dtype)[6:])
    found = moments(Dense(x, dtype=dtype, memory=memory))
    x = x.astype("f8")
    assert_allclose(found.mean, x.mean(), rtol=0, atol=tolerance * max(1, abs(mean)))
    assert_allclose(found.std, x.std(), rtol=tolerance)
    assert (found.low, found.high) == (x.min(), x.max())


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000), st.integers(1, 2000))
def test_moments_do_not_depend_on_the_block_size(n_text, n_video, seed, memory):
    """Merged blocks of any sizes, to 1e-12."""
    x = scores((n_text, n_video), seed)
    found = moments(Dense(x, dtype=F64, memory=memory))
    assert_allclose(found.mean, x.mean(), rtol=1e-12)
    assert_allclose(found.std, x.std(), rtol=1e-9, atol=1e-14)


@PRECISIONS
@MEMORIES
@pytest.mark.parametrize("mean", [0.0, 0.3, -100.0])
def test_weighted_moments_are_numpys(mean, memory, dtype, tolerance):
    """Row i counts w_i times, as in numpy.average; the range stays that of all."""
    x = scores(mean=mean, std=1.0).astype(str(dtype)[6:])
    w = np.random.default_rng(1).uniform(0.01, 3, len(x))
    found = moments(Dense(x, dtype=dtype, memory=memory), torch.tensor(w, dtype=dtype))
    x = x.astype("f8")
    wide = np.repeat(w[:, None], x.shape[1], axis=1)
    wanted = np.average(x, weights=wide)
    std = np.sqrt(np.average((x - wanted) ** 2, weights=wide))
    assert_allclose(found.mean, wanted, rtol=0, atol=tolerance * max(1, abs(mean)))
    assert_allclose(found.std, std, rtol=tolerance)
    assert (found.low, found.high) == (x.min(), x.max())


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000), st.integers(1, 2000))
def test_a_row_of_weight_one_over_k_that_comes_k_times_counts_once(n_text, n_video, seed, memory):
    """To 1e-12, in blocks of any size; weights of 1 are no weights."""
    x = scores((n_text, n_video), seed)
    times = np.random.default_rng(seed).integers(1, 5, n_text)
    wanted = moments(Dense(x, dtype=F64))
    copied = Dense(np.repeat(x, times, axis=0), dtype=F64, memory=memory)
    ones = moments(Dense(x, dtype=F64, memory=memory), torch.ones(n_text, dtype=F64))
    for found in (moments(copied, torch.tensor(np.repeat(1 / times, times))), ones):
        assert_allclose(found.mean, wanted.mean, rtol=1e-12)
        assert_allclose(found.std, wanted.std, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_weighted_moments_of_any_magnitude(scale):
    """Where squares leave float32 they are taken in float64, with weights as without."""
    x = scores(mean=0.0, std=1.0)
    w = np.random.default_rng(1).random(len(x))
    wanted = moments(Dense(x, dtype=F64), torch.tensor(w))
    found = moments(Dense((scale * x).astype("f4")), torch.tensor(w, dtype=F32))
    assert_allclose(found.std / scale, wanted.std, rtol=1e-5)


@PRECISIONS
@MEMORIES
@pytest.mark.parametrize("temperature", [1.0, 0.01, 1e-4])
def test_logsumexp_is_scipys(temperature, memory, dtype, tolerance):
    """Without overflow at any temperature; relative to the size of the exponents."""
    x = scores()
    rows, columns = logsumexp(Dense(x, dtype=dtype, memory=memory), temperature)
    atol = tolerance * abs(x / temperature).max()
    wanted = scipy_logsumexp(x / temperature, axis=1)
    assert_allclose(rows.double(), wanted, rtol=0, atol=atol)
    wanted = scipy_logsumexp(x / temperature, axis=0)
    assert_allclose(columns.double(), wanted, rtol=0, atol=atol)


@MEMORIES
@pytest.mark.parametrize("k", [1, 5, 23, 99])
def test_topk_is_the_sorted_head(k, memory):
    """Best first, at most all, with the indices they came from."""
    x = scores()
    values, indices = topk(Dense(x, dtype=F64, memory=memory), k)
    wanted = np.argsort(-x, axis=1)[:, :k]
    assert_array_equal(indices, wanted)
    assert_array_equal(values, np.take_along_axis(x, wanted, axis=1))


@PRECISIONS
@MEMORIES
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_slope_is_that_of_a_regression(offset, memory, dtype, tolerance):
    """As scipy.stats.linregress, also where both means are far from 0 (then to 1e-3 in float32)."""
    x = scores(std=1.0, mean=offset)
    y = 40 * x + scores(seed=1, std=10.0, mean=-offset)
    found = slope(Dense(y, dtype=dtype, memory=memory), Dense(x, dtype=dtype))
    wanted = stats.linregress(x.ravel(), y.ravel()).slope
    assert_allclose(found, wanted, rtol=tolerance * (100 if offset else 1))


@PRECISIONS
def test_slope_on_a_constant_is_zero(dtype, tolerance):
    """There is no line through one point; through points of a very narrow cone there is."""
    y, x = scores(), scores(mean=0.9994, std=1e-4, seed=1)
    for constant in (0.0, 0.1, -1 / 3, 1e4):
        assert slope(Dense(y, dtype=dtype), Dense(np.full(x.shape, constant), dtype=dtype)) == 0
    found = slope(Dense(3 * x + 0.1, dtype=dtype), Dense(x, dtype=dtype))
    assert_allclose(found, 3, rtol=1e3 * tolerance)


@MEMORIES
def test_slope_names_a_nan(memory):
    """By its position in the whole matrix."""
    y = scores()
    y[19, 4] = np.nan
    with pytest.raises(InputValueError) as caught:
        slope(Dense(y, memory=memory), Dense(scores()))
    assert "sim[19, 4] = nan" in caught.value.received
