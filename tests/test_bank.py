"""What a bank teaches: biases against plain NumPy, how far they are trusted, and the report."""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import (
    banked,
    plain_bank_biases,
    plain_ends,
    plain_gate,
    plain_map,
    plain_masses,
    plain_mutual_share,
    plain_ncl,
    plain_plane,
    plain_reliability,
    plain_spread,
    plain_weights,
    plain_within,
    unit,
)

from emcl_plugin import EMCL, NCL, BankReport, rescore
from emcl_plugin.bank import BANK, GENTLE, fit_corrector, leak
from emcl_plugin.errors import InputTypeError, InputValueError, RepeatedItemsWarning
from emcl_plugin.likeness import FEWEST, QUANTILES
from emcl_plugin.prior import GENTLE_RHO, GENTLE_TEMPERATURE_STD

MAP = EMCL(strength=-0.75)
PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [("f8", 1e-9), ("f4", 2e-4)])
seeds = st.integers(0, 10_000)


@functools.lru_cache
def data(seed=0, repeats="near", metric="cosine"):
    """A gallery of 70, a bank of 90 queries; some come again, and some "near" themselves."""
    x = banked(seed, n_gallery=70, n_bank=90, dimension=20)
    if repeats:
        rng = np.random.default_rng(seed)
        noise = 0.01 * rng.standard_normal((20, 20))
        near = unit(x.bank[:20] + noise) if repeats == "near" else x.bank[:20]
        bank = np.concatenate([x.bank, x.bank[10:25], x.bank[15:20], near])
        x = x._replace(bank=bank[rng.permutation(len(bank))])
    if metric == "dot":
        rng = np.random.default_rng(seed + 1)
        x = type(x)(*(y * rng.uniform(1, 1.5, (len(y), 1)) for y in x))
    return x


def fit(x, *, dual=False, dtype="f8", **settings):
    """Corrector and report of a bank and its gallery, with the gallery bank where ``dual``."""
    settings = {"emcl": None, **settings}
    if dual:
        settings["gallery_bank"] = x.gallery_bank.astype(dtype)
    return fit_corrector(x.bank.astype(dtype), x.gallery.astype(dtype), **settings)


def spread(x):
    """Of an array or a tensor."""
    return float(np.asarray(x, float).std())


def plain_scores(x, corrector=None, *, dual=False, metric="cosine"):
    """Bank queries x gallery (and gallery bank), after the corrector's EMCL."""
    columns = np.concatenate([x.gallery, x.gallery_bank]) if dual else x.gallery
    sides = x.bank, columns
    if metric == "cosine":
        sides = [unit(side) for side in sides]
    if corrector is not None:
        emcl = corrector.basis.double().numpy(), corrector.change.double().numpy()
        sides = [plain_map(side, *emcl, renormalize=corrector.renormalize) for side in sides]
    return sides[0] @ sides[1].T


def plain_bank_weights(x, *, dual=False, metric="cosine"):
    """As how many queries each of the bank counts."""
    vectors = unit(x.bank) if metric == "cosine" else x.bank
    return plain_weights(vectors, plain_scores(x, dual=dual, metric=metric).argmax(1))


def test_the_data_have_copies_and_hubs():
    """Otherwise the comparisons would show little."""
    x = data()
    w = plain_bank_weights(x)
    assert (w > 0.999).sum() > 30
    assert (w < 0.34).sum() > 5
    assert ((w > 0.5) & (w < 0.7)).sum() > 5
    corrector, report = fit(x)
    assert report.guard.strength > 0.5
    assert spread(corrector.bias) > 0.1 * report.score_std


# --- the biases --------------------------------------------------------------------------


