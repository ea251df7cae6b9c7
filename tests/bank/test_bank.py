"""What a bank teaches: biases against plain NumPy, and what makes no difference to them."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from banks import MAP, data, fit, plain_bank_weights, plain_scores, spread
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import banked, plain_bank_biases, plain_spread

from emcl_plugin import NCL, rescore
from emcl_plugin.bank import BANK, GENTLE, fit_corrector
from emcl_plugin.errors import RepeatedItemsWarning
from emcl_plugin.evidence.prior import GENTLE_RHO, GENTLE_TEMPERATURE_STD

PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [("f8", 1e-9), ("f4", 2e-4)])
seeds = st.integers(0, 10_000)


# --- the biases --------------------------------------------------------------------------


@PRECISIONS
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("emcl", [None, MAP])
def test_biases_are_those_of_the_plain_loop(emcl, dual, metric, dtype, tolerance):
    """NCL at 0.4 standard deviations with rho 0.8, near-duplicate queries once, and half a round.

    On the scores after EMCL, with the gallery bank's columns beside the gallery's; to 1e-9 of
    the scores' spread, in float32 to 2e-4.
    """
    for seed in range(2):
        x = data(seed, metric=metric)
        corrector, report = fit(x, dual=dual, emcl=emcl, guard=False, metric=metric, dtype=dtype)
        w = plain_bank_weights(x, dual=dual, metric=metric)
        S = plain_scores(x, corrector, dual=dual, metric=metric)
        g, f, tau = plain_bank_biases(S, w, 70)
        atol = tolerance * S.std()
        assert_allclose(corrector.bias, g, rtol=0, atol=atol)
        assert_allclose(np.ptp(corrector.potential.double().numpy() - f), 0, atol=atol)
        assert_allclose(corrector.weight, w, rtol=max(tolerance, 1e-9) * 20)
        assert_allclose([corrector.temperature, report.temperature], tau, rtol=tolerance)
        assert_allclose(report.queries, w.sum(), rtol=20 * tolerance)
        assert len(corrector.change) == 0 if emcl is None else len(corrector.change) > 3
        assert corrector.renormalize == (emcl is not None and metric == "cosine")


@pytest.mark.parametrize(
    "ncl",
    [
        NCL(),
        NCL(temperature=0.03, rho=0.9),
        NCL(logit_scale=50.0),
        NCL(temperature_std=0.3, rho=0.5, tolerance=1e-6, iterations=5000),
    ],
)
@pytest.mark.parametrize("solver", ["stored", "blocks"])
def test_ncl_may_have_settings_of_its_own(ncl, solver):
    x = data()
    corrector, report = fit(x, guard=False, ncl=replace(ncl, solver=solver))
    S, w = plain_scores(x), plain_bank_weights(x)
    tau = ncl.resolve_temperature(plain_spread(S, w))
    std = tau / plain_spread(S, w)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        g = plain_bank_biases(S, w, 70, std=std, rho=ncl.rho)[0]
    if ncl.tolerance == NCL.tolerance:
        assert_allclose(corrector.bias, g, rtol=0, atol=1e-9)
    else:
        assert_allclose(spread(corrector.bias), spread(g), rtol=0.1)
    assert_allclose([report.temperature, report.rho], [tau, ncl.rho], rtol=1e-9)


def test_pot_gives_the_same_biases():
    """Converged ones, to a thousandth of the scores' spread."""
    x = data()
    exact = NCL(temperature_std=0.4, tolerance=1e-8, iterations=20_000)
    wanted = fit(x, guard=False, ncl=exact)[0].bias
    found = fit(x, guard=False, ncl=replace(exact, solver="pot"))[0].bias
    assert_allclose(found, wanted, rtol=0, atol=1e-3 * plain_scores(x).std())


@pytest.mark.parametrize(
    ("prior", "std", "rho"),
    [("auto", 0.4, 0.8), ("gentle", GENTLE_TEMPERATURE_STD, GENTLE_RHO), ("even", 0.15, 1.0)],
)
def test_the_prior_chooses_ncl_s_settings(prior, std, rho):
    """ "even" counts copies as often as they come, as NCL was published."""
    x = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RepeatedItemsWarning)
        corrector, report = fit(x, guard=False, prior=prior)
    w = np.ones(len(x.bank)) if prior == "even" else plain_bank_weights(x)
    g = plain_bank_biases(plain_scores(x), w, 70, std=std, rho=rho)[0]
    assert_allclose(corrector.bias, g, rtol=0, atol=1e-9)
    assert_allclose(report.queries, w.sum(), rtol=1e-9)
    assert report.rho == rho
    assert (BANK.temperature_std, BANK.rho) == (0.4, 0.8)
    assert GENTLE.rho == GENTLE_RHO
    own = fit(data(repeats=None), prior=prior, ncl=NCL(temperature_std=0.3, rho=0.7))[1]
    assert own.rho == 0.7


