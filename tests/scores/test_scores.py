"""Similarity sources: the same scores for every kind of array and block size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import (
    Biased,
    Dense,
    FeaturePair,
    Features,
    LowRank,
    rows_per_block,
)

F32, F64 = torch.float32, torch.float64
MEMORIES = [None, 1, 1000, 20_000]
KINDS = ["array", "tensor", "mapped", "mapped-fortran", "strided", "reversed", "big-endian"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def stored_as(kind, x, folder):
    """The same numbers as another kind of array."""
    if kind == "tensor":
        return torch.from_numpy(x.copy())
    if kind.startswith("mapped"):
        np.save(folder / "x.npy", np.asfortranarray(x) if kind.endswith("fortran") else x)
        return np.load(folder / "x.npy", mmap_mode="r")
    if kind == "strided":
        wide = np.zeros((2 * len(x), 3 * x.shape[1]), x.dtype)
        wide[::2, ::3] = x
        return wide[::2, ::3]
    if kind == "reversed":
        return x[::-1].copy()[::-1]
    if kind == "big-endian":
        return x.astype(x.dtype.newbyteorder(">"))
    return x


# --- Dense -------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("kind", KINDS)
def test_dense_gives_back_what_it_holds(kind, dtype, memory, tmp_path):
    """Bit for bit from any array, whole, transposed and by rows, in any block size."""
    x = normal(13, 9).astype(dtype)
    given = stored_as(kind, x, tmp_path)
    for computed in (F32, F64):
        source = Dense(given, dtype=computed, memory=memory)
        wanted = x.astype(str(computed)[6:])
        assert_array_equal(source.dense(), wanted)
        assert_array_equal(source.T.dense(), wanted.T)
        assert_array_equal(source.rows(4, 7), wanted[4:7])
        assert (source.shape, source.T.shape) == ((13, 9), (9, 13))
        assert source.dense().dtype == computed


def test_dense_reads_bfloat16():
    """NumPy has no such dtype; its values are exact in float32."""
    x = torch.from_numpy(normal(5, 4)).bfloat16()
    assert_array_equal(Dense(x).dense(), x.float())


def test_a_copy_on_write_map_keeps_its_changes(tmp_path):
    """Changes of the caller in memory are read, every time, and stay."""
    np.save(tmp_path / "x.npy", np.zeros((4, 5000)))
    x = np.load(tmp_path / "x.npy", mmap_mode="c")
    x[2] = 7.0
    source = Dense(x, dtype=F64)
    for _ in range(2):
        assert_array_equal(source.dense()[2], np.full(5000, 7.0))
    assert_array_equal(x[2], np.full(5000, 7.0))


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_nothing_writes_to_its_input(kind):
    """Sources may share memory with the input and must not change it."""
    x, u, v = normal(12, 5), normal(12, 2), normal(9, 2)
    text, video = normal(12, 6, seed=1), normal(9, 6, seed=2)
    before = [y.copy() for y in (x, text, video)]
    arrays = [torch.from_numpy(y) if kind == "tensor" else y for y in (x, text, video)]
    Dense(arrays[0], dtype=F64).dense().mul_(2)
    for metric in ("cosine", "dot"):
        pair = FeaturePair(*(Features(y, metric=metric, dtype=F64) for y in arrays[1:]))
        scales = torch.ones(12, dtype=F64) / 2, torch.ones(9, dtype=F64) / 3
        low = LowRank(pair, torch.from_numpy(u), torch.from_numpy(v), *scales)
        Biased(low, *scales).dense().mul_(2)
    for y, was in zip((x, text, video), before, strict=True):
        assert_array_equal(y, was)


@given(st.integers(1, 5000), st.sampled_from([F32, F64]), st.integers(1, 1 << 34))
def test_blocks_keep_to_the_memory_budget(columns, dtype, memory):
    """A sixteenth of it at most, but never less than a row."""
    rows = rows_per_block(columns, dtype, memory)
    assert rows >= 1
    assert rows == 1 or rows * columns * dtype.itemsize <= memory / 16


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 60_000))
def test_blocks_cover_all_rows_once_in_order(n_text, n_video, memory):
    """Without gap or overlap, for any block size."""
    x = normal(n_text, n_video)
    seen = list(Dense(x, dtype=F64, memory=memory).blocks())
    assert seen[0][0] == 0
    assert seen[-1][1] == n_text
    assert all(one[1] == other[0] for one, other in pairwise(seen))
    assert_array_equal(torch.cat([block for _, _, block in seen]), x)


# --- features ----------------------------------------------------------------------------


def products(text, video, metric):
    """The direct formula in float64."""
    text, video = text.astype("f8"), video.astype("f8")
    if metric == "cosine":
        text = text / np.linalg.norm(text, axis=1, keepdims=True)
        video = video / np.linalg.norm(video, axis=1, keepdims=True)
    return text @ video.T


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_pair_is_the_product_of_its_vectors(kind, dtype, metric, memory, tmp_path):
    """To 1e-12 in float64 and 1e-5 in float32, of any array, resident or read anew."""
    text, video = (3 * normal(n, 7, seed=n).astype(dtype) for n in (13, 9))
    for folder in ("text", "video"):
        (tmp_path / folder).mkdir()
    given = stored_as(kind, text, tmp_path / "text"), stored_as(kind, video, tmp_path / "video")
    wanted = products(text, video, metric)
    for computed, tolerance in ((F32, 1e-5), (F64, 1e-12)):
        common = {"metric": metric, "dtype": computed, "memory": memory}
        pair = FeaturePair(*(Features(x, **common) for x in given), memory=memory)
        scale = abs(wanted).max()
        assert_allclose(pair.dense().double(), wanted, rtol=0, atol=tolerance * scale)
        assert_allclose(pair.T.dense().double(), wanted.T, rtol=0, atol=tolerance * scale)
        assert (pair.shape, pair.T.shape) == ((13, 9), (9, 13))
        assert pair.dense().dtype == computed


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_features_that_are_not_held_are_the_same(metric):
    """Vectors bit for bit, projections to 1e-12; held where a quarter of the budget suffices."""
    x = normal(30, 8)
    held = Features(x, metric=metric, dtype=F64, memory=4 * x.nbytes)
    read = Features(x, metric=metric, dtype=F64, memory=4 * x.nbytes - 1)
    assert (held.resident, read.resident) == (True, False)
    assert read.block_rows < 30
    assert_array_equal(held.rows(0, 30), read.rows(0, 30))
    assert_array_equal(*(torch.cat([block for _, _, block in f.blocks()]) for f in (held, read)))
    basis = torch.from_numpy(normal(8, 3, seed=1))
    assert_allclose(held.project(basis), read.project(basis), rtol=0, atol=1e-12)
    assert_allclose(held.project(basis), held.rows(0, 30) @ basis, rtol=0, atol=1e-12)
    assert_allclose(held.squared_norms(), read.squared_norms(), rtol=1e-14)
    lengths = np.ones(30) if metric == "cosine" else (x**2).sum(1)
    assert_allclose(held.squared_norms(), lengths, rtol=1e-12)


@pytest.mark.parametrize("length", [1e-38, 1e-20, 1e20, 1e38])
def test_the_cosine_of_vectors_of_any_length(length):
    """float32 squares would vanish or overflow; the cosine does not, to 1e-5."""
    text, video = normal(6, 4), normal(5, 4, seed=1)
    pair = FeaturePair(*(Features((length * x).astype("f4")) for x in (text, video)))
    assert_allclose(pair.dense(), products(text, video, "cosine"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("memory", [None, 1, 700])
def test_a_zero_vector_is_named(memory):
    """The cosine is not defined: which side, which row, what to do."""
    x = normal(20, 4)
    x[13] = 0
    with pytest.raises(InputValueError, match="a video vector is all zeros") as caught:
        list(Features(x, name="video", memory=memory).blocks())
    assert caught.value.received == "video[13]"
    assert 'metric="dot"' in caught.value.remedy
    assert_array_equal(Features(x, metric="dot", memory=memory).project(torch.eye(4))[13], [0] * 4)


@pytest.mark.parametrize("memory", [None, 1, 700])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_a_nan_is_named_by_its_position(metric, value, memory):
    """Row and column in the whole array, not in the block."""
    x = normal(20, 4)
    x[13, 2] = x[17, 0] = value
    with pytest.raises(InputValueError, match="text holds NaN or infinity") as caught:
        list(Features(x, name="text", metric=metric, memory=memory).blocks())
    assert f"text[13, 2] = {value}" in caught.value.received


# --- sources over sources ----------------------------------------------------------------


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("scaled", ["neither", "rows", "columns", "both"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-12)])
def test_low_rank_is_its_formula(dtype, tolerance, scaled, memory):
    """row_scale_i (S_ij + left_i . right_j) column_scale_j, and its transpose."""
    S, left, right = normal(13, 9), normal(13, 3, seed=1), normal(9, 3, seed=2)
    rows = np.linspace(0.5, 2, 13) if scaled in ("rows", "both") else None
    columns = np.linspace(-1, 3, 9) if scaled in ("columns", "both") else None
    wanted = S + left @ right.T
    wanted = wanted if rows is None else rows[:, None] * wanted
    wanted = wanted if columns is None else wanted * columns
    parts = [x if x is None else torch.tensor(x, dtype=dtype) for x in (left, right, rows, columns)]
    source = LowRank(Dense(S, dtype=dtype, memory=memory), *parts)
    assert_allclose(source.dense().double(), wanted, rtol=0, atol=tolerance)
    assert_allclose(source.T.dense().double(), wanted.T, rtol=0, atol=tolerance)
    assert_allclose(source.rows(4, 7).double(), wanted[4:7], rtol=0, atol=tolerance)
    block = source.base.rows(4, 7)
    assert_allclose(source.change(block, 4, 7).double(), wanted[4:7], rtol=0, atol=tolerance)
    assert (source.shape, source.T.shape) == ((13, 9), (9, 13))


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-6), (F64, 1e-15)])
def test_biased_is_its_formula(dtype, tolerance, memory):
    """S_ij + row_bias_i + column_bias_j, and its transpose."""
    S, f, g = normal(13, 9), normal(13, seed=1), normal(9, seed=2)
    wanted = S + f[:, None] + g
    biases = (torch.tensor(x, dtype=dtype) for x in (f, g))
    source = Biased(Dense(S, dtype=dtype, memory=memory), *biases)
    assert_allclose(source.dense().double(), wanted, rtol=0, atol=tolerance)
    assert_allclose(source.T.dense().double(), wanted.T, rtol=0, atol=tolerance)
    assert_allclose(source.rows(4, 7).double(), wanted[4:7], rtol=0, atol=tolerance)
    assert (source.shape, source.T.shape) == ((13, 9), (9, 13))


def test_sources_stack():
    """A bias on a low-rank change of products of features, transposed twice, is itself."""
    text, video = normal(13, 6), normal(9, 6, seed=1)
    left, right, f, g = (torch.from_numpy(normal(*s)) for s in ((13, 2), (9, 2), (13,), (9,)))
    pair = FeaturePair(*(Features(x, dtype=F64) for x in (text, video)))
    source = Biased(LowRank(pair, left, right, f.exp(), g.exp()), f, g)
    wanted = products(text, video, "cosine") + (left @ right.T).numpy()
    wanted = wanted * f.exp().numpy()[:, None] * g.exp().numpy() + f.numpy()[:, None] + g.numpy()
    assert_allclose(source.dense(), wanted, rtol=0, atol=1e-12)
    assert_allclose(source.T.T.dense(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory", MEMORIES)
def test_taken_rows_are_those_of_the_matrix(memory):
    """Of every kind of source, in any order and more than once, with the sides turned, too."""
    x, y = normal(9, 4), normal(7, 4, seed=1)
    sides = (Features(side, dtype=F64, memory=memory) for side in (x, y))
    pair = FeaturePair(*sides, memory=memory)
    left, right = torch.tensor(normal(9, 2, seed=2)), torch.tensor(normal(7, 2, seed=3))
    scales = torch.tensor(1 + normal(9) ** 2), torch.tensor(1 + normal(7) ** 2)
    changed = LowRank(pair, left, right, *scales)
    for source in (pair, changed, Biased(changed, *scales), Dense(normal(9, 7), dtype=F64)):
        for turned in (source, source.T):
            chosen = torch.tensor([5, 0, 6, 5])
            assert_allclose(turned.take(chosen), turned.dense()[chosen], rtol=0, atol=1e-14)