@PRECISIONS
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("emcl", [None, MAP])
def test_biases_are_those_of_the_plain_loop(emcl, dual, metric, dtype, tolerance):
    """NCL at 0.4 standard deviations with rho 0.8, near-equal queries once, and half a round.

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
        NCL(temperature_std=0.3, rho=0.5, tolerance=1e-6, rounds=5000),
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
    exact = NCL(temperature_std=0.4, tolerance=1e-8, rounds=20_000)
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


# --- how far they are trusted ------------------------------------------------------------


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("emcl", [None, MAP])
def test_strength_is_the_guard_s_times_reliability_times_kinship(emcl, dual):
    """Each by its formula in NumPy, to 1e-9; the biases are weakened by it."""
    guards = []
    few = (banked(seed, 40, 60, 20) for seed in (0, 1, 2))
    for x in (data(1, "copies"), data(2, "copies"), *few):
        corrector, report = fit(x, dual=dual, emcl=emcl)
        guards.append(report.guard.strength)
        if not report.guard.applied:
            continue
        n = len(x.gallery)
        w = plain_bank_weights(x, dual=dual)
        S, raw = plain_scores(x, corrector, dual=dual), plain_scores(x, dual=dual)
        g, _, tau = plain_bank_biases(S, w, n)
        reliability = plain_reliability(S, w, n, tau, 0.8, by=raw)
        assert 0.3 < reliability < 1
        assert_allclose(report.reliability, reliability, rtol=0, atol=1e-9)
        kinship = 1.0
        if dual:
            ends = plain_ends(x.gallery_bank, raw[:, n:].argmax(0), QUANTILES, FEWEST)
            plane = plain_plane(x.gallery)
            within = plain_within(x.gallery_bank, plane)
            kinship = plain_gate(x.gallery_bank, ends, x.gallery, plane, within).mean()
            assert 0.8 < kinship <= 1
            assert_allclose(report.kinship, kinship, rtol=0, atol=1e-9)
        else:
            assert report.kinship is None
        strength = report.guard.strength * reliability * kinship
        assert_allclose([report.strength, corrector.strength], strength, rtol=1e-8)
        assert_allclose(corrector.bias, strength * g, rtol=0, atol=1e-9)
    assert guards[:2] == [1, 1]
    if (emcl, dual) != (None, True):
        assert any(0 < guard < 1 for guard in guards)


@pytest.mark.parametrize("dual", [False, True])
def test_the_gate_is_that_of_the_bank_grouped_by_best_match(dual):
    x = data()
    corrector, _ = fit(x, dual=dual)
    best = plain_scores(x, dual=dual).argmax(1)
    ends = plain_ends(unit(x.bank), best, QUANTILES, FEWEST)
    assert_allclose([corrector.likeness.low, corrector.likeness.high], ends, rtol=1e-9)
    others = np.concatenate([x.queries, -x.queries, unit(1 + x.queries)])
    s = torch.cat(list(corrector.vectors(others)))[:, -1]
    plane = plain_plane(unit(x.gallery))
    within = plain_within(unit(x.bank), plane)
    wanted = plain_gate(unit(x.bank), ends, unit(others), plane, within)
    assert_allclose(s, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dual", [False, True])
def test_without_the_guard_everything_is_let_through(dual):
    """All of the biases, to queries of any kind, whatever the gallery's."""
    x = data()
    junk = x._replace(gallery_bank=np.random.default_rng(0).standard_normal((90, 20)))
    corrector, report = fit(junk, dual=dual, guard=False)
    assert (report.reliability, report.kinship, report.strength) == (1, None, 1)
    assert not report.guard.enabled
    assert (torch.cat(list(corrector.vectors(-x.queries)))[:, -1] == 1).all()


def reliability(x, **settings):
    return fit(x, **settings)[1].reliability


def test_a_large_bank_is_reliable_and_ten_queries_are_not():
    """Means of eight draws: 0.98 of 600, less of fewer, under 0.8 of ten."""
    found = [
        np.mean([reliability(banked(seed, 150, n)) for seed in range(8)]) for n in (10, 40, 600)
    ]
    assert found[0] < 0.8
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.97


