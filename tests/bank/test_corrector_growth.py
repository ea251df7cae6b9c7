"""Updates of gallery and bank: new biases, and the drift from a new fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from correctors import EVERY, METRICS, crowd, data, fitted, mixed, whole
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from oracles import plain_column_biases, plain_ends, plain_map, unit
from scipy.special import logsumexp

from emcl_plugin.bank import BANK, fit_corrector
from emcl_plugin.bank.corrector import DRIFT
from emcl_plugin.bank.ood_gate import open_to_all

EXACT = replace(BANK, tolerance=1e-9, iterations=50_000)
seeds = st.integers(0, 10_000)


def foreign(n, seed=0, dimension=21):
    return unit(1 + np.random.default_rng(seed).standard_normal((n, dimension)))


# --- growth of the gallery ---------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [("f8", 1e-11), ("f4", 1e-4)])
def test_a_copy_of_a_gallery_item_gets_its_bias(metric, emcl, dtype, tolerance):
    """In cosine of any length; to 1e-11 and 1e-4 of the biases' spread."""
    corrector = fitted(metric, emcl, dtype)
    copies = data(metric).gallery[30:60] * (7 if metric == "cosine" else 1)
    grown = corrector.with_items(copies)
    assert torch.equal(grown.bias[:90], corrector.bias)
    spread = float(corrector.bias.std())
    assert_allclose(grown.bias[90:], corrector.bias[30:60], rtol=0, atol=tolerance * spread)


def plain_mapped(corrector, x):
    """M of bank queries or gallery items, in NumPy."""
    emcl = [getattr(corrector, name).double().numpy() for name in ("basis", "change")]
    x = unit(x) if corrector.metric == "cosine" else x
    return plain_map(x, *emcl, renormalize=corrector.renormalize)


def bank_state(corrector):
    """What the slow formulas start from: M of the bank, its potentials, its weights."""
    names = ("bank", "potential", "weight")
    bank, potential, weight = (getattr(corrector, name).double().numpy() for name in names)
    return plain_mapped(corrector, bank), potential, weight


@EVERY
def test_new_items_get_the_bias_of_the_formula(metric, emcl):
    """(g) from the bank's potentials; on the constant of those that are there, to 1e-10."""
    corrector = fitted(metric, emcl)
    new = data(metric, seed=5).gallery[:40]
    bank, potential, weight = bank_state(corrector)
    settings = (potential, corrector.temperature, corrector.rho, weight)
    known = plain_column_biases(bank @ plain_mapped(corrector, data(metric).gallery).T, *settings)
    wanted = plain_column_biases(bank @ plain_mapped(corrector, new).T, *settings) - known.mean()
    for grown in (
        corrector.with_items(new),
        corrector.with_items(new[:15]).with_items(new[15:]),
        corrector.without(range(50)).with_items(new),
    ):
        found = grown.bias[-40:]
        assert_allclose(found, corrector.strength * wanted, rtol=0, atol=1e-10)


@given(st.lists(st.integers(0, 89), max_size=60), seeds)
def test_without_takes_away_those_and_keeps_the_order_of_the_others(gone, seed):
    """Items that came and go again leave no trace, bit for bit."""
    names = tuple(f"v{i}" for i in range(90))
    corrector = fitted(dtype="f4", names=names)
    more = corrector.with_items(crowd(33), [f"new {i}" for i in range(33)])
    rng = np.random.default_rng(seed)
    left = more.without([int(i) for i in rng.permutation([*gone, *range(90, 123)])])
    keep = [i for i in range(90) if i not in gone]
    assert len(left) == len(keep)
    assert left.names == tuple(names[i] for i in keep)
    assert torch.equal(left.gallery, corrector.gallery[keep])
    assert torch.equal(left.bias, corrector.bias[keep])
    scores = whole(corrector.scores(mixed()))[:, keep]
    assert_allclose(whole(left.scores(mixed())), scores, rtol=0, atol=1e-6)
    if not gone:
        assert torch.equal(whole(left.scores(mixed())), scores)
        assert left.drift() == corrector.drift()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_growth_shares_no_memory_with_the_corrector_it_started_from_nor_with_its_input(
    metric, kind
):
    corrector, new = fitted(metric), kind(data(metric).queries[:9])
    names = ("gallery", "bias", "bank", "potential")
    before = [getattr(corrector, x).clone() for x in names]
    grown = corrector.with_items(new).with_queries(new).without([0, 5])
    kept = grown.gallery.clone(), grown.bank.clone()
    new[:] = 1
    assert torch.equal(grown.gallery, kept[0])
    assert torch.equal(grown.bank, kept[1])
    grown.gallery[:] = 0
    grown.bank[:] = 0
    assert all(map(torch.equal, [getattr(corrector, x) for x in names], before))


# --- growth of the bank ------------------------------------------------------------------


@EVERY
def test_new_queries_renew_all_biases_by_one_round(metric, emcl):
    """(f), on the constant of the potentials that are there, then (g); to 1e-7."""
    corrector = fitted(metric, emcl, ncl=EXACT)
    new = data(metric, seed=4).queries[:40]
    grown = corrector.with_queries(new)
    bank, potential, weight = bank_state(corrector)
    gallery = plain_mapped(corrector, data(metric).gallery)
    more = np.concatenate([bank, plain_mapped(corrector, new)])
    tau, rho = corrector.temperature, corrector.rho
    bias = corrector.bias.numpy() / corrector.strength
    f = -rho * tau * logsumexp((more @ gallery.T + bias) / tau, axis=1)
    f += (potential - f[:150]).mean()
    assert_allclose(grown.potential[:150], potential, rtol=0, atol=0)
    assert_allclose(grown.potential[150:], f[150:], rtol=0, atol=1e-7)
    f[:150] = potential
    weight = np.append(weight, np.ones(40))
    g = plain_column_biases(more @ gallery.T, f, tau, rho, weight)
    assert_allclose(grown.bias, corrector.strength * (g - g.mean()), rtol=0, atol=1e-7)
    assert len(grown.bank) == len(grown.weight) == 190


