"""Near-equal texts count once: weights against a look at every pair, and what they depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from oracles import plain_weights, unit

from emcl_plugin.evidence.near_duplicates import NEAR, weights
from emcl_plugin.scores import Dense, Features

F32, F64 = torch.float32, torch.float64
LARGE = 1 << 30
# rounding of u is magnified by 1 / u_0, so a weight has about two digits less than a score
PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 3e-3)])
MEMORIES = pytest.mark.parametrize("memory", [1, 20_000, 100_000, LARGE])
seeds = st.integers(0, 10_000)


def texts_with_repeats(seed, n=60, dimension=24):
    """Some texts alone, some copied, some all but copied; and a best video for each."""
    rng = np.random.default_rng(seed)
    distinct = rng.standard_normal((n // 3, dimension)) + 0.5
    video = rng.integers(0, n // 6, n // 3)
    which = np.concatenate([np.arange(n // 3), rng.integers(0, n // 3, n - n // 3)])
    away = rng.choice([0, 0.02, 0.08, 0.14, 0.3], n)  # u of about 0 to 0.1
    away[: n // 3] = 0
    x = distinct[which] + away[:, None] * rng.standard_normal((n, dimension))
    return x, video[which]


def found(vectors, best, memory=LARGE):
    """The weights as an array, 1 each where nothing is near-duplicate."""
    counts = weights(vectors, torch.as_tensor(best), memory=memory)
    if counts is None:
        return np.ones(len(best))
    assert counts.dtype == vectors.dtype
    return counts.double().numpy()


# --- against the formula -----------------------------------------------------------------


def test_the_data_have_every_kind_of_repeat():
    """Otherwise the comparisons would show little: texts alone, in parts and as copies."""
    x, best = texts_with_repeats(0)
    counts = plain_weights(x, best)
    assert (counts > 0.999).sum() > 3
    assert ((counts > 0.55) & (counts < 0.95)).sum() > 3
    assert (counts < 0.4).sum() > 10


@pytest.mark.slow
@PRECISIONS
@MEMORIES
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_weights_of_embeddings_are_those_of_the_formula(metric, memory, dtype, tolerance):
    """With few bytes in batches, and in groups that do not fit in one, of rows read anew."""
    for seed in range(3):
        x, best = texts_with_repeats(seed)
        features = Features(x, dtype=dtype, metric=metric, memory=memory)
        assert features.resident == (memory == LARGE) or memory == 100_000
        wanted = plain_weights(unit(x) if metric == "cosine" else x, best, NEAR)
        assert_allclose(found(features, best, memory), wanted, rtol=tolerance)


@PRECISIONS
@MEMORIES
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_weights_of_scores_are_those_of_the_formula(offset, memory, dtype, tolerance):
    """Rows of scores in place of embeddings, wherever their mean lies."""
    for seed in range(3):
        x, best = texts_with_repeats(seed)
        source = Dense(x + offset, dtype=dtype, memory=memory)
        assert_allclose(found(source, best, memory), plain_weights(x, best, NEAR), rtol=tolerance)


@pytest.mark.parametrize("kind", [Features, Dense])
@pytest.mark.parametrize("memory", [1, 50_000, LARGE])
def test_weights_of_a_memory_mapped_file_are_those_of_the_array(tmp_path, kind, memory):
    x, best = texts_with_repeats(4)
    np.save(tmp_path / "x.npy", x)
    mapped = kind(np.load(tmp_path / "x.npy", mmap_mode="r"), dtype=F64, memory=memory)
    tensor = kind(torch.from_numpy(x), dtype=F64, memory=memory)
    wanted = plain_weights(unit(x) if kind is Features else x, best, NEAR)
    assert_allclose(found(mapped, best, memory), wanted, rtol=1e-10)
    assert_allclose(found(tensor, best, memory), wanted, rtol=1e-10)


@pytest.mark.parametrize("kind", [Features, Dense])
def test_a_group_larger_than_the_memory_is_weighed_in_parts(kind):
    """2000 texts of one video at a budget for a quarter of them: as at once, to 1e-12."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 16))[rng.integers(0, 400, 2000)]
    x += 0.03 * rng.standard_normal((2000, 16))
    best = rng.choice([0, 0, 0, 1, 2], 2000)
    at_once = found(kind(x, dtype=F64), best)
    in_parts = found(kind(x, dtype=F64, memory=1 << 20), best, 1 << 20)
    assert np.bincount(best)[0] > 2 * (1 << 20) // 16 // (16 * 8)
    assert at_once.min() < 0.3
    assert_allclose(in_parts, at_once, rtol=1e-12)


@pytest.mark.slow
@given(seeds, st.integers(1, 40), st.integers(3000, 60_000))
def test_weights_do_not_depend_on_the_memory(seed, n_video, memory):
    """Of any number of groups of any sizes, to 1e-12."""
    x, _ = texts_with_repeats(seed)
    best = np.random.default_rng(seed).integers(0, n_video, len(x))
    at_once = found(Dense(x, dtype=F64), best)
    assert_allclose(found(Dense(x, dtype=F64, memory=memory), best, memory), at_once, rtol=1e-12)