def test_noise_is_not_reliable():
    """Where neither queries nor gallery have any hubs: next to nothing is left, on average."""
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        bank, gallery = rng.standard_normal((200, 64)), rng.standard_normal((150, 64))
        corrector, report = fit_corrector(bank, gallery, emcl=None)
        assert 0 <= report.reliability <= 1
        found.append(report.reliability)
        assert corrector.strength <= report.reliability
    assert np.mean(found) < 0.15
    assert 0 in found


@pytest.mark.parametrize("times", [2, 5])
def test_copies_do_not_make_a_bank_more_reliable(times):
    """They are in one half together: R of thirty queries is that of each given k times."""
    for seed in range(4):
        x = banked(seed, 120, 30)
        again = x._replace(bank=np.repeat(x.bank, times, axis=0))
        once, more = fit(x)[1], fit(again)[1]
        assert once.guard.applied
        assert_allclose(more.reliability, once.reliability, rtol=0, atol=1e-9)
        assert_allclose(more.strength, once.strength, rtol=1e-9)


def test_nor_do_near_copies():
    """To a twentieth, on average: thirty different queries, each written in five ways."""
    found = []
    for seed in range(16):
        x = banked(seed, 120, 30)
        bank = np.repeat(x.bank, 5, axis=0)
        noise = np.random.default_rng(seed).standard_normal(bank.shape)
        reports = fit(x)[1], fit(x._replace(bank=unit(bank + 0.002 * noise)))[1]
        if all(report.guard.applied for report in reports):
            found.append([report.reliability for report in reports])
    assert len(found) > 4
    assert abs(np.diff(found).mean()) < 0.05


def test_a_bank_with_no_two_halves_teaches_nothing():
    """Of three queries one half has one, also where the guard saw reason to go on."""
    x = banked(41, 40, 3, 8, noise=0.3, cone=2.5)
    corrector, report = fit(x)
    assert report.guard.applied
    assert report.reliability == 0
    assert report.strength == corrector.strength == 0
    assert not corrector.bias.any()


def test_a_gallery_bank_of_the_gallery_s_kind_is_kin_and_one_of_another_space_is_not():
    for seed in range(3):
        x = banked(seed, 150, 200)
        assert fit(x, dual=True)[1].kinship > 0.9
        other = x._replace(gallery_bank=banked(seed + 50, 150, 200).gallery_bank)
        corrector, report = fit(other, dual=True)
        assert report.kinship < 0.02
        assert spread(corrector.bias) < 0.02 * spread(fit(x)[0].bias)


def test_nor_is_one_whose_items_all_have_the_same_best_query():
    """As items of a space far away may have."""
    x = banked(2, 150, 200)
    away = 1.5 * np.random.default_rng(2).standard_normal(24)
    other = x._replace(gallery_bank=unit(away + 0.5 * x.gallery_bank))
    assert len(set((x.bank @ other.gallery_bank.T).argmax(0))) == 1
    assert fit(other, dual=True)[1].kinship < 0.02


def test_a_small_gallery_bank_is_not_judged():
    """Fewer than fifty have no percentiles."""
    x = banked(0, 100, 200)
    small = x._replace(gallery_bank=-x.gallery_bank[:30])
    assert fit(small, dual=True)[1].kinship == 1


@pytest.mark.parametrize("emcl", ["auto", MAP])
@pytest.mark.parametrize("what", ["one query", "one item", "one query 500 times", "equal items"])
def test_where_there_is_nothing_to_learn_scores_are_the_input_s(what, emcl):
    """Also where EMCL's strength is given: the guard holds all of it back."""
    x = banked(0, 60, 80)
    bank, gallery = {
        "one query": (x.bank[:1], x.gallery),
        "one item": (x.bank, x.gallery[:1]),
        "one query 500 times": (np.repeat(x.bank[:1], 500, axis=0), x.gallery),
        "equal items": (x.bank, np.repeat(x.gallery[:1], 60, axis=0)),
    }[what]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RepeatedItemsWarning)
        corrector, report = fit_corrector(bank, gallery, emcl=emcl)
    found = torch.cat(list(corrector.scores(x.queries)))
    assert_allclose(found, x.queries @ gallery.T, rtol=0, atol=1e-12)
    assert report.strength == 0
    assert not report.guard.applied
    assert (report.temperature, report.rho, report.rounds, report.evenness) == (0, 0, 0, None)


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
    assert (report.strength, report.temperature, report.rounds) == (0, 0, 0)
    assert len(corrector.likeness.known) == 0


