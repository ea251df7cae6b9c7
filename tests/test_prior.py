"""How far the even prior is trusted: the rule against plain NumPy, and data whose truth is known.

The weights that count near-equal texts once are in test_repeats.py, the evidence that the guard
wants in test_agreement.py.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import (
    plain_masses,
    plain_ncl,
    plain_prior,
    plain_ramp,
    plain_sinkhorn,
    plain_weights,
    queries,
    unit,
)

from emcl_plugin import NCL, Reranker, rerank, rescore
from emcl_plugin.agreement import EVIDENCE, Evidence, nearest, ramp
from emcl_plugin.errors import ConvergenceWarning, InputValueError
from emcl_plugin.ncl import Problem, fit_biases
from emcl_plugin.prior import (
    EVENNESS,
    GENTLE_RHO,
    GENTLE_TEMPERATURE_STD,
    HUBS,
    MODES,
    earned_biases,
    probe,
)
from emcl_plugin.similarity import Dense

F32, F64 = torch.float32, torch.float64
SOLVERS = ("stored", "blocks")
LARGE = 1 << 30
RULE = {
    "gentle": (GENTLE_TEMPERATURE_STD, GENTLE_RHO),
    "evidence": EVIDENCE,
    "hubs": HUBS,
    "evenness": EVENNESS,
}
EXACT = NCL(tolerance=1e-9, rounds=50_000)
seeds = st.integers(0, 10_000)


def centred(x, axis=None):
    return x - x.mean(axis, keepdims=True)


def above(x, y):
    """How often one of x is above one of y (the area under the ROC curve)."""
    return (x[:, None] > y).mean() + (x[:, None] == y).mean() / 2


def random_weights(n, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 1, n)


def small(seed, how="direction", **changes):
    """80 videos, of them 8 hubs and 8 popular ones, and half of the others asked for."""
    settings = {"n_video": 80, "hubs": 8, "popular": 8, "times": 5, "asked": 0.5, **changes}
    return queries(seed, how, **settings)


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


# --- NCL with weights --------------------------------------------------------------------


def fit_rounds(scores, rounds, *, weights=None, std=None, **settings):
    """Exactly so many rounds, float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit_biases(
            Dense(scores, dtype=F64),
            NCL(rounds=rounds, tolerance=0.0, **settings),
            weights=None if weights is None else torch.as_tensor(weights),
            std=std,
        )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rho", [1.0, 0.8])
@pytest.mark.parametrize("rounds", [1, 2, 17])
def test_weights_are_those_of_the_plain_loop(rounds, rho, solver):
    """Round by round, with own marginals, to 1e-9 of a standard deviation."""
    scores = small(0).scores
    rng = np.random.default_rng(0)
    w = random_weights(len(scores))
    a, b = (rng.uniform(0.2, 1.2, n) for n in scores.shape)
    marginals = {"text_marginal": a, "video_marginal": b}
    found = fit_rounds(scores, rounds, weights=w, rho=rho, solver=solver, std=0.2, **marginals)
    tau = 0.15 * 0.2
    f, g = plain_sinkhorn(scores, tau, rounds, rho, a, b, w=w)
    assert_allclose(found.video, tau * centred(g), rtol=0, atol=1e-9 * scores.std())
    assert_allclose(found.text, tau * (f + g.mean()), rtol=0, atol=1e-9 * scores.std())