@pytest.mark.parametrize(("count", "times", "share"), [(150, 1, 1e-6), (1, 500, 0.1)])
def test_queries_that_come_again_change_nothing(count, times, share):
    """Near-equal queries count once, as in a fit: to a share of the biases' spread."""
    corrector = fitted(ncl=EXACT)
    again = corrector.with_queries(np.repeat(data().bank[:count], times, axis=0))
    spread = float(corrector.bias.std())
    assert float((again.bias - corrector.bias).std()) < share * spread


def test_new_queries_are_of_the_bank_s_kind_from_then_on():
    """The gate is that of all of them, grouped by best match; others stay where they were."""
    corrector, new = fitted(), foreign(60)
    assert whole(corrector.vectors(new))[:, -1].mean() < 0.2
    grown = corrector.with_queries(new)
    s = whole(grown.vectors(np.concatenate([new, foreign(60, 1), mixed()])))[:, -1]
    assert s[:60].mean() > 0.98
    assert s[60:120].mean() > 0.8
    bank = np.concatenate([data().bank, new])
    ends = plain_ends(bank, (bank @ data().gallery.T).argmax(1))
    assert_allclose([grown.ood_gate.low, grown.ood_gate.high], ends, rtol=1e-9)
    without = replace(corrector, ood_gate=open_to_all(corrector.gallery))
    assert len(without.with_queries(new).ood_gate.known) == 0


def test_items_after_queries_are_on_the_constant_of_the_renewed_biases():
    """A copy of a gallery item still gets its bias."""
    corrector = fitted().with_queries(foreign(50))
    grown = corrector.with_items(data().gallery[:30])
    assert_allclose(grown.bias[90:], corrector.bias[:30], rtol=0, atol=1e-12)
    assert abs(float(corrector.bias.mean())) < 1e-12


@pytest.mark.parametrize("growth", ["items", "queries", "both"])
def test_a_corrector_without_biases_grows_without_biases(growth):
    """Its strength is 0, as where the guard held everything back."""
    corrector = fitted().weakened(0.0)
    if growth != "queries":
        corrector = corrector.with_items(crowd(20))
    if growth != "items":
        corrector = corrector.with_queries(foreign(20))
    assert not corrector.bias.any()
    assert corrector.drift() == 0
    assert torch.isfinite(whole(corrector.scores(mixed()))).all()


def test_weaker_biases_are_a_share_of_them_also_of_new_items():
    corrector = fitted()
    half = corrector.weakened(0.5)
    assert half.strength == 0.5 * corrector.strength
    assert torch.equal(half.bias, 0.5 * corrector.bias)
    new = crowd(20)
    wanted = 0.5 * corrector.with_items(new).bias
    assert_allclose(half.with_items(new).bias, wanted, rtol=1e-12)
    assert_allclose(half.drift(), corrector.drift(), rtol=1e-9)
    assert_allclose(half.renewed().bias, half.bias, rtol=0, atol=1e-12)


# --- drift -------------------------------------------------------------------------------


def plain_drift(corrector):
    """One more round of (f) and (g) by the formulas, against what there is."""
    bank, _, weight = bank_state(corrector)
    gallery = plain_mapped(corrector, corrector.gallery.numpy())
    tau, rho = corrector.temperature, corrector.rho
    bias = corrector.bias.numpy() / corrector.strength
    f = -rho * tau * logsumexp((bank @ gallery.T + bias) / tau, axis=1)
    g = plain_column_biases(bank @ gallery.T, f, tau, rho, weight)
    change = g - bias - (g - bias).mean()
    return np.sqrt((change**2).mean()) / bias.std()


@EVERY
def test_there_is_no_drift_right_after_the_fit(metric, emcl):
    """Up to NCL's tolerance: under 0.05 by default, under 1e-6 where that is 1e-9."""
    assert fitted(metric, emcl).drift() < 0.05
    assert fitted(metric, emcl, ncl=EXACT).drift() < 1e-6
    assert fitted(metric, emcl, dtype="f4").drift() < 0.05
    x = data(metric)
    dual = fit_corrector(x.bank, x.gallery, gallery_bank=x.gallery_bank, ncl=EXACT, metric=metric)
    assert dual[0].drift() < 0.01


@EVERY
def test_drift_is_that_of_one_more_round_in_plain_numpy(metric, emcl):
    corrector = fitted(metric, emcl)
    for grown in (
        corrector,
        corrector.with_items(data(metric, 7).gallery),
        corrector.with_queries(data(metric, 7).queries),
        corrector.without(range(60)),
    ):
        assert_allclose(grown.drift(), plain_drift(grown), rtol=1e-6, atol=1e-9)


def test_drift_grows_with_foreign_items_and_queries_and_a_fit_brings_it_down():
    corrector = fitted()
    items = [corrector, *(corrector.with_items(crowd(n)) for n in (5, 20, 80, 320))]
    drifts = [grown.drift() for grown in items]
    assert (np.diff(drifts) > 0.01).all()
    assert drifts[-1] > DRIFT
    assert fit_corrector(corrector.bank, items[-1].gallery, ncl=BANK)[0].drift() < 0.05
    queries = [corrector, *(corrector.with_queries(crowd(n)) for n in (2, 20, 200))]
    assert (np.diff([grown.drift() for grown in queries]) > 0).all()