def test_without_emcl_vectors_are_as_they_came():
    x = data()
    corrector, report = fit(x, emcl=None)
    assert report.emcl is None
    assert_allclose(torch.cat(list(corrector.vectors(x.queries)))[:, :-1], x.queries, atol=1e-15)


def test_without_both_scores_are_the_cosine():
    x = data()
    corrector, report = fit(x, emcl=None, ncl=None)
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


@given(seeds, st.integers(2, 6))
def test_a_bank_given_k_times_teaches_the_same(seed, times):
    """Biases and their strength to 1e-8; the gate's ends to a tenth of the way between."""
    x = banked(seed % 5, 50, 70, 16)
    order = np.random.default_rng(seed).permutation(70 * times)
    again = x._replace(bank=np.repeat(x.bank, times, axis=0)[order])
    wanted, report = fit(x, emcl=MAP)
    found, other = fit(again, emcl=MAP)
    assert_allclose(found.bias, wanted.bias, rtol=0, atol=1e-8)
    assert_allclose(other.queries, 70, rtol=1e-9)
    assert other.bank == 70 * times
    assert_allclose(other.guard.z, report.guard.z, rtol=1e-9)
    gates = found.likeness, wanted.likeness
    width = gates[1].high - gates[1].low
    assert_allclose(*(gate.high for gate in gates), rtol=0, atol=0.5 * width)


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
    assert_allclose(found.likeness.high, wanted.likeness.high, rtol=1e-3)
    assert_allclose(found.drift(), wanted.drift(), rtol=1e-2, atol=1e-6)


@given(seeds)
def test_lengths_do_not_matter_to_the_cosine(seed):
    """Each vector has its own."""
    rng = np.random.default_rng(seed)
    x = data(seed % 3)
    scaled = type(x)(*(y * 10 ** rng.uniform(-20, 20, (len(y), 1)) for y in x))
    wanted, found = (fit(y, emcl="auto", dual=True)[0] for y in (x, scaled))
    assert_allclose(found.bias, wanted.bias, rtol=0, atol=1e-9)
    assert_allclose(found.gallery, wanted.gallery, rtol=0, atol=1e-12)


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


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("dual", [False, True])
def test_tensors_give_what_arrays_give(dtype, dual):
    """Bit for bit, also of mapped files and views."""
    x = type(data())(*(y.astype(dtype) for y in data()))
    wanted = fit(x, dual=dual, dtype=dtype)[0]
    bank, gallery, more = (torch.from_numpy(y) for y in (x.bank, x.gallery, x.gallery_bank))
    for sides in ((bank, gallery, more), (x.bank, x.gallery[::-1][::-1], x.gallery_bank)):
        extra = {"gallery_bank": sides[2]} if dual else {}
        found = fit_corrector(sides[0], sides[1], emcl=None, **extra)[0]
        assert torch.equal(found.bias, wanted.bias)
        assert torch.equal(found.gallery, wanted.gallery)
        assert found.likeness.low == wanted.likeness.low
    assert wanted.bias.dtype == (torch.float64 if dtype == "f8" else torch.float32)


