"""How far the even prior is trusted: the rule against plain NumPy, mode by mode.

The weights that count near-duplicate texts once are in test_repeats.py, the evidence that the guard
wants in test_guard.py, data whose truth is known in test_prior_truth.py.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import (
    plain_agreement,
    plain_companions,
    plain_masses,
    plain_ncl,
    plain_ramp,
    plain_sinkhorn,
    plain_weights,
    unit,
)
from prior_data import EXACT, HARD, SOLVED, centred, context, found, random_weights, small

from emcl_plugin import NCL, Reranker, rerank, rescore
from emcl_plugin.errors import ConvergenceWarning, InputValueError
from emcl_plugin.evidence.guard import EVIDENCE, ramp
from emcl_plugin.evidence.prior import (
    COMPANIONS,
    EVENNESS,
    FEW,
    GENTLE_RHO,
    GENTLE_TEMPERATURE_STD,
    HUBS,
    MODES,
    SEVERAL,
    SHORTFALL,
    earned_biases,
)
from emcl_plugin.ncl import Problem, fit_biases
from emcl_plugin.scores import Dense

F32, F64 = torch.float32, torch.float64
SOLVERS = ("stored", "blocks")
LARGE = 1 << 30


# --- numbers without a jump --------------------------------------------------------------


@pytest.mark.parametrize("ends", [EVIDENCE, HUBS, EVENNESS])
def test_a_ramp_is_flat_then_straight_then_flat(ends):
    """And so nowhere steeper than between its ends."""
    low, high = ends
    x = np.linspace(low - 1, high + 1, 2001)
    y = np.array([ramp(float(at), ends) for at in x])
    assert_allclose(y, [plain_ramp(at, *ends) for at in x], rtol=0, atol=1e-12)
    assert (ramp(low, ends), ramp(high, ends)) == (0, 1)
    assert np.abs(np.diff(y) / np.diff(x)).max() <= (1 + 1e-9) / (high - low)
    assert (np.diff(y) >= 0).all()


# --- the marginal ------------------------------------------------------------------------


def earned(scores, gains, mode="auto", w=None, config=EXACT):
    probes, source, rest = context(scores, w, config)
    seen = found(source, probes, gains)
    return (*earned_biases(source, config, probes, seen, mode, *rest), probes)


def test_the_two_runs_are_those_of_the_plain_loop():
    """At their temperature and relaxation, the second from the first, to 1e-9."""
    for seed in range(3):
        scores = small(seed).scores
        w = random_weights(len(scores), seed)
        probes, _, _ = context(scores, w)
        tau, rho = GENTLE_TEMPERATURE_STD * scores.std(), GENTLE_RHO
        f, g = plain_ncl(scores, tau, rho=rho, w=w)
        assert_allclose(probes.gentle.video, tau * g, rtol=0, atol=1e-9)
        assert_allclose(probes.gentle.text, tau * f, rtol=0, atol=1e-9)
        own = scores.argmax(1)
        f, g = plain_ncl(scores, tau, rho=rho, w=w, own=own, start=g)
        assert_allclose(probes.leave_best_out.video, tau * g, rtol=0, atol=1e-7)
        assert_allclose(probes.leave_best_out.text, tau * f, rtol=0, atol=1e-7)


def test_masses_are_those_of_the_plan():
    """Of given biases: what every video gets once every text has its marginal."""
    scores = small(0).scores
    w = random_weights(len(scores))
    g = np.random.default_rng(1).standard_normal(scores.shape[1])
    for solver in SOLVERS:
        source = Dense(scores, dtype=F64)
        problem = Problem(source, NCL(solver=solver), weights=torch.tensor(w), std=0.2)
        found = problem.log_masses(torch.tensor(g * problem.tau)).exp()
        assert_allclose(found, plain_masses(scores, problem.tau, g, w), rtol=1e-10)
        assert_allclose(found.sum(), w.sum(), rtol=1e-10)


@pytest.mark.parametrize("q", [0.1, np.dot(HUBS, (0.6, 0.4)), np.dot(HUBS, (0.2, 0.8)), 0.9])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ends", [EVENNESS, (0.3, 0.9)])
def test_the_marginal_is_mixed_from_three(monkeypatch, q, weighted, ends):
    """(b), then NCL for it: q decides between hubs and popular videos, e on the even share."""
    monkeypatch.setattr("emcl_plugin.evidence.prior.EVENNESS", ends)
    config = NCL(iterations=20, tolerance=0.0)
    for seed in range(3):
        scores = small(seed).scores
        w = random_weights(len(scores), seed) if weighted else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            biases, prior, probes = earned(scores, (100.0, 100 * q), w=w, config=config)
        tau = 0.15 * scores.std()
        total = len(scores) if w is None else w.sum()
        b = np.full(scores.shape[1], total / scores.shape[1])
        gentle, without = (x.video.numpy() / tau for x in (probes.gentle, probes.leave_best_out))
        m, c = (plain_masses(scores, tau, g, w) for g in (gentle, without))
        e = np.minimum(m, b).sum() / b.sum()
        counts = np.ones(len(scores)) if w is None else w
        after = scores + probes.gentle.text.numpy()[:, None] + probes.gentle.video.numpy()
        k = plain_companions(after, counts) ** 2 / plain_companions(scores, counts)
        a, r = plain_agreement(after, counts), total / len(b)
        h = plain_ramp(q, *HUBS) * (1 - plain_ramp(k, *COMPANIONS)) * plain_ramp(r, *FEW)
        h *= 1 - plain_ramp(r, *SEVERAL)
        u = (plain_ramp(e, *ends) + plain_ramp(e - 0.35 - 0.65 * a, *SHORTFALL)) / 2
        assert_allclose([prior.found_cautiously, prior.hubs], [q, h], rtol=1e-9)
        assert_allclose([prior.companions, prior.paired], [k, a], rtol=1e-9)
        assert_allclose([prior.evenness, prior.uniform], [e, u], rtol=1e-9)
        assert_allclose([prior.even, prior.queries], [h * u, total], rtol=1e-9)
        hubs = u * b + (1 - u) * m
        f, hub_g = plain_sinkhorn(scores, tau, 20, b=hubs, w=w, start=gentle)
        shift, g = hub_g.mean(), hub_g
        if h < 1:
            start = h * gentle + (1 - h) * without
            _, g = plain_sinkhorn(scores, tau, 20, b=h * hubs + (1 - h) * c, w=w, start=start)
        assert_allclose(biases.video, tau * centred(g), rtol=0, atol=1e-9 * scores.std())
        text = prior.text_rho * tau * (f + shift)
        assert_allclose(biases.text, text, rtol=0, atol=1e-9 * scores.std())
        assert_allclose(biases.temperature, tau, rtol=1e-12)


@pytest.mark.parametrize(("copies", "noise"), [(1, 0.1), (3, 0.1), (12, 0.1), (3, 2.0)])
def test_the_texts_biases_are_relaxed_where_videos_have_several_and_find_one(copies, noise):
    """(r): not with one text per video; less where hubs keep the videos from their texts."""
    rng = np.random.default_rng(0)
    video = rng.standard_normal((40, 16))
    text = np.repeat(video, copies, axis=0) + noise * rng.standard_normal((40 * copies, 16))
    scores = unit(text) @ unit(video).T
    _, prior, _ = earned(scores, (10.0, 9.0), config=NCL())
    share = plain_agreement(scores, np.ones(len(scores)))
    assert (share > 0.95) == (noise < 1)
    wanted = 1 - share * (1 - min(1, copies**-0.5)) / 2
    assert_allclose(prior.text_rho, wanted, rtol=1e-12)


def test_an_even_gallery_of_hubs_is_ncl_as_published(monkeypatch):
    """h = u = 1: the biases of plain NCL, to 1e-8 of a standard deviation."""
    for name in ("EVENNESS", "SHORTFALL"):
        monkeypatch.setattr(f"emcl_plugin.evidence.prior.{name}", (-3.0, -2.0))
    scores = small(0).scores
    biases, prior, _ = earned(scores, (10.0, 10.0))
    assert (prior.hubs, prior.uniform, prior.even) == (1, 1, 1)
    wanted = fit_biases(Dense(scores, dtype=F64), EXACT)
    assert_allclose(biases.video, wanted.video, rtol=0, atol=1e-8 * scores.std())
    assert_allclose(biases.text, wanted.text, rtol=0, atol=1e-8 * scores.std())


@pytest.mark.parametrize(
    ("gains", "which"), [((10.0, 9.0), "gentle"), ((10.0, 1.0), "leave_best_out")]
)
def test_an_uneven_gallery_gives_a_run_back(monkeypatch, gains, which):
    """u = 0: the gentle biases where h = 1, the leave-best-out ones where h = 0."""
    for name in ("EVENNESS", "SHORTFALL"):
        monkeypatch.setattr(f"emcl_plugin.evidence.prior.{name}", (2.0, 3.0))
    for seed in range(3):
        scores = small(seed).scores
        biases, prior, probes = earned(scores, gains)
        assert (prior.hubs, prior.uniform) == (float(which == "gentle"), 0)
        wanted = getattr(probes, which).video
        assert float(wanted.std()) > 0.05 * scores.std()
        assert_allclose(biases.video, wanted, rtol=0, atol=1e-8 * scores.std())


@pytest.mark.parametrize("end", HUBS)
def test_the_biases_do_not_jump_with_the_hubs(end):
    """A little more or less of q moves them a little, at the ends of the ramp too."""
    scores = small(1).scores
    near = [(1e4, 1e4 * (end + step)) for step in (-1e-7, 0, 1e-7)]
    videos = [earned(scores, gains, config=SOLVED)[0].video for gains in near]
    for video in videos:
        assert_allclose(video, videos[1], rtol=0, atol=1e-3 * scores.std())


@pytest.mark.parametrize("place", [0, 1])
def test_the_biases_do_not_jump_with_the_evenness(monkeypatch, place):
    """At the ends of its ramp."""
    scores = small(1).scores
    e = earned(scores, (10.0, 10.0), config=NCL())[1].evenness
    videos = []
    for step in (-1e-7, 0, 1e-7):
        ends = (e + step, e + 0.3) if place == 0 else (e - 0.3, e + step)
        monkeypatch.setattr("emcl_plugin.evidence.prior.EVENNESS", ends)
        videos.append(earned(scores, (10.0, 10.0), config=SOLVED)[0].video)
    for video in videos:
        assert_allclose(video, videos[1], rtol=0, atol=1e-3 * scores.std())


def test_the_biases_do_not_jump_where_the_tolerance_stops_them():
    """Nor do they with the default settings, where h becomes 1, by a twentieth of the spread."""
    for seed in range(5):
        scores = small(seed).scores
        below, above_ = (
            earned(scores, (1e6, 1e6 * q), config=NCL())[0] for q in (HUBS[1] - 1e-7, HUBS[1])
        )
        assert_allclose(below.video, above_.video, rtol=0, atol=0.05 * scores.std())


@pytest.mark.parametrize("gains", [(0.0, 0.0), (0.0, 5.0), (3.0, 5.0)])
def test_a_leave_best_out_run_that_finds_as_much_finds_all_of_it(gains):
    """q is at most 1, also where the gentle run finds nothing."""
    _, prior, _ = earned(small(0).scores, gains, config=NCL())
    assert (prior.found_cautiously, prior.hubs) == (1, 1)


# --- modes -------------------------------------------------------------------------------


def test_even_without_the_guard_is_plain_ncl():
    """NCL as published, of scores and of features' cosines; each copy of a text counts."""
    q = small(0)
    scores = np.concatenate([q.scores, q.scores[:9]])
    result = rescore(scores, prior="even", guard=False)
    wanted = fit_biases(Dense(scores, dtype=F64), NCL()).apply(Dense(scores, dtype=F64)).dense()
    assert_allclose(result.scores, wanted, rtol=0, atol=1e-12)
    assert (result.prior.mode, result.prior.queries, result.prior.even) == ("even", len(scores), 1)
    result = rescore(None, (q.text, q.video), emcl=None, prior="even", guard=False)
    cosine = Dense(unit(q.text) @ unit(q.video).T, dtype=F64)
    assert_allclose(result.scores, fit_biases(cosine).apply(cosine).dense(), rtol=0, atol=1e-9)