@given(seeds, st.sampled_from(SOLVERS), st.sampled_from([1.0, 0.8]), st.integers(1, 20))
def test_a_text_that_comes_k_times_with_weight_one_over_k_counts_once(seed, solver, rho, rounds):
    """The biases are those without copies, of every row as well, to 1e-9."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((12, 15))
    which = rng.permutation(np.repeat(np.arange(12), rng.integers(1, 6, 12)))
    w = 1 / np.bincount(which)[which]
    settings = {"rho": rho, "solver": solver, "std": 1.0}
    alone = fit_rounds(scores, rounds, **settings)
    copied = fit_rounds(scores[which], rounds, weights=w, **settings)
    assert_allclose(copied.video, alone.video, rtol=0, atol=1e-9)
    assert_allclose(copied.text, alone.text[which], rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", [*SOLVERS, "pot"])
def test_every_solver_minds_weights(solver):
    """At convergence, to 1e-5 of a temperature, and the plan's columns have their masses."""
    scores = small(1).scores
    w = random_weights(len(scores))
    config = NCL(solver=solver, tolerance=1e-9, rounds=20_000)
    found = fit_biases(Dense(scores, dtype=F64), config, weights=torch.tensor(w), std=0.2)
    tau = found.temperature
    f, g = plain_ncl(scores, tau, 1e-10, w=w)
    assert_allclose(found.video, tau * g, rtol=0, atol=1e-5 * tau)
    assert_allclose(found.text, tau * f, rtol=0, atol=1e-5 * tau)
    plan = np.exp((scores + found.text.numpy()[:, None] + found.video.numpy()) / tau)
    assert_allclose(plan.sum(1), 1, rtol=1e-6)
    assert_allclose(w @ plan, w.sum() / scores.shape[1], rtol=1e-6)


def test_copies_of_weight_one_over_k_leave_the_temperature_alone():
    """Which follows the standard deviation of the scores as they are weighted."""
    scores = small(2).scores
    times = np.random.default_rng(0).integers(1, 6, len(scores))
    alone = fit_biases(Dense(scores, dtype=F64))
    copied = fit_biases(
        Dense(np.repeat(scores, times, axis=0), dtype=F64),
        weights=torch.tensor(np.repeat(1 / times, times)),
    )
    assert_allclose(copied.temperature, alone.temperature, rtol=1e-12)
    assert_allclose(copied.video, alone.video, rtol=0, atol=1e-9)


# --- columns without their own texts -----------------------------------------------------


def solve_rounds(scores, rounds, own, *, dtype=F64, weights=None, start=None, **settings):
    problem = Problem(
        Dense(scores, dtype=dtype),
        NCL(rounds=rounds, tolerance=0.0, **settings),
        weights=None if weights is None else torch.tensor(weights, dtype=dtype),
        std=float(scores.std()),
    )
    at = np.arange(len(own)), own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return problem.solve(
            start=None if start is None else torch.tensor(start * problem.tau, dtype=dtype),
            own=(torch.as_tensor(own), torch.tensor(scores[at], dtype=dtype)),
        )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-8), (F32, 1e-3)])
@pytest.mark.parametrize(
    ("rho", "temperature_std", "rounds"), [(0.8, 0.4, 1), (0.8, 0.4, 12), (1, 0.15, 12)]
)
def test_best_texts_are_left_out_of_the_columns(
    rho, temperature_std, rounds, dtype, tolerance, solver
):
    """Against the plain loop that never adds them, from a start, to 1e-8 of the spread.

    In float32 to 1e-3: what stays of a column whose texts all go is a small difference.
    """
    for seed in range(3):
        scores = small(seed).scores
        rng = np.random.default_rng(seed)
        w, start = rng.uniform(0.1, 1, len(scores)), rng.standard_normal(scores.shape[1])
        own = scores.argmax(1)
        settings = {"rho": rho, "temperature_std": temperature_std, "solver": solver}
        found = solve_rounds(scores, rounds, own, dtype=dtype, weights=w, start=start, **settings)
        tau = temperature_std * scores.std()
        f, g = plain_sinkhorn(scores, tau, rounds, rho, w=w, own=own, start=start)
        atol = tolerance * scores.std()
        assert_allclose(found.video.double(), tau * centred(g), rtol=0, atol=atol)
        assert_allclose(found.text.double(), tau * (f + g.mean()), rtol=0, atol=atol)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_column_that_keeps_nothing_keeps_a_hundred_thousandth(solver):
    """Of a video that is every text's best nothing else is left; its bias stays finite."""
    scores = np.random.default_rng(0).standard_normal((20, 10))
    own = np.full(20, 3)
    scores[:, 3] += 10
    found = solve_rounds(scores, 10, own, rho=0.8, temperature_std=0.4, solver=solver)
    tau = found.temperature
    f, g = plain_sinkhorn(scores, tau, 10, 0.8, own=own)
    assert np.isfinite(f).all()
    assert_allclose(found.video, tau * centred(g), rtol=0, atol=1e-9)
    assert_allclose(found.text, tau * (f + g.mean()), rtol=0, atol=1e-9)