def test_so_it_is_where_the_gallery_bank_is_of_another_dtype():
    x = data()
    sides = x.bank.astype("f4"), x.gallery.astype("f2"), x.gallery_bank.astype("f4")
    found = [
        fit_corrector(bank, gallery, gallery_bank=more, emcl=None)[0].bias
        for bank, gallery, more in (sides, [torch.from_numpy(y) for y in sides])
    ]
    assert torch.equal(*found)


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
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_input_is_left_alone(library, metric, dtype):
    x = [y.astype(dtype) for y in data(metric=metric)]
    if library == "torch":
        x = [torch.from_numpy(y) for y in x]
    corrector, _ = fit_corrector(x[2], x[1], gallery_bank=x[3], metric=metric)
    list(corrector.with_items(x[0]).with_queries(x[0]).scores(x[0]))
    for found, wanted in zip(x, data(metric=metric), strict=True):
        assert_array_equal(np.asarray(found), wanted.astype(dtype))


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("memory", [None, 1 << 20])
def test_what_becomes_of_the_input_later_does_not_matter(library, metric, memory):
    """The corrector has its own."""
    x = [y.astype("f4") for y in data(metric=metric)]
    if library == "torch":
        x = [torch.from_numpy(y) for y in x]
    corrector, _ = fit_corrector(x[2], x[1], metric=metric, memory=memory)
    kept = corrector.gallery.clone(), corrector.bank.clone()
    for y in x:
        y[:] = 0
    assert torch.equal(corrector.gallery, kept[0])
    assert torch.equal(corrector.bank, kept[1])


# --- the report --------------------------------------------------------------------------

CASES = {
    "default": {"emcl": "auto"},
    "dual": {"dual": True},
    "no guard": {"guard": False},
    "off": {"prior": "off", "emcl": "auto"},
    "even": {"prior": "even", "x": data(repeats=None)},
    "nothing": {"ncl": None},
}


@pytest.mark.parametrize("case", CASES)
def test_the_report_goes_into_json(case):
    """Without NaN or infinity, and says "bank"; the corrector keeps it."""
    settings = {"x": data(), **CASES[case]}
    corrector, report = fit(**settings)
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert written["protocol"] == report.protocol == "bank"
    assert written["guard"]["reason"] == report.guard.reason
    assert set(written["hubs"]) == {"before", "after"}
    assert any("2212.11790" in line for line in written["citations"])
    assert json.loads(json.dumps(corrector.facts)) == written
    fields = {field.name for field in dataclasses.fields(BankReport)}
    assert set(written) == fields - {"hubs_before", "hubs_after"} | {"hubs"}


def test_the_report_of_a_bank_that_teaches_nothing_goes_into_json():
    for bank in (data().bank[:1], data().bank[:2], np.repeat(data().bank[:1], 100, axis=0)):
        report = fit_corrector(bank, data().gallery)[1]
        assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["strength"] == 0


@pytest.mark.parametrize("dual", [False, True])
def test_the_numbers_of_the_report_are_those_of_the_data(dual):
    x = data()
    corrector, report = fit(x, dual=dual)
    assert (report.bank, report.gallery, report.gallery_bank) == (130, 70, 90 * dual)
    S = plain_scores(x)
    assert_allclose(
        report.score_std,
        plain_spread(plain_scores(x, dual=dual), plain_bank_weights(x, dual=dual)),
    )
    before = np.bincount(S.argmax(1), minlength=70)
    assert report.hubs_before.largest == before.max()
    assert report.hubs_before.largest_index == before.argmax()
    assert_allclose(report.hubs_before.never, (before == 0).mean())
    corrected = plain_scores(x, corrector) + corrector.bias.numpy()
    after = np.bincount(corrected.argmax(1), minlength=70)
    assert report.hubs_after.largest == after.max() < before.max()
    assert_allclose(report.hubs_after.never, (after == 0).mean())
    assert_allclose(report.guard.before, plain_mutual_share(plain_scores(x, dual=dual)))
    assert report.converged
    assert report.error <= 0.1
    assert report.rounds >= 1


def test_evenness_is_that_of_the_gentle_run_s_masses():
    """sum_j min(m_j, b_j) / sum_j b_j, with m of the texts' full marginals; to 1e-6."""
    x = data()
    S, w = plain_scores(x), plain_bank_weights(x)
    std = plain_spread(S, w)
    gentle = GENTLE_TEMPERATURE_STD * std
    g = plain_ncl(S, gentle, rho=GENTLE_RHO, w=w)[1] * gentle
    tau = BANK.temperature_std * std
    m, b = plain_masses(S, tau, g / tau, w), w.sum() / 70
    assert_allclose(fit(x)[1].evenness, np.minimum(m, b).sum() / w.sum(), rtol=1e-6)