def test_a_hub_s_bias_is_low_and_helps_queries_that_the_bank_has_not():
    """Two points of R@1 and more on synthetic cones, the mean of five draws."""
    gains = []
    for seed in range(5):
        x = banked(seed, 200, 300, 32)
        corrector = fit_corrector(x.bank, x.gallery)[0]
        asked = x.queries @ x.gallery.T
        found = torch.cat(list(corrector.scores(x.queries))).numpy()
        gains.append([(s.argmax(1) == np.arange(200)).mean() for s in (asked, found)])
        often = np.bincount((x.bank @ x.gallery.T).argmax(1), minlength=200)
        assert np.corrcoef(often, corrector.bias.numpy())[0, 1] < -0.3
    assert np.diff(gains).mean() > 0.02


# --- what is left out --------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"ncl": None}, {"prior": "off"}])
def test_without_ncl_emcl_alone_is_applied(settings):
    """Its strength is that of `rescore`; no query is refused."""
    x = data(repeats=None)
    corrector, report = fit(x, emcl="auto", **settings)
    wanted = rescore(None, (x.bank, x.gallery), ncl=None)
    assert report.guard.applied
    assert report.emcl == wanted.emcl
    assert report.emcl.strength != 0
    assert_allclose(torch.cat(list(corrector.scores(x.bank))), wanted.scores, rtol=0, atol=1e-12)
    assert not corrector.bias.any()
    assert (report.strength, report.temperature, report.iterations) == (0, 0, 0)
    assert len(corrector.ood_gate.known) == 0


def test_without_both_vectors_and_scores_are_as_they_came():
    x = data()
    corrector, report = fit(x, emcl=None, ncl=None)
    assert report.emcl is None
    assert_allclose(torch.cat(list(corrector.vectors(x.queries)))[:, :-1], x.queries, atol=1e-15)
    assert_allclose(torch.cat(list(corrector.scores(x.queries))), x.queries @ x.gallery.T)
    assert "nothing was switched on" in report.guard.reason
    assert corrector.drift() == 0


def test_the_guard_is_that_of_rescore():
    """The same evidence on bank x gallery, and the same EMCL."""
    for seed in range(3):
        x = data(seed, repeats=None)
        report = fit(x, emcl="auto")[1]
        wanted = rescore(None, (x.bank, x.gallery))
        assert report.emcl == wanted.emcl
        for name in ("strength", "gained", "lost", "before"):
            assert getattr(report.guard, name) == getattr(wanted.guard, name)


# --- what does not matter ----------------------------------------------------------------


@pytest.mark.slow
@given(seeds)
def test_the_order_of_bank_and_gallery_does_not_matter(seed):
    """Biases move with the gallery, to 1e-9, with EMCL and the gate as well; so do scores."""
    rng = np.random.default_rng(seed)
    x = data(seed % 3)
    bank, gallery = rng.permutation(len(x.bank)), rng.permutation(70)
    wanted, report = fit(x, emcl="auto", dual=True)
    moved = x._replace(
        bank=x.bank[bank],
        gallery=x.gallery[gallery],
        gallery_bank=x.gallery_bank[rng.permutation(90)],
    )
    found, other = fit(moved, emcl="auto", dual=True)
    assert_allclose(found.bias, wanted.bias[gallery], rtol=0, atol=1e-9)
    assert_allclose(found.potential, wanted.potential[bank], rtol=0, atol=1e-9)
    assert_allclose(other.reliability, report.reliability, rtol=0, atol=1e-9)
    scores = torch.cat(list(wanted.scores(x.queries)))[:, gallery]
    assert_allclose(torch.cat(list(found.scores(x.queries))), scores, rtol=0, atol=1e-8)


@pytest.mark.parametrize("times", [2, 5])
def test_a_bank_given_k_times_teaches_the_same(times):
    """Biases and their strength to 1e-8; the gate's ends to half of the way between."""
    for seed in range(4):
        x = banked(seed, 120, 30)
        order = np.random.default_rng(seed).permutation(30 * times)
        again = x._replace(bank=np.repeat(x.bank, times, axis=0)[order])
        wanted, report = fit(x)
        found, other = fit(again)
        assert report.guard.applied
        assert_allclose(found.bias, wanted.bias, rtol=0, atol=1e-8)
        assert (other.bank, other.queries) == (30 * times, pytest.approx(30))
        assert_allclose(other.guard.z, report.guard.z, rtol=1e-9)
        assert_allclose(other.reliability, report.reliability, rtol=0, atol=1e-9)
        assert_allclose(other.strength, report.strength, rtol=1e-9)