def test_the_cautious_run_tells_hubs_from_popular_videos():
    """It holds back the hubs; the gentle run holds back the popular videos as well, or more."""
    gentle = []
    for seed in range(8):
        q = queries(seed, "direction", lean=1, popular=20, times=12, asked=0.5)
        probes, _, _ = context(q.scores)
        lower = [-run.video.numpy() for run in (probes.gentle, probes.cautious)]
        gentle.append(above(lower[0][q.hubs], lower[0][q.popular]))
        assert above(lower[1][q.hubs], lower[1][q.popular]) > 0.98
        held_back = [x[q.popular].mean() for x in lower]
        assert held_back[1] < 0.8 * held_back[0]
    assert min(gentle) < 0.5
    assert np.mean(gentle) < 0.9


# --- the marginal ------------------------------------------------------------------------


def context(scores, w=None, config=EXACT):
    """The two runs, and what is asked of `earned_biases`: source, settings, rest."""
    source = Dense(scores, dtype=F64)
    weights = None if w is None else torch.tensor(w)
    rest = {"std": float(scores.std()), "weights": weights, "memory": LARGE}
    probes = probe(source, config, nearest(source), **rest)
    return probes, source, rest


def earned(scores, gains, mode="auto", w=None, config=EXACT):
    probes, source, rest = context(scores, w, config)
    gains = tuple(Evidence(gain, 0.0) for gain in gains)
    return (*earned_biases(source, config, probes, gains, mode, **rest), probes)


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
        assert_allclose(probes.cautious.video, tau * g, rtol=0, atol=1e-7)
        assert_allclose(probes.cautious.text, tau * f, rtol=0, atol=1e-7)


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


@pytest.mark.parametrize("found", [0.1, np.dot(HUBS, (0.6, 0.4)), np.dot(HUBS, (0.2, 0.8)), 0.9])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ends", [EVENNESS, (0.3, 0.9)])
def test_the_marginal_is_mixed_from_three(monkeypatch, found, weighted, ends):
    """(b), then NCL for it: q decides between hubs and popular videos, e on the even share."""
    monkeypatch.setattr("emcl_plugin.prior.EVENNESS", ends)
    config = NCL(rounds=20, tolerance=0.0)
    for seed in range(3):
        scores = small(seed).scores
        w = random_weights(len(scores), seed) if weighted else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            biases, prior, probes = earned(scores, (100.0, 100 * found), w=w, config=config)
        tau = 0.15 * scores.std()
        total = len(scores) if w is None else w.sum()
        b = np.full(scores.shape[1], total / scores.shape[1])
        gentle, cautious = (x.video.numpy() / tau for x in (probes.gentle, probes.cautious))
        m, c = (plain_masses(scores, tau, g, w) for g in (gentle, cautious))
        e = np.minimum(m, b).sum() / b.sum()
        h, u = plain_ramp(found, *HUBS), plain_ramp(e, *ends)
        assert_allclose([prior.found_cautiously, prior.hubs], [found, h], rtol=1e-12)
        assert_allclose([prior.evenness, prior.uniform], [e, u], rtol=1e-9)
        assert_allclose([prior.even, prior.queries], [h * u, total], rtol=1e-9)
        wanted = h * (u * b + (1 - u) * m) + (1 - h) * c
        start = h * gentle + (1 - h) * cautious
        _, g = plain_sinkhorn(scores, tau, 20, b=wanted, w=w, start=start)
        assert_allclose(biases.video, tau * centred(g), rtol=0, atol=1e-9 * scores.std())
        assert_allclose(biases.temperature, tau, rtol=1e-12)


