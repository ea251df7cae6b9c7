"""Batch-invariant products: the result of a row does not depend on other rows, bit for bit."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from emcl_plugin.scores.batch_invariant import TILE, BatchInvariantPair, padded, tiles

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float64)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 10_000)


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def product(x, other):
    """x @ other.T in tiles."""
    blocks = tiles(x, other.dtype, CPU)
    right = padded(other).T
    return torch.cat([(tile @ right)[: stop - start, : len(other)] for start, stop, tile in blocks])


# --- padding -----------------------------------------------------------------------------


@given(st.integers(1, 70), st.integers(1, 70), dtypes)
def test_padded_is_the_matrix_with_zeros_up_to_multiples_of_16(rows, columns, dtype):
    x = normal(rows, columns, dtype=dtype)
    out = padded(x)
    assert out.dtype == dtype
    assert tuple(out.shape) == tuple(16 * -(-size // 16) for size in x.shape)
    assert torch.equal(out[:rows, :columns], x)
    assert out.count_nonzero() == x.count_nonzero()


# --- tiles -------------------------------------------------------------------------------


@given(st.integers(1, 100), st.integers(1, 40), dtypes)
def test_tiles_are_all_rows_in_order_16_at_a_time_and_zeros(n, columns, dtype):
    x = normal(n, columns)
    end = 0
    for start, stop, tile in tiles(x, dtype, CPU):
        assert start == end
        assert stop == min(n, start + TILE)
        assert tuple(tile.shape) == (TILE, 16 * -(-columns // 16))
        assert tile.dtype == dtype
        assert torch.equal(tile[: stop - start, :columns], x[start:stop].to(dtype))
        assert not tile[stop - start :].any()
        assert not tile[:, columns:].any()
        end = stop
    assert end == n


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_tiles_of_an_array_a_view_and_a_mapped_file_are_those_of_the_tensor(tmp_path, dtype):
    x = np.random.default_rng(0).standard_normal((70, 20)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    native = torch.from_numpy(x.astype(x.dtype.newbyteorder("=")))
    wanted = [tile for _, _, tile in tiles(native, torch.float32, CPU)]
    wide = np.empty((140, 40), x.dtype)
    wide[::2, ::-2] = x
    for array in (x, np.asfortranarray(x), wide[::2, ::-2], np.load(tmp_path / "x.npy", "r")):
        found = [tile for _, _, tile in tiles(array, torch.float32, CPU)]
        assert all(map(torch.equal, found, wanted))


def test_a_tile_is_not_the_input():
    """Writing into a tile does not change the input."""
    for x in (np.ones((40, 16), "f4"), torch.ones(40, 16)):
        for _, _, tile in tiles(x, torch.float32, CPU):
            tile += 1
        assert_array_equal(x, 1)


# --- products ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
@given(st.integers(1, 70), st.integers(1, 300), st.integers(1, 200), dtypes, seeds, st.booleans())
def test_a_row_of_a_product_does_not_depend_on_position_or_other_rows(
    count, n, others, dimension, dtype, seed, large
):
    """Alone, in any order, among other rows, after any cut: the same bits."""
    other = normal(others, dimension, seed=seed, dtype=dtype)
    x = normal(n, dimension, seed=seed + 1, dtype=dtype)
    if large:  # neighbours of another magnitude
        x[::2] *= 1e6
    rng = np.random.default_rng(seed)
    order = torch.from_numpy(rng.permutation(n))
    cut, row = int(rng.integers(0, n)), int(rng.integers(n))
    with threads(count):
        whole = product(x, other)
        assert torch.equal(product(x[row : row + 1], other)[0], whole[row])
        assert torch.equal(product(x[order], other), whole[order])
        if cut:
            parts = product(x[:cut], other), product(x[cut:], other)
            assert torch.equal(torch.cat(parts), whole)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dimension", [1, 33, 384, 512, 768])
def test_so_it_is_at_the_sizes_of_embeddings(dimension, count, dtype):
    """A gallery of 1,537: large enough for more than one thread to share a product."""
    other = normal(1537, dimension, dtype=dtype)
    x = normal(2 * TILE + 3, dimension, seed=1, dtype=dtype)
    with threads(count):
        whole = product(x, other)
        for row in (0, 1, 5, TILE - 1, TILE, 2 * TILE + 2):
            assert torch.equal(product(x[row : row + 1], other)[0], whole[row])
        assert torch.equal(product(x.flip(0), other).flip(0), whole)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), dtypes)
def test_a_product_in_tiles_is_the_product(n, others, dimension, dtype):
    x, other = normal(n, dimension, dtype=dtype), normal(others, dimension, seed=1, dtype=dtype)
    size = float(x.norm() * other.norm())
    tolerance = 8 * torch.finfo(dtype).eps * size
    assert_allclose(product(x, other), x @ other.T, rtol=0, atol=tolerance)


# --- as a similarity source --------------------------------------------------------------


@given(st.integers(1, 100), st.integers(1, 50), st.integers(1, 40), dtypes, seeds)
def test_a_tiled_pair_has_the_same_bits_for_a_text_alone(n, others, dimension, dtype, seed):
    text, video = normal(n, dimension, seed=seed, dtype=dtype), normal(others, dimension).to(dtype)
    pair = BatchInvariantPair(text, video)
    whole = pair.dense()
    assert pair.shape == (n, others)
    assert pair.dtype == dtype
    assert torch.equal(whole, product(text, video))
    row = seed % n
    assert torch.equal(pair.rows(row, row + 1)[0], whole[row])
    assert torch.equal(BatchInvariantPair(text[row : row + 1], video).dense()[0], whole[row])
    assert_allclose(pair.T.dense().T, whole, rtol=0, atol=1e-4 if dtype == DTYPES[0] else 1e-12)


def test_a_tiled_pair_is_read_in_whole_tiles():
    pair = BatchInvariantPair(normal(1000, 8), normal(5000, 8))
    assert pair.block_rows % TILE == 0
    bounds = [(start, stop) for start, stop, _ in pair.blocks()]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 1000
    assert len(bounds) > 1
