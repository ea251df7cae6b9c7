"""Mutual nearest neighbours against a look at every pair, and hubs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import hubby_scores, plain_mutual, plain_mutual_share, tied_scores

from emcl_plugin.evidence.mutual_neighbours import mutual_nearest_neighbours, nearest
from emcl_plugin.scores import Dense, FeaturePair, Features

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
seeds = st.integers(0, 10_000)
memories = st.integers(1, 5000)
dtypes = st.sampled_from([torch.float32, torch.float64])


@given(shapes, seeds, memories, dtypes)
def test_the_share_is_that_of_a_look_at_every_pair(shape, seed, memory, dtype):
    """Without ties, in any block size."""
    x = np.random.default_rng(seed).standard_normal(shape)
    source = Dense(x, dtype=dtype, memory=memory)
    assert mutual_nearest_neighbours(source) == plain_mutual_share(x)
    assert mutual_nearest_neighbours(source.T) == plain_mutual_share(x)


@pytest.mark.parametrize("scores", [[[0.5, 0.5], [0.9, 0.1]], [[0.5, 0.9], [0.5, 0.1]]])
def test_an_equal_best_counts_wherever_it_stands(scores):
    """Two mutual pairs, one of them by a tie (a text's, then a video's), in every order."""
    x = np.array(scores)
    for ordered in (x, x[::-1], x[:, ::-1], x[::-1, ::-1]):
        assert mutual_nearest_neighbours(Dense(ordered)) == 1


@settings(max_examples=100)
@given(shapes, seeds, memories)
def test_equal_bests_are_all_best(shape, seed, memory):
    """With ties too, the share is that of a look at every pair."""
    source = Dense(tied_scores(shape, seed), memory=memory)
    assert mutual_nearest_neighbours(source) == plain_mutual_share(np.array(source.array))
    assert mutual_nearest_neighbours(source.T) == plain_mutual_share(np.array(source.array))


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("n_text", [15, 16, 17, 100])
def test_rows_are_gone_through_in_parts(monkeypatch, n_text, few):
    """16 at a time: best matches are those of all, with a few equal bests and with many."""
    monkeypatch.setattr("emcl_plugin.scores.block_sizes._CACHE_BYTES", 1)
    x = np.random.default_rng(n_text).permutation(n_text * 30).reshape(n_text, 30) / 4096
    if few:
        x[-1], x[:, 7] = x[0], x[:, 3]
    else:
        x = np.floor(64 * x) / 64
    found = nearest(Dense(x))
    for best, wanted in zip(
        (found.video_of_text, found.text_of_video, found.text_score, found.video_score),
        (x.argmax(1), x.argmax(0), x.max(1), x.max(0)),
        strict=True,
    ):
        assert_array_equal(best, wanted)
    for ours, wanted in zip(found.in_pairs(), plain_mutual(x), strict=True):
        assert_array_equal(ours, wanted)


@given(shapes, seeds, st.booleans())
def test_the_share_does_not_depend_on_the_order(shape, seed, tied):
    """Of texts and of videos, with and without ties."""
    rng = np.random.default_rng(seed)
    x = tied_scores(shape, seed) if tied else rng.standard_normal(shape)
    moved = x[rng.permutation(shape[0])][:, rng.permutation(shape[1])]
    assert mutual_nearest_neighbours(Dense(moved)) == mutual_nearest_neighbours(Dense(x))


@given(shapes, seeds, st.integers(2, 4))
def test_copies_leave_the_share_alone(shape, seed, copies):
    """Every text and every video repeated."""
    x = np.random.default_rng(seed).standard_normal(shape)
    repeated = np.repeat(np.repeat(x, copies, axis=0), copies, axis=1)
    share = mutual_nearest_neighbours(Dense(x))
    assert mutual_nearest_neighbours(Dense(repeated)) == share


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_that_differ_by_rounding_leave_the_share_alone(dtype):
    """A score within some units in the last place of the best is the best."""
    x = hubby_scores(30, 20, seed=0)
    repeated = np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)
    eps = torch.finfo(dtype).eps
    noise = np.random.default_rng(0).uniform(-2 * eps, 2 * eps, repeated.shape)
    share = mutual_nearest_neighbours(Dense(x, dtype=dtype))
    assert mutual_nearest_neighbours(Dense(repeated + noise, dtype=dtype)) == share
    assert 0.1 < share < 0.9


def test_a_small_difference_that_is_no_rounding_counts():
    """In float32 a thousandth of a score decides, on both sides."""
    x = np.array([[0.900, 0.1], [0.901, 0.900]])
    assert mutual_nearest_neighbours(Dense(x)) == 0.5


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        (np.eye(6), 1.0),
        (np.eye(6)[:, ::-1], 1.0),
        (np.arange(6.0)[:, None] + np.array([5.0, 0, 0, 0]), 1 / 4),  # one hub, one text wins
        (np.zeros((3, 7)), 1.0),
        (np.array([[0.3]]), 1.0),
    ],
    ids=["pairs", "other-pairs", "hub", "constant", "single"],
)
def test_known_shares(scores, share):
    """Of the smaller side."""
    assert_allclose(mutual_nearest_neighbours(Dense(np.ascontiguousarray(scores))), share)


@given(shapes, seeds, memories)
def test_the_best_of_both_sides_is_found(shape, seed, memory):
    """Indices and scores are those of argmax and max, in any block size."""
    x = np.random.default_rng(seed).standard_normal(shape)
    found = nearest(Dense(x, dtype=torch.float64, memory=memory))
    assert_array_equal(found.video_of_text, x.argmax(1))
    assert_array_equal(found.text_of_video, x.argmax(0))
    assert_array_equal(found.text_score, x.max(1))
    assert_array_equal(found.video_score, x.max(0))


@given(shapes, seeds)
def test_hubs_are_counted(shape, seed):
    """The most frequent best video, how often it is, and the share that is never best."""
    x = np.random.default_rng(seed).standard_normal(shape)
    counts = np.bincount(x.argmax(1), minlength=shape[1])
    hubs = nearest(Dense(x, dtype=torch.float64)).hubs()
    assert hubs.largest == counts.max()
    assert counts[hubs.largest_index] == counts.max()
    assert_allclose(hubs.never, np.mean(counts == 0), rtol=1e-12)


def test_a_planted_hub_is_named():
    """Video 3 is every text's best."""
    x = hubby_scores(20, 10, seed=1)
    x[:, 3] += 10
    hubs = nearest(Dense(x)).hubs()
    assert (hubs.largest, hubs.largest_index) == (20, 3)
    assert_allclose(hubs.never, 0.9, rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_copies_stay_level_whatever_was_added_to_their_scores(seed):
    """NCL's biases leave small numbers of large ones: what is level is level at the size of those.

    A few copies are looked at one by one, in products of other shapes than the pass's.
    """
    generator = torch.Generator().manual_seed(seed)
    text, video = torch.randn(2, 211, 24, generator=generator, dtype=torch.float64)
    text[17], video[5] = text[200], video[100]
    pair = FeaturePair(
        *(Features(x, dtype=torch.float64, name="x") for x in (text, video)), memory=1 << 20
    )
    scores = pair.dense()
    biases = -scores.amax(1), 0.01 * torch.randn(211, generator=generator, dtype=torch.float64)
    found = nearest(pair.biased(*biases))
    scores = scores + biases[0][:, None] + biases[1]
    level = 1e-13
    both = (scores >= scores.amax(1, keepdim=True) - level) & (scores >= scores.amax(0) - level)
    assert [x.tolist() for x in found.in_pairs()] == [both.any(1).tolist(), both.any(0).tolist()]