def test_an_even_gallery_of_hubs_is_ncl_as_published(monkeypatch):
    """h = u = 1: the biases of plain NCL, to 1e-8 of a standard deviation."""
    monkeypatch.setattr("emcl_plugin.prior.EVENNESS", (-2.0, -1.0))
    scores = small(0).scores
    biases, prior, _ = earned(scores, (10.0, 10.0))
    assert (prior.hubs, prior.uniform, prior.even) == (1, 1, 1)
    wanted = fit_biases(Dense(scores, dtype=F64), EXACT)
    assert_allclose(biases.video, wanted.video, rtol=0, atol=1e-8 * scores.std())
    assert_allclose(biases.text, wanted.text, rtol=0, atol=1e-8 * scores.std())


@pytest.mark.parametrize(("gains", "which"), [((10.0, 9.0), "gentle"), ((10.0, 1.0), "cautious")])
def test_an_uneven_gallery_gives_a_run_back(monkeypatch, gains, which):
    """u = 0: the gentle biases where h = 1, the cautious ones where h = 0, at any temperature."""
    monkeypatch.setattr("emcl_plugin.prior.EVENNESS", (2.0, 3.0))
    for seed in range(3):
        scores = small(seed).scores
        biases, prior, probes = earned(scores, gains)
        assert (prior.hubs, prior.uniform) == (float(which == "gentle"), 0)
        wanted = getattr(probes, which).video
        assert float(wanted.std()) > 0.05 * scores.std()
        assert_allclose(biases.video, wanted, rtol=0, atol=1e-8 * scores.std())


SOLVED = NCL(tolerance=1e-6, rounds=50_000)


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
        monkeypatch.setattr("emcl_plugin.prior.EVENNESS", ends)
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
def test_a_cautious_run_that_finds_as_much_finds_all_of_it(gains):
    """q is at most 1, also where the gentle run finds nothing."""
    _, prior, _ = earned(small(0).scores, gains, config=NCL())
    assert (prior.found_cautiously, prior.hubs) == (1, 1)


# --- the whole correction ----------------------------------------------------------------


def state(result):
    """What was decided, as numbers: strength, z, q, h, e, u."""
    guard, prior = result.guard, result.prior
    rest = ("found_cautiously", "hubs", "evenness", "uniform")
    return [guard.strength, guard.z, *(getattr(prior, name) for name in rest)]


HARD = {"n_video": 60, "popular": 6, "times": 3, "asked": 0.7, "noise": 2.0}


@pytest.mark.parametrize("how", ["", "direction", "offset", "spread"])
@pytest.mark.parametrize("kind", ["hubs", "both", "hard"])
def test_the_default_is_the_rule_in_plain_numpy(how, kind):
    """Scores in, scores out: weights, runs, evidence, marginal and biases, to 1e-9."""
    for seed in range(4):
        changes = {"hubs": {"popular": 0, "asked": 1.0}, "both": {}, "hard": HARD}[kind]
        scores = small(seed, how, **changes).scores
        w = plain_weights(scores, scores.argmax(1))
        wanted, strength, h, u = plain_prior(scores, w, **RULE)
        found = rescore(scores)
        assert_allclose(found.guard.strength, strength, rtol=0, atol=1e-9)
        if strength == 0:
            assert_array_equal(found.scores, scores)
            continue
        assert_allclose([found.prior.hubs, found.prior.uniform], [h, u], rtol=0, atol=1e-8)
        assert_allclose(found.prior.queries, w.sum(), rtol=1e-9)
        assert_allclose(found.scores, wanted, rtol=0, atol=1e-9)