def test_gentle_is_ncl_at_a_higher_temperature_and_relaxed():
    """With near-duplicate texts counted once; what it assumes has no even share."""
    scores = small(0).scores
    w = plain_weights(scores, scores.argmax(1))
    result = rescore(scores, prior="gentle", guard=False)
    std = np.sqrt(np.average((scores - np.average(scores.mean(1), weights=w)) ** 2, axis=0,
                             weights=w).mean())  # fmt: skip
    config = NCL(temperature_std=GENTLE_TEMPERATURE_STD, rho=GENTLE_RHO)
    wanted = fit_biases(Dense(scores, dtype=F64), config, weights=torch.tensor(w), std=float(std))
    assert_allclose(result.scores, wanted.apply(Dense(scores, dtype=F64)).dense(), atol=1e-9)
    assert (result.prior.mode, result.prior.even) == ("gentle", 0)


@pytest.mark.parametrize("guard", [True, False])
def test_off_is_no_ncl(guard):
    """Bit for bit, from features, where EMCL is left, and from scores, where nothing is."""
    q = small(0)
    for sim, feats in ((None, (q.text, q.video)), (q.scores, None)):
        off = rescore(sim, feats, prior="off", guard=guard)
        assert_array_equal(off.scores, rescore(sim, feats, ncl=None, guard=guard).scores)
        assert (off.biases, off.prior) == (None, None)