@pytest.mark.parametrize("n", [3, 10, 40, 200])
@pytest.mark.parametrize("dual", [False, True])
def test_coverage_is_the_share_that_is_among_some_query_s_ten_best(n, dual):
    """Of the gallery, whatever the gallery bank holds."""
    x = banked(1, 150, n)
    report = fit(x, dual=dual)[1]
    among = set()
    for row in x.bank @ x.gallery.T:
        among |= set(np.argsort(-row)[:10])
    assert_allclose(report.coverage, len(among) / 150)


def test_a_gallery_of_fewer_than_ten_is_covered():
    x = banked(1, 7, 40)
    assert fit(x)[1].coverage == 1


def test_progress_is_told():
    stages = []
    fit(data(), progress=lambda *step: stages.append(step))
    assert {stage for stage, _, _ in stages} >= {"agreement", "sinkhorn"}
    assert all(0 < done <= total for _, done, total in stages)


def test_names_are_kept():
    names = tuple(f"v{i}" for i in range(70))
    assert fit(data(), names=names)[0].names == names
    assert fit(data())[0].names == ()


def test_a_leak_is_told_in_the_right_number():
    assert leak(1, 2, "queries").startswith("1 of the 2 queries is in the bank")
    assert leak(2, 2, "texts").startswith("2 of the 2 texts are in the bank")


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("side", ["text_marginal", "video_marginal"])
def test_marginals_are_refused(side):
    with pytest.raises(InputValueError, match="a bank's biases take no marginals"):
        fit(data(), ncl=NCL(**{side: np.ones(70)}))


@pytest.mark.parametrize("count", [1, 69, 71])
def test_there_is_one_name_per_item(count):
    with pytest.raises(InputValueError, match=f"(?s)one name per gallery item.*{count} for 70"):
        fit(data(), names=("a",) * count)


def test_names_are_text():
    with pytest.raises(InputTypeError, match="names are not all text"):
        fit(data(), names=tuple(range(70)))


def test_a_gallery_bank_has_the_gallery_s_dimension():
    x = data()
    with pytest.raises(InputValueError, match=r"(?s)gallery bank has another dimension.*\(90, 19"):
        fit(x._replace(gallery_bank=x.gallery_bank[:, 1:]), dual=True)
    with pytest.raises(InputValueError, match=r"(?s)different dimensions.*130, 19.*70, 20"):
        fit(x._replace(bank=x.bank[:, 1:]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "l2"}, "metric is not known"),
        ({"memory": 1000}, "memory budget is too small"),
        ({"emcl": "nothing"}, "no EMCL preset"),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises(InputValueError, match=message):
        fit(data(), **settings)


@pytest.mark.parametrize("prior", ["bank", "nonsense", None])
def test_a_prior_that_is_none_is_refused(prior):
    with pytest.raises(InputValueError, match="this prior is not known"):
        fit(data(), prior=prior)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_a_vector_that_is_none_is_refused_by_its_index(which, bad):
    x = [data().bank.copy(), data().gallery.copy(), data().gallery_bank.copy()]
    x[which][5] = bad
    with pytest.raises(InputValueError, match=rf"\[{75 if which == 2 else 5}"):
        fit_corrector(x[0], x[1], gallery_bank=x[2])


def test_vectors_are_matrices_of_floats():
    x = data()
    for wrong in (x.bank.astype(int), x.bank.tolist()):
        with pytest.raises(InputTypeError):
            fit_corrector(wrong, x.gallery)
        with pytest.raises(InputTypeError):
            fit_corrector(x.bank, wrong)
        with pytest.raises(InputTypeError):
            fit_corrector(x.bank, x.gallery, gallery_bank=wrong)
    for wrong in (x.bank[0], x.bank[:0]):
        with pytest.raises(InputValueError):
            fit_corrector(wrong, x.gallery)