def test_those_data_have_every_kind_of_decision():
    """Or else the comparison with plain NumPy, and what follows, would show little."""
    kinds = [("direction", {}), ("offset", HARD), ("spread", {}), ("spread", HARD), ("", {})]
    found = [rescore(small(seed, how, **kw).scores) for how, kw in kinds for seed in range(4)]
    strengths = np.array([x.guard.strength for x in found])
    priors = [x.prior for x in found if x.prior is not None]
    assert {0.0, 1.0} <= set(strengths)
    assert ((strengths > 0.1) & (strengths < 0.9)).any()
    for name in ("hubs", "uniform"):
        values = np.array([getattr(prior, name) for prior in priors])
        assert ((values > 0.01) & (values < 0.99)).any()
    assert {0.0, 1.0} <= {prior.hubs for prior in priors}


@given(seeds, st.sampled_from(["direction", "spread"]), st.booleans())
def test_the_order_of_texts_and_videos_does_not_matter(seed, how, from_features):
    """To 1e-9 of scores, of which some are corrected, some in part and some not at all."""
    q = small(seed, how)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(q.text)), rng.permutation(len(q.video))
    if from_features:
        found = rescore(None, (q.text, q.video))
        moved = rescore(None, (q.text[rows], q.video[columns]))
    else:
        found, moved = rescore(q.scores), rescore(q.scores[rows][:, columns])
    assert_allclose(moved.scores, found.scores[rows][:, columns], rtol=0, atol=1e-9)
    assert_allclose(moved.guard.z, found.guard.z, rtol=1e-9, atol=1e-9)


@given(seeds, st.floats(-6, 6), st.booleans())
def test_the_scale_of_scores_and_features_does_not_matter(seed, magnitude, from_features):
    """To 1e-9 of the scores' own scale."""
    q, scale = small(seed), 10**magnitude
    if from_features:
        found = rescore(None, (q.text, q.video))
        scaled = rescore(None, (scale * q.text, q.video / scale)).scores
    else:
        found = rescore(q.scores)
        scaled = rescore(scale * q.scores).scores / scale
    assert_allclose(scaled, found.scores, rtol=0, atol=1e-9)


@pytest.mark.parametrize("offset", [-100.0, -1.0, 0.3, 10.0])
def test_the_offset_of_the_scores_does_not_matter(monkeypatch, offset):
    """But for the texts' own shift: to 1e-6 of the spread, where all runs go to their end."""
    monkeypatch.setattr(NCL, "tolerance", 1e-8)
    monkeypatch.setattr(NCL, "rounds", 20_000)
    for seed in range(5):
        scores = small(seed).scores
        found, moved = (rescore(x, ncl=SOLVED) for x in (scores, scores + offset))
        assert_allclose(state(moved), state(found), rtol=0, atol=1e-6)
        change = centred(moved.scores - found.scores, axis=1)
        assert np.abs(change).max() < 1e-4 * scores.std()


@pytest.mark.parametrize("offset", [-100.0, -1.0, 0.3, 10.0])
def test_by_default_the_offset_matters_no_more_than_the_tolerance(offset):
    """With rho < 1 it takes rounds to decay: a tenth of the spread, and the same decisions."""
    for seed in range(3):
        scores = queries(seed, "direction", lean=2, popular=20, asked=0.7).scores
        found, moved = rescore(scores), rescore(scores + offset)
        assert_allclose(state(moved), state(found), rtol=0.02, atol=0.02)
        change = centred(moved.scores - found.scores, axis=1)
        assert np.abs(change).max() < 0.1 * scores.std()


@pytest.mark.parametrize("from_features", [False, True])
def test_arrays_tensors_and_precisions_agree(from_features):
    """NumPy = torch bit for bit, twice the same, float32 = float64 to 1e-4 of the spread."""
    for seed in range(3):
        q = small(seed)
        given = (q.text, q.video) if from_features else (q.scores,)

        def run(*arrays, feats=from_features):
            return rescore(None, arrays) if feats else rescore(*arrays)

        found = run(*given)
        assert found.guard.applied
        assert_array_equal(run(*given).scores, found.scores)
        assert_array_equal(run(*map(torch.from_numpy, given)).scores.numpy(), found.scores)
        single = run(*(x.astype("f4") for x in given))
        assert single.scores.dtype == np.float32
        assert_allclose(single.scores, found.scores, rtol=0, atol=1e-4 * q.scores.std())
        assert_allclose(state(single), state(found), rtol=0, atol=1e-3)


