"""Out-of-distribution gate: compared with loops, and what opens and closes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from oracles import plain_ends, plain_gate, plain_plane, plain_within, unit

from emcl_plugin.bank.ood_gate import FEWEST, MOST, PROBES, QUANTILES, fit_ood_gate, leading_plane
from emcl_plugin.scores import Features

F32, F64 = torch.float32, torch.float64
PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 1e-3)])
seeds = st.integers(0, 10_000)


def kind(n, seed=0, *, space=0, dimension=32, groups=None):
    """Unit vectors of one space (a cone), each with a group and a place in the order."""
    shared = 1.5 * np.random.default_rng([space, 1]).standard_normal(dimension)
    rng = np.random.default_rng([space, 2, seed])
    x = unit(shared + rng.standard_normal((n, dimension)))
    return x, rng.integers(0, groups or n, n), rng.permutation(n) / n


def fit(x, group, order, dtype=F64, metric="cosine", plane=None):
    """Without a plane, by (n) and (s) alone."""
    items = Features(x, dtype=dtype, metric=metric)
    plane = x.T[:, :0] if plane is None else plane
    plane = torch.as_tensor(plane, dtype=dtype)
    return fit_ood_gate(items, torch.as_tensor(group), torch.as_tensor(order), plane)


def let_through(gate, x, dtype=F64):
    """s of rows of an array, as an array."""
    return gate.of(torch.as_tensor(x, dtype=dtype)).double().numpy()


# --- against the formula -----------------------------------------------------------------


@PRECISIONS
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("groups", [7, 60, 1000])
@pytest.mark.parametrize("n", [60, 161])
def test_the_gate_is_that_of_the_formula(n, groups, metric, dtype, tolerance):
    """(n) and (s) by a look at every pair; scales of s itself, so float32 to 1e-3.

    Items of any length are compared by their cosine.
    """
    for seed in range(3):
        x, group, order = kind(n, seed, groups=groups)
        new = np.concatenate([x[:5], kind(80, seed + 50)[0], kind(20, space=1)[0]])
        long = x * np.random.default_rng(0).uniform(0.1, 9, (n, 1))
        gate = fit(long, group, order, dtype, metric)
        ends = plain_ends(x, group, QUANTILES, FEWEST)
        assert_allclose([gate.low, gate.high], ends, rtol=0, atol=tolerance * 1e-2)
        wanted = plain_gate(x, ends, new)
        assert_allclose(let_through(gate, new, dtype), wanted, rtol=0, atol=tolerance)


@PRECISIONS
@pytest.mark.parametrize("n", [60, 161])
def test_the_gate_with_a_plane_is_that_of_the_formula(n, dtype, tolerance):
    """The lower of (s) and (p) by loops, of items on both sides of the known ones."""
    x, group, order = kind(n)
    plane = plain_plane(kind(90, 5)[0])
    gate = fit(x, group, order, dtype, plane=plane)
    within = plain_within(x, plane)
    assert_allclose(gate.within, within, rtol=0, atol=tolerance * 1e-2)
    inner = x @ plane @ plane.T
    new = unit(np.concatenate([x[:30] + a * inner[:30] for a in (-0.6, -0.3, 0, 0.3, 1, 3)]))
    wanted = plain_gate(x, plain_ends(x, group), new, plane, within)
    assert ((wanted > 0) & (wanted < 1)).sum() > 10
    assert_allclose(let_through(gate, new, dtype), wanted, rtol=0, atol=tolerance)


@PRECISIONS
@pytest.mark.parametrize("n", [300, 1024, 1500])
def test_the_percentiles_of_a_sample_are_those_of_the_formula(n, dtype, tolerance):
    """Probes, at most 1,024, among which 256 are kept, both evenly spread."""
    x, group, _ = kind(n, groups=n // 3)
    gate = fit(x, group, np.arange(float(n)), dtype)
    kept = (gate.known.double().numpy() @ x.T).argmax(1)
    probes = np.unique(np.round(np.linspace(0, n - 1, min(n, PROBES))).astype(int))
    assert set(kept) <= set(probes)
    place = np.searchsorted(probes, kept)
    ends = plain_ends(x[probes], group[probes], QUANTILES, FEWEST, kept=place)
    assert_allclose([gate.low, gate.high], ends, rtol=0, atol=tolerance * 1e-2)


@given(seeds, st.integers(1, 60), st.sampled_from([F32, F64]))
def test_s_is_in_0_to_1_and_rises_with_the_nearest_cosine(seed, n, dtype):
    gate = fit(*kind(80), dtype=dtype)
    rng = np.random.default_rng(seed)
    x = unit(kind(n, seed)[0] + rng.uniform(0, 2) * rng.standard_normal((n, 32)))
    s = let_through(gate, x, dtype)
    nearest = (x @ gate.known.double().numpy().T).max(1)
    assert ((s >= 0) & (s <= 1)).all()
    assert (np.diff(s[np.argsort(nearest)]) >= -1e-4).all()
    assert (s[nearest < gate.low - 1e-6] == 0).all()
    assert (s[nearest > gate.high + 1e-6] == 1).all()


# --- who is let through ------------------------------------------------------------------


@pytest.mark.parametrize(("n", "wholly"), [(60, 0.92), (200, 0.945), (1500, 0.945)])
def test_new_items_of_the_same_kind_are_let_through_in_nineteen_of_twenty(n, wholly):
    """Means of ten draws: of few known items the percentiles are rough, and on the strict side."""
    s = [let_through(fit(*kind(n, seed)), kind(1000, seed + 20_000)[0]) for seed in range(10)]
    assert np.mean(s) >= wholly + 0.01
    assert wholly <= (np.array(s) == 1).mean() <= 0.98
    assert (np.array(s) > 0).mean() >= 0.97


@pytest.mark.parametrize("seed", range(5))
def test_items_of_another_space_are_refused(seed):
    """As those of another encoder are: all of them, wholly."""
    gate = fit(*kind(300, seed))
    assert (let_through(gate, kind(300, seed, space=seed + 1)[0]) == 0).all()


@given(seeds, st.integers(2, 8))
def test_copies_of_one_group_do_not_close_the_gate(seed, times):
    """Every item several times, and nearly so: ends and s stay, to a thousandth."""
    x, _, order = kind(100, seed)
    group = np.arange(100)
    wanted = fit(x, group, order)
    which = np.repeat(np.arange(100), times)
    noise = 1e-6 * np.random.default_rng(seed).standard_normal((len(which), 32))
    found = fit(unit(x[which] + noise), group[which], order[which])
    span = np.ptp((wanted.known @ wanted.known.T).numpy())
    assert_allclose(found.high, wanted.high, rtol=0, atol=0.05 * span)
    assert found.low <= wanted.low + 0.05 * span
    new = kind(400, seed + 30_000)[0]
    assert let_through(found, new).mean() > let_through(wanted, new).mean() - 0.05


def places(n):
    """Each item a group of its own, in order."""
    return np.arange(n), np.arange(float(n))


@pytest.mark.parametrize("n", [1, 2, 49, 50, 51])
def test_fewer_than_fifty_items_let_everything_through(n):
    """No percentiles without; from fifty on the gate is there."""
    gate = fit(kind(n)[0], *places(n))
    s = let_through(gate, kind(100, space=1)[0])
    assert (s == (0 if n >= FEWEST else 1)).all()
    assert len(gate.known) == (n if n >= FEWEST else 0)
    assert (let_through(gate, gate.known) == 1).all()


@pytest.mark.parametrize("dtype", [F32, F64])
def test_items_all_equally_far_from_one_another_have_no_percentiles_between(dtype):
    """The ends are a millionth apart then, not equal: s is a number."""
    x = unit(np.eye(64) + 1)
    gate = fit(x, *places(64), dtype)
    assert 0 < gate.high - gate.low < 2e-6
    s = let_through(gate, np.concatenate([x, unit(np.ones((1, 64))), -x]), dtype)
    assert (s[:65] == 1).all()
    assert (s[65:] == 0).all()


# --- the other side's plane --------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(40, 64), (200, 100), (9, 64), (50, 6), (50, 3)])
def test_the_plane_is_that_of_a_singular_value_decomposition(n, d):
    """As projections, to 1e-10: at most 16, a quarter of the dimensions, the number of items."""
    x = kind(n, dimension=d)[0]
    found = leading_plane(torch.as_tensor(x)).numpy()
    wanted = plain_plane(x)
    assert found.shape == (d, min(16, d // 4, n)) == wanted.shape
    assert_allclose(found @ found.T, wanted @ wanted.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_random_known_items_refuse_what_lies_where_the_other_side_does(seed):
    """They are near nobody, so (s) alone would let everything through."""
    other, new = kind(500, 1, dimension=256)[0], kind(300, 2, dimension=256)[0]
    known = np.random.default_rng(seed).standard_normal((500, 256))
    plane = plain_plane(other)
    assert let_through(fit(known, *places(500)), new).mean() > 0.9
    assert let_through(fit(known, *places(500), plane=plane), new).mean() < 0.01
    own = kind(500, 3, dimension=256)[0]
    assert let_through(fit(own, *places(500), plane=plane), new).mean() > 0.93


# --- order and number --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("n", [30, 70, 256, 257, 1024, 1025, 2500])
def test_a_sample_is_kept_that_does_not_depend_on_the_order_of_the_items(n, dtype):
    """At most 256 distinct ones, spread over the given order from the first to the last."""
    x, group, _ = kind(n, groups=n // 2)
    rng = np.random.default_rng(n)
    order = np.sort(rng.standard_normal(n))
    wanted = fit(x, group, order, dtype)
    assert len(wanted.known) == (0 if n < FEWEST else min(n, MOST))
    if n >= FEWEST:
        kept = (wanted.known.double().numpy() @ x.T).argmax(1)
        assert (np.diff(kept) >= 1).all()
        assert np.diff(kept).max() <= n // 255 + 1 + 2 * (n // 1024)
        assert (kept[0], kept[-1]) == (0, n - 1)
    for _ in range(3):
        moved = rng.permutation(n)
        found = fit(x[moved], group[moved], order[moved], dtype)
        assert torch.equal(found.known, wanted.known)
        assert (found.low, found.high) == (wanted.low, wanted.high)