# --- what counts as near-duplicate ------------------------------------------------------


@given(seeds, st.sampled_from(["cosine", "dot"]))
def test_copies_count_as_one_text_together(seed, metric):
    """Whatever their number: weights of 1 / k; in cosine a multiple is a copy, too."""
    rng = np.random.default_rng(seed)
    copies = rng.integers(1, 6, 20)
    which = rng.permutation(np.repeat(np.arange(20), copies))
    x = rng.standard_normal((20, 64))[which]
    best = rng.integers(0, 4, 20)[which]
    if metric == "cosine":
        x *= rng.uniform(0.1, 9, (len(x), 1))
    counts = found(Features(x, dtype=F64, metric=metric), best)
    assert_allclose(counts, 1 / copies[which], rtol=1e-10)
    assert_allclose(np.bincount(which, counts), 1, rtol=1e-10)


@given(seeds, st.integers(2, 50), st.sampled_from([Features, Dense]), st.sampled_from([F32, F64]))
def test_distinct_texts_have_no_weights(seed, n, kind, dtype):
    """None, and so one each, though all have the same best video."""
    x = np.random.default_rng(seed).standard_normal((n, 64))
    assert weights(kind(x, dtype=dtype), torch.zeros(n, dtype=torch.long), memory=LARGE) is None


@pytest.mark.parametrize("kind", [Features, Dense])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("n", [2, 3, 7, 300])
def test_texts_that_are_all_the_same_are_one_text(n, dtype, kind):
    x = np.tile(np.random.default_rng(n).standard_normal(16), (n, 1))
    for memory in (1 << 16, LARGE):
        counts = found(kind(x, dtype=dtype, memory=memory), np.full(n, 3), memory)
        assert_allclose(counts, 1 / n, rtol=1e-6)


@pytest.mark.parametrize("kind", [Features, Dense])
def test_one_text_is_one_text(kind):
    assert weights(kind(np.ones((1, 5))), torch.tensor([2]), memory=LARGE) is None


def test_copies_with_another_best_video_are_other_texts():
    """Only texts of one video are compared."""
    x = np.random.default_rng(0).standard_normal((10, 8))
    twice = np.concatenate([x, x])
    best = np.arange(20)
    assert weights(Dense(twice), torch.from_numpy(best), memory=LARGE) is None
    assert_allclose(found(Dense(twice, dtype=F64), best % 10), 0.5, rtol=1e-12)


def test_a_paraphrase_counts_and_a_typo_does_not():
    """u = 0.1 to 0.5 leaves a text its weight, u = 0.002 does not, as the module says."""
    rng = np.random.default_rng(1)
    x = unit(rng.standard_normal((500, 64)))
    for u, low, high in ((0.1, 0.999, 1), (0.5, 0.999, 1), (0.002, 0.5, 0.6)):
        step = unit(rng.standard_normal((500, 64))) * np.sqrt(2 * u)  # mean |x - x'|^2 = 2
        counts = found(Dense(np.concatenate([x, x + step]), dtype=F64), np.arange(1000) % 500)
        assert low <= counts.min() <= counts.max() <= high + 1e-12


# --- what weights do not depend on -------------------------------------------------------


@given(seeds, st.sampled_from([Features, Dense]))
def test_weights_follow_a_permutation(seed, kind):
    x, best = texts_with_repeats(seed)
    order = np.random.default_rng(seed).permutation(len(x))
    moved = found(kind(x[order], dtype=F64), best[order])
    assert_allclose(moved, found(kind(x, dtype=F64), best)[order], rtol=1e-10)


@given(seeds, st.floats(-9, 9), st.floats(-20, 20), st.sampled_from([F32, F64]))
def test_weights_do_not_depend_on_scale_and_offset(seed, magnitude, offset, dtype):
    """Of scores; of features on the scale."""
    x, best = texts_with_repeats(seed)
    scale, tolerance = 10**magnitude, 1e-8 if dtype == F64 else 0.05
    wanted = plain_weights(x, best, NEAR)
    assert_allclose(found(Dense(scale * (x + offset), dtype=dtype), best), wanted, rtol=tolerance)
    for metric in ("cosine", "dot"):
        wanted = found(Features(x, dtype=dtype, metric=metric), best)
        scaled = found(Features(scale * x, dtype=dtype, metric=metric), best)
        assert_allclose(scaled, wanted, rtol=tolerance)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_scores_of_any_magnitude_are_weighed(scale):
    """Their squares vanish or overflow in float32; weights stay, to 1e-2."""
    x, best = texts_with_repeats(0)
    assert_allclose(
        found(Dense((scale * x).astype("f4")), best), plain_weights(x, best, NEAR), rtol=1e-2
    )


@given(seeds)
def test_weights_are_between_one_text_of_the_group_and_one(seed):
    """1 / (texts with this best video) to 1, and together at least one text per video."""
    x, best = texts_with_repeats(seed)
    counts = found(Dense(x, dtype=F64), best)
    assert (counts <= 1).all()
    assert (counts >= 1 / np.bincount(best)[best] - 1e-12).all()
    assert (np.bincount(best, counts)[np.unique(best)] >= 1 - 1e-12).all()