@pytest.mark.parametrize("memory", [1 << 20, 3 << 20])
@pytest.mark.parametrize("from_features", [False, True])
def test_the_memory_does_not_matter(memory, from_features):
    """Blocks or all at once, stored or recomputed: to 1e-9."""
    q = queries(0, "direction", popular=20, times=6, asked=0.8)
    q = q._replace(text=np.repeat(q.text, 2, axis=0), scores=np.repeat(q.scores, 2, axis=0))
    sim, feats = (None, (q.text, q.video)) if from_features else (q.scores, None)
    found, tight = rescore(sim, feats), rescore(sim, feats, memory=memory)
    assert (found.biases.solver, tight.biases.solver) == ("stored", "blocks")
    assert found.prior.queries < 0.51 * len(q.text)
    assert_allclose(tight.scores, found.scores, rtol=0, atol=1e-9)
    assert_allclose(state(tight), state(found), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.RepeatedItemsWarning")
@pytest.mark.parametrize("prior", ["auto", "gentle"])
@pytest.mark.parametrize("from_features", [False, True])
def test_repeated_queries_change_nothing(from_features, prior):
    """Half of the texts two to five times: every row's scores are those without repetition.

    To 1e-6 of the spread (texts that are a little alike weigh otherwise by about as much).
    """
    for seed, how in ((0, "direction"), (1, "direction"), (2, "spread"), (4, "spread")):
        q = small(seed, "direction" if from_features else how)
        rng = np.random.default_rng(seed)
        times = np.where(rng.random(len(q.text)) < 0.5, rng.integers(2, 6, len(q.text)), 1)
        which = rng.permutation(np.repeat(np.arange(len(q.text)), times))
        if from_features:
            found = rescore(None, (q.text, q.video), prior=prior)
            copied = rescore(None, (q.text[which], q.video), prior=prior)
            uneven = rescore(None, (q.text[which], q.video), prior="even", guard=False)
        else:
            found = rescore(q.scores, prior=prior)
            copied = rescore(q.scores[which], prior=prior)
            uneven = rescore(q.scores[which], prior="even", guard=False)
        atol = 1e-6 * q.scores.std()
        assert_allclose(copied.scores, found.scores[which], rtol=0, atol=atol)
        assert_allclose(copied.guard.z, found.guard.z, rtol=1e-6)
        if found.prior is not None:
            assert_allclose(copied.prior.queries, found.prior.queries, rtol=1e-6)
        even = rescore(*((None, (q.text, q.video)) if from_features else (q.scores,)),
                       prior="even", guard=False)  # fmt: skip
        assert np.abs(uneven.scores - even.scores[which]).max() > 0.1 * q.scores.std()


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
    """With near-equal texts counted once; what it assumes has no even share."""
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
            # at full strength rows would sum to 1
            rows = np.exp((scores + added / result.guard.strength) / b.temperature).sum(1)
            assert_allclose(rows, 1, rtol=1e-8)
    assert any(0 < strength < 1 for strength in strengths)


# --- data whose truth is known -----------------------------------------------------------


def r1(scores, q):
    return 100 * (scores.argmax(1) == q.owner).mean()


def gains(q):
    """Points of R@1 of the default and of plain NCL over the scores, and the default's result."""
    found = rescore(q.scores)
    even = rescore(q.scores, prior="even", guard=False)
    before = r1(q.scores, q)
    return r1(found.scores, q) - before, r1(even.scores, q) - before, found


@pytest.mark.parametrize(("how", "lean"), [("direction", 2), ("offset", 3), ("spread", 2)])
def test_hubs_alone_are_corrected_as_by_plain_ncl(how, lean):
    """All videos are asked for: tens of points, and no less than a point below plain NCL."""
    for seed in range(6):
        gain, even, found = gains(queries(seed, how, lean=lean))
        assert gain > 20
        assert gain > even - 1
        assert (found.guard.strength, found.prior.hubs) == (1, 1)
        assert found.prior.uniform > 0.9


@pytest.mark.parametrize("asked", [0.5, 0.0])
@pytest.mark.parametrize("times", [4, 12, 30])
def test_popular_videos_are_left_alone(times, asked):
    """Without hubs the scores come back, or as good ones, where plain NCL loses many points."""
    unchanged = 0
    for seed in range(6):
        q = queries(seed, hubs=0, popular=20, times=times, asked=asked)
        gain, even, found = gains(q)
        unchanged += not found.guard.applied
        assert gain >= -0.5
        assert even < -15
    assert unchanged >= 4


@pytest.mark.parametrize("times", [4, 12])
def test_popular_videos_lose_little_where_a_fifth_of_the_texts_go_astray(times):
    """Twice the noise: a few points in the mean, where plain NCL loses three times that."""
    gained = []
    for seed in range(8):
        q = queries(seed, hubs=0, popular=20, times=times, asked=0.5, noise=2)
        assert 65 < r1(q.scores, q) < 90
        gained.append(gains(q)[:2])
        assert gained[-1][0] > gained[-1][1]
    ours, even = np.mean(gained, axis=0)
    assert ours > -5
    assert even < -12


@pytest.mark.parametrize("times", [4, 12, 30])
def test_hubs_are_told_from_popular_videos(times):
    """Both are many texts' best; the biases hold the hubs back, and R@1 rises."""
    found = []
    for seed in range(6):
        q = queries(seed, "direction", lean=2, popular=20, times=times, asked=0.5)
        gain, even, result = gains(q)
        lower = -result.biases.video.numpy()
        assert above(lower[q.hubs], lower[q.popular]) > 0.8
        assert gain > even + 10
        assert gain > -6
        found.append(gain)
    assert np.mean(found) > 15


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_of_a_few_texts_nothing_can_be_told(n):
    """Without hubs they come back as they were, from scores and from features."""
    for seed in range(8):
        q = queries(seed, hubs=0)
        some = np.random.default_rng(seed).choice(len(q.text), n, replace=False)
        scores = q.scores[some]
        result = rescore(scores)
        assert_array_equal(result.scores, scores)
        assert not result.guard.applied
        assert not rescore(None, (q.text[some], q.video)).guard.applied


def test_a_few_texts_among_many_hubs_do_not_lose():
    """Ten are enough to show what is every text's best match; none is taken from its video."""
    for seed in range(8):
        q = queries(seed, "direction", lean=2)
        some = np.random.default_rng(seed).choice(len(q.text), 10, replace=False)
        part = q._replace(scores=q.scores[some], owner=q.owner[some])
        assert r1(rescore(part.scores).scores, part) >= r1(part.scores, part)


@pytest.mark.parametrize("copies", [2, 40])
def test_one_query_that_is_asked_again_and_again_is_one_query(copies):
    """Though it makes one video every text's best."""
    for seed in range(6):
        q = queries(seed, "direction", lean=2)
        scores, text = (np.repeat(x[:1], copies, axis=0) for x in (q.scores, q.text))
        result = rescore(scores)
        assert_array_equal(result.scores, scores)
        assert not result.guard.applied
        assert not rescore(None, (text, q.video)).guard.applied


def test_independent_noise_around_clear_pairs_is_left_alone():
    """No video is a hub, and no text is near another: nothing to correct."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        owner = rng.permutation(300)[:200]
        scores = rng.standard_normal((200, 300))
        scores[np.arange(200), owner] += 7
        result = rescore(scores)
        assert_array_equal(result.scores, scores)


@pytest.mark.xfail(strict=True, reason="by chance some videos are near many texts, and so hubs")
def test_independent_noise_is_left_alone():
    """No text has a video, and no video is a hub but by chance."""
    for seed in range(4):
        scores = np.random.default_rng(seed).standard_normal((200, 300))
        assert not rescore(scores).guard.applied
