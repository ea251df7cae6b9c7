"""Mutual nearest neighbours against a look at every pair, hubs, and the guard's decision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import hubby_scores, plain_mutual_share

from emcl_plugin.agreement import decide, mutual_nearest_neighbours, nearest
from emcl_plugin.similarity import Dense

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
seeds = st.integers(0, 10_000)
memories = st.integers(1, 5000)
dtypes = st.sampled_from([torch.float32, torch.float64])


def tied_scores(shape, seed):
    """Scores from a few values, as coarse quantisation makes them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, rng.integers(2, 40), shape) / 64


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


@pytest.mark.parametrize(
    ("before", "after", "applied"),
    [(0.5, 0.6, True), (0.5, 0.5, False), (0.5, 0.4, False), (0.5, float("nan"), False)],
)
def test_the_guard_lets_through_only_what_raises_agreement(before, after, applied):
    """An equal, lower or undefined share means that the input is returned."""
    decision = decide(before, after)
    assert (decision.enabled, decision.applied) == (True, applied)
    assert (decision.before, decision.reason.count("%")) == (before, 2)
    assert ("the input is returned unchanged" in decision.reason) == (not applied)


def test_a_guard_that_is_off_lets_everything_through():
    """And says that it was off."""
    decision = decide(0.5, 0.4, enabled=False)
    assert (decision.enabled, decision.applied) == (False, True)
    assert "switched off" in decision.reason
    assert "50.0 % -> 40.0 %" in decision.reason
