"""How far a bank's biases are trusted: reliability, in-domain score, the gate."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from banks import MAP, data, fit, plain_bank_weights, plain_scores, spread
from numpy.testing import assert_allclose
from oracles import (
    banked,
    plain_bank_biases,
    plain_ends,
    plain_gate,
    plain_plane,
    plain_reliability,
    plain_within,
    unit,
)

from emcl_plugin.bank import fit_corrector
from emcl_plugin.bank.ood_gate import FEWEST, QUANTILES
from emcl_plugin.errors import RepeatedItemsWarning


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
        in_domain = 1.0
        if dual:
            ends = plain_ends(x.gallery_bank, raw[:, n:].argmax(0), QUANTILES, FEWEST)
            plane = plain_plane(x.gallery)
            within = plain_within(x.gallery_bank, plane)
            in_domain = plain_gate(x.gallery_bank, ends, x.gallery, plane, within).mean()
            assert 0.8 < in_domain <= 1
            assert_allclose(report.in_domain, in_domain, rtol=0, atol=1e-9)
        else:
            assert report.in_domain is None
        strength = report.guard.strength * reliability * in_domain
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
    assert_allclose([corrector.ood_gate.low, corrector.ood_gate.high], ends, rtol=1e-9)
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
    assert (report.reliability, report.in_domain, report.strength) == (1, None, 1)
    assert not report.guard.enabled
    assert (torch.cat(list(corrector.vectors(-x.queries)))[:, -1] == 1).all()


@pytest.mark.slow
def test_a_large_bank_is_reliable_and_ten_queries_are_not():
    """Means of eight draws: 0.98 of 600, less of fewer, under 0.8 of ten."""
    few, more, many = (
        np.mean([fit(banked(seed, 150, n))[1].reliability for seed in range(8)])
        for n in (10, 40, 600)
    )
    assert few < 0.8
    assert few < more < many
    assert many > 0.97


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


@pytest.mark.slow
def test_near_copies_do_not_make_a_bank_more_reliable():
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


def test_a_gallery_bank_of_the_gallery_s_kind_is_in_domain_and_one_of_another_space_is_not():
    """Nor where all its items have one best query; fewer than fifty are not judged."""
    for seed in range(3):
        x = banked(seed, 150, 200)
        assert fit(x, dual=True)[1].in_domain > 0.9
        away = unit(1.5 * np.random.default_rng(2).standard_normal(24) + 0.5 * x.gallery_bank)
        assert seed != 2 or len(set((x.bank @ away.T).argmax(0))) == 1
        for other in (banked(seed + 50, 150, 200).gallery_bank, away):
            corrector, report = fit(x._replace(gallery_bank=other), dual=True)
            assert report.in_domain < 0.02
            assert spread(corrector.bias) < 0.02 * spread(fit(x)[0].bias)
        assert fit(x._replace(gallery_bank=-x.gallery_bank[:30]), dual=True)[1].in_domain == 1


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
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["strength"] == 0
    assert not report.guard.applied
    assert (report.temperature, report.rho, report.iterations, report.evenness) == (0, 0, 0, None)