def test_a_given_marginal_is_used():
    """Whoever knows how often each video is asked for says so; "auto" then asks no further."""
    q = small(0)
    asked = np.bincount(q.owner, minlength=80) + 0.1
    result = rescore(q.scores, ncl=NCL(video_marginal=asked), guard=False)
    assert (result.prior.mode, result.prior.reason.count("given")) == ("given", 1)
    w = plain_weights(q.scores, q.scores.argmax(1))
    tau = result.biases.temperature
    plan = np.exp(result.scores / tau)
    assert_allclose(w @ plan, asked * w.sum() / asked.sum(), rtol=0.1)
    right = (result.scores.argmax(1) == q.owner).mean()
    assert right >= (rescore(q.scores).scores.argmax(1) == q.owner).mean()
    gentle = rescore(q.scores, ncl=NCL(video_marginal=asked), prior="gentle", guard=False)
    assert gentle.prior.mode == "gentle"


@pytest.mark.parametrize("run", [rerank, rescore])
def test_an_unknown_prior_is_refused(run):
    """With the known ones."""
    scores = small(0).scores
    with pytest.raises(InputValueError, match="prior is not known") as caught:
        run(scores, prior="uneven")
    assert "'uneven'" in caught.value.received
    assert all(mode in caught.value.remedy for mode in MODES)
    with pytest.raises(InputValueError, match="prior is not known"):
        Reranker(prior="uneven").fit_transform(*small(0)[:2])


@pytest.mark.parametrize("prior", MODES)
def test_the_estimator_has_a_prior(prior):
    q = small(0)
    model = Reranker(prior=prior)
    assert model.get_params()["prior"] == prior
    wanted = rerank(None, (q.text, q.video), prior=prior)
    assert_array_equal(model.fit_transform(q.text, q.video), wanted)


def test_biases_that_are_reported_are_those_that_were_added():
    """Scaled by the guard's strength, for every strength."""
    strengths = set()
    for seed in range(6):
        scores = small(seed, "spread", **HARD).scores
        result = rescore(scores)
        strengths.add(round(result.guard.strength, 3))
        if result.guard.applied:
            b = result.biases
            added = b.text.numpy()[:, None] + b.video.numpy()
            assert_allclose(result.scores, scores + added, rtol=0, atol=1e-12)
    assert any(0 < strength < 1 for strength in strengths)