@pytest.mark.slow
@given(seeds, st.floats(-6, 6), st.floats(-6, 6), st.booleans())
def test_units_do_not_matter_to_the_inner_product(seed, bank, gallery, dual):
    """Biases are in the units of the scores; strength and gate have none."""
    x = data(seed % 3, metric="dot")
    bank, gallery = 10**bank, 10**gallery
    scaled = type(x)(bank * x.queries, gallery * x.gallery, bank * x.bank, gallery * x.gallery_bank)
    wanted, report = fit(x, metric="dot", dual=dual)
    found, other = fit(scaled, metric="dot", dual=dual)
    assert_allclose(found.bias / (bank * gallery), wanted.bias, rtol=0, atol=1e-8)
    assert_allclose(other.strength, report.strength, rtol=1e-8)
    scores = [torch.cat(list(c.scores(y.queries))) for c, y in ((found, scaled), (wanted, x))]
    assert_allclose(scores[0] / (bank * gallery), scores[1], rtol=0, atol=1e-7)
    assert_allclose(found.drift(), wanted.drift(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("magnitude", [1e-15, 1e12])
def test_nor_do_they_in_float32(magnitude):
    """Scores' squares vanish or overflow; the biases should not."""
    x = data(metric="dot")
    scaled = type(x)(*(magnitude * y for y in x))
    wanted, report = fit(x, metric="dot", dtype="f4")
    found, other = fit(scaled, metric="dot", dtype="f4")
    assert_allclose(other.strength, report.strength, rtol=1e-3)
    assert_allclose(found.ood_gate.high, wanted.ood_gate.high, rtol=1e-3)
    assert_allclose(found.drift(), wanted.drift(), rtol=1e-2, atol=1e-6)


@pytest.mark.slow
@given(seeds)
def test_lengths_do_not_matter_to_the_cosine(seed):
    """Each vector has its own."""
    rng = np.random.default_rng(seed)
    x = data(seed % 3)
    scaled = type(x)(*(y * 10 ** rng.uniform(-20, 20, (len(y), 1)) for y in x))
    wanted, found = (fit(y, emcl="auto", dual=True)[0] for y in (x, scaled))
    assert_allclose(found.bias, wanted.bias, rtol=0, atol=1e-9)
    assert_allclose(found.gallery, wanted.gallery, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_little_memory_gives_the_same(dual, metric):
    """A MiB for 700 x 600 scores that take five, read anew in blocks: to 1e-8."""
    x = banked(0, 600, 700, 16)
    wanted, report = fit(x, dual=dual, metric=metric)
    found, other = fit(x, dual=dual, metric=metric, memory=1 << 20)
    assert_allclose(found.bias, wanted.bias, rtol=0, atol=1e-8)
    assert_allclose(other.strength, report.strength, rtol=1e-8)
    assert_allclose(other.coverage, report.coverage)
    scores = [torch.cat(list(c.scores(x.queries[:40]))) for c in (found, wanted)]
    assert_allclose(*scores, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtypes", [("f2",) * 3, ("f4",) * 3, ("f8",) * 3, ("f4", "f2", "f4")])
def test_tensors_give_what_arrays_give(dtypes):
    """Bit for bit, also of views, and where the gallery bank is of another dtype."""
    x = data()
    sides = [y.astype(d) for y, d in zip((x.bank, x.gallery, x.gallery_bank), dtypes, strict=True)]
    views = [sides[0], sides[1][::-1][::-1], sides[2]]
    wanted, *others = (
        fit_corrector(bank, gallery, gallery_bank=more, emcl=None)[0]
        for bank, gallery, more in (sides, views, [torch.from_numpy(y) for y in sides])
    )
    for found in others:
        assert torch.equal(found.bias, wanted.bias)
        assert torch.equal(found.gallery, wanted.gallery)
        assert found.ood_gate.low == wanted.ood_gate.low
    assert wanted.bias.dtype == (torch.float64 if dtypes[0] == "f8" else torch.float32)


def test_gradients_and_bfloat16_are_accepted():
    bank, gallery, more = (
        torch.tensor(y, dtype=torch.bfloat16, requires_grad=True)
        for y in (data().bank, data().gallery, data().gallery_bank)
    )
    corrector = fit_corrector(bank, gallery, gallery_bank=more)[0]
    assert not corrector.bias.requires_grad
    assert not next(corrector.scores(bank)).requires_grad
    assert corrector.bias.dtype == torch.float32


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("memory", [None, 1 << 20])
def test_the_input_is_left_alone_and_may_change_later(library, metric, memory):
    x = [y.astype("f4") for y in data(metric=metric)]
    if library == "torch":
        x = [torch.from_numpy(y) for y in x]
    corrector, _ = fit_corrector(x[2], x[1], gallery_bank=x[3], metric=metric, memory=memory)
    list(corrector.with_items(x[0]).with_queries(x[0]).scores(x[0]))
    for found, wanted in zip(x, data(metric=metric), strict=True):
        assert_array_equal(np.asarray(found), wanted.astype("f4"))
    kept = corrector.gallery.clone(), corrector.bank.clone(), corrector.auxiliary.clone()
    for y in x:
        y[:] = 0
    after = corrector.gallery, corrector.bank, corrector.auxiliary
    assert all(map(torch.equal, after, kept))
