"""NCL where texts count as several, and where columns leave their own texts out."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from oracles import plain_ncl, plain_sinkhorn
from prior_data import random_weights, small
from sinkhorn_runs import centred

from emcl_plugin import NCL
from emcl_plugin.errors import ConvergenceWarning
from emcl_plugin.ncl import Problem, fit_biases
from emcl_plugin.scores import Dense

F32, F64 = torch.float32, torch.float64
SOLVERS = ("stored", "blocks")
seeds = st.integers(0, 10_000)


# --- NCL with weights --------------------------------------------------------------------


def fit_rounds(scores, iterations, *, weights=None, std=None, **settings):
    """Exactly so many iterations, float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit_biases(
            Dense(scores, dtype=F64),
            NCL(iterations=iterations, tolerance=0.0, **settings),
            weights=None if weights is None else torch.as_tensor(weights),
            std=std,
        )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rho", [1.0, 0.8])
@pytest.mark.parametrize("iterations", [1, 2, 17])
def test_weights_are_those_of_the_plain_loop(iterations, rho, solver):
    """Round by round, with own marginals, to 1e-9 of a standard deviation."""
    scores = small(0).scores
    rng = np.random.default_rng(0)
    w = random_weights(len(scores))
    a, b = (rng.uniform(0.2, 1.2, n) for n in scores.shape)
    marginals = {"text_marginal": a, "video_marginal": b}
    found = fit_rounds(scores, iterations, weights=w, rho=rho, solver=solver, std=0.2, **marginals)
    tau = 0.15 * 0.2
    f, g = plain_sinkhorn(scores, tau, iterations, rho, a, b, w=w)
    assert_allclose(found.video, tau * centred(g), rtol=0, atol=1e-9 * scores.std())
    assert_allclose(found.text, tau * (f + g.mean()), rtol=0, atol=1e-9 * scores.std())


@given(seeds, st.sampled_from(SOLVERS), st.sampled_from([1.0, 0.8]), st.integers(1, 20))
def test_a_text_that_comes_k_times_with_weight_one_over_k_counts_once(
    seed, solver, rho, iterations
):
    """The biases are those without copies, of every row as well, to 1e-9."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((12, 15))
    which = rng.permutation(np.repeat(np.arange(12), rng.integers(1, 6, 12)))
    w = 1 / np.bincount(which)[which]
    settings = {"rho": rho, "solver": solver, "std": 1.0}
    alone = fit_rounds(scores, iterations, **settings)
    copied = fit_rounds(scores[which], iterations, weights=w, **settings)
    assert_allclose(copied.video, alone.video, rtol=0, atol=1e-9)
    assert_allclose(copied.text, alone.text[which], rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", [*SOLVERS, "pot"])
def test_every_solver_minds_weights(solver):
    """At convergence, to 1e-5 of a temperature, and the plan's columns have their masses."""
    scores = small(1).scores
    w = random_weights(len(scores))
    config = NCL(solver=solver, tolerance=1e-9, iterations=20_000)
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


def solve_rounds(scores, iterations, own, *, dtype=F64, weights=None, start=None, **settings):
    problem = Problem(
        Dense(scores, dtype=dtype),
        NCL(iterations=iterations, tolerance=0.0, **settings),
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
    ("rho", "temperature_std", "iterations"), [(0.8, 0.4, 1), (0.8, 0.4, 12), (1, 0.15, 12)]
)
def test_best_texts_are_left_out_of_the_columns(
    rho, temperature_std, iterations, dtype, tolerance, solver
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
        found = solve_rounds(
            scores, iterations, own, dtype=dtype, weights=w, start=start, **settings
        )
        tau = temperature_std * scores.std()
        f, g = plain_sinkhorn(scores, tau, iterations, rho, w=w, own=own, start=start)
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
