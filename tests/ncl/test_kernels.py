"""Sinkhorn-Knopp by every kernel against POT and a plain loop, at any temperature."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from numpy.testing import assert_allclose
from oracles import cone_pair, hubby_scores, plain_sinkhorn
from sinkhorn_runs import centred, fit, fit_rounds, plan, random_marginals, total

from emcl_plugin.errors import ConvergenceWarning
from emcl_plugin.ncl import NCL, Problem, fit_biases
from emcl_plugin.ncl.stored_kernel import StoredKernel
from emcl_plugin.scores import Dense, FeaturePair, Features, LowRank

F32, F64 = torch.float32, torch.float64
SOLVERS = ("stored", "blocks")


class CountedPasses(Dense):
    """A source that counts how often all of it is read."""

    passes = 0

    def blocks(self):
        self.passes += 1
        return super().blocks()


# --- against POT -------------------------------------------------------------------------


@pytest.mark.parametrize("own_marginals", [False, True])
@pytest.mark.parametrize("shape", [(12, 12), (16, 9), (9, 16)])
@pytest.mark.parametrize(
    ("units", "tau"), [(1, 1.0), (1, 0.1), (1, 0.03), (1, 0.01), (1, 0.003), (100, 1.0), (100, 0.3)]
)
def test_agrees_with_pot(units, tau, shape, own_marginals):
    """Plan marginals to 1e-6, tau (f + g) up to a constant to 1e-5, for cosines and logits."""
    scores = units * hubby_scores(*shape, seed=0)
    a, b = random_marginals(*shape) if own_marginals else map(np.ones, shape)
    _, log = ot.bregman.sinkhorn_log(
        a / a.sum(), b / b.sum(), -scores, tau, numItermax=50_000, stopThr=1e-12, log=True
    )
    wanted = centred(tau * (log["log_u"][:, None] + log["log_v"]))
    given = {"text_marginal": a, "video_marginal": b} if own_marginals else {}
    for solver in SOLVERS:
        found = fit(
            scores, temperature=tau, solver=solver, iterations=20_000, tolerance=1e-9, **given
        )
        assert found.converged
        assert_allclose(centred(total(found)), wanted, rtol=0, atol=1e-5)
        P = plan(scores, found)
        assert_allclose(P.sum(1), a, rtol=1e-6)
        assert_allclose(P.sum(0), b * a.sum() / b.sum(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_the_pot_solver_finds_the_same(shape):
    """solver="pot" ends at the potentials of the built-in solvers, to 1e-5 of a temperature."""
    scores = hubby_scores(*shape, seed=1)
    a, b = random_marginals(*shape)
    settings = {"text_marginal": a, "video_marginal": b, "iterations": 5000, "tolerance": 1e-9}
    wanted = fit(scores, solver="blocks", **settings)
    found = fit(scores, solver="pot", **settings)
    assert (found.solver, found.converged) == ("pot", True)
    assert_allclose(total(found), total(wanted), rtol=0, atol=1e-5 * wanted.temperature)
    assert_allclose(float(found.video.mean()), 0, rtol=0, atol=1e-12)


def test_the_pot_solver_counts_its_rounds():
    """As many as were run, not one less."""
    assert fit(hubby_scores(9, 8, 0), solver="pot", iterations=1, tolerance=100.0).iterations == 1


@pytest.mark.parametrize("solver", ["stored", "pot"])
def test_rare_items_count_for_the_tolerance_too(solver):
    """The error is relative: with iterations left no solver stops while rare columns are off."""
    scores = np.full((20, 20), -1.0)  # the second half, of little mass, is a matter of its own
    scores[:10, :10] = 0.0
    scores[10:, 10:] = 0.5 * np.random.default_rng(0).standard_normal((10, 10))
    masses = np.repeat([1.0, 1e-3], 10)
    settings = {"text_marginal": masses, "video_marginal": masses, "temperature": 0.1}
    found = fit(scores, solver=solver, iterations=2000, tolerance=0.01, **settings)
    assert_allclose(plan(scores, found).sum(0), masses, rtol=0.01)


# --- against the plain loop --------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rho", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("iterations", [1, 2, 17])
def test_every_round_is_that_of_the_plain_loop(iterations, rho, solver):
    """f and g after so many iterations, own marginals, to 1e-9 of a standard deviation."""
    scores = hubby_scores(25, 40, seed=2)
    a, b = random_marginals(25, 40)
    found = fit_rounds(
        scores, iterations, rho=rho, solver=solver, text_marginal=a, video_marginal=b
    )
    tau = 0.15 * scores.std()
    f, g = plain_sinkhorn(scores, tau, iterations, rho, a, b)
    assert_allclose(found.temperature, tau, rtol=1e-12)
    assert_allclose(found.text, tau * (f + g.mean()), rtol=0, atol=1e-9 * scores.std())
    assert_allclose(found.video, tau * centred(g), rtol=0, atol=1e-9 * scores.std())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (F32, 1e-3)])
@pytest.mark.parametrize(
    ("offset", "temperature_std"), [(50, 0.15), (-300, 0.15), (0, 1e-4), (6, 1e-3)]
)
@pytest.mark.parametrize("rho", [0.9, 0.5])
def test_relaxation_works_at_any_temperature_and_offset(
    rho, offset, temperature_std, dtype, tolerance, solver
):
    """With rho < 1 the plan's mass is far from 1 there; the biases are those of the plain loop."""
    scores = hubby_scores(25, 40, seed=3, mean=offset, std=1.0)
    found = fit_rounds(
        scores, 30, rho=rho, solver=solver, dtype=dtype, temperature_std=temperature_std
    )
    tau = temperature_std * scores.std()
    f, g = plain_sinkhorn(scores, tau, 30, rho)
    assert_allclose(found.video, tau * centred(g), rtol=0, atol=tolerance)
    assert_allclose(centred(found.text), tau * centred(f), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (F32, 1e-4)])
@pytest.mark.parametrize("temperature_std", [1.0, 0.15, 0.01])
@pytest.mark.parametrize("shape", [(60, 35), (35, 60)])
def test_stored_and_blocks_are_the_same(shape, temperature_std, dtype, tolerance):
    """After the same number of iterations, in standard deviations of the scores."""
    text, video = cone_pair(*shape, 32, seed=0)
    scores = text @ video.T
    settings = {"temperature_std": temperature_std, "dtype": dtype}
    stored, blocks = (fit_rounds(scores, 30, solver=solver, **settings) for solver in SOLVERS)
    for side in ("text", "video"):
        x, y = (getattr(found, side).double() for found in (stored, blocks))
        assert_allclose(x, y, rtol=0, atol=tolerance * scores.std())


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (F32, 3e-4)])
def test_the_stored_kernel_is_made_anew_where_potentials_move_far(dtype, tolerance):
    """At a small temperature it is exponentiated several times, not in every round; still right."""
    scores = hubby_scores(30, 20, seed=3)
    passes = []
    for temperature_std in (1.0, 1e-3):
        source = CountedPasses(scores, dtype=dtype)
        config = NCL(
            temperature_std=temperature_std, solver="stored", iterations=600, tolerance=0.0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = fit_biases(source, config)
        passes.append(source.passes)
    assert passes[0] + 2 <= passes[1] <= 100  # of 600 iterations
    wanted = fit_rounds(scores, 600, solver="blocks", dtype=dtype, temperature_std=1e-3)
    atol = tolerance * scores.std()
    assert_allclose(found.video.double(), wanted.video.double(), rtol=0, atol=atol)


@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.ScaleWarning")
@pytest.mark.parametrize(("tau", "rho"), [(0.15, 1.0), (0.001, 1.0), (0.15, 0.5), (0.001, 0.5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (F32, 1e-3)])
def test_the_stored_kernel_may_be_read_in_small_chunks(monkeypatch, dtype, tolerance, tau, rho):
    """As large matrices are: 16 rows at a time, of very different levels."""
    scores = hubby_scores(70, 30, seed=3, std=1.0) + np.linspace(0, 100, 70)[:, None]
    monkeypatch.setattr("emcl_plugin.scores.block_sizes._CACHE_BYTES", 1)
    found = fit_rounds(scores, 30, solver="stored", dtype=dtype, rho=rho, temperature=tau)
    f, g = plain_sinkhorn(scores, tau, 30, rho)
    assert_allclose(found.video, tau * centred(g), rtol=0, atol=tolerance)
    assert_allclose(centred(found.text), tau * centred(f), rtol=0, atol=tolerance)


BFLOAT16 = 2**-8  # half of the distance from 1 to the next larger one


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("tau", "rho"), [(0.15, 1.0), (0.03, 1.0), (0.15, 0.5)])
def test_a_bfloat16_kernel_rounds_each_sum_by_its_bound(monkeypatch, dtype, tau, rho):
    """Row and column sums of one sweep, in parts of 16 rows; rounding is there, and no more."""
    monkeypatch.setattr("emcl_plugin.scores.block_sizes._CACHE_BYTES", 1)
    scores = hubby_scores(90, 70, seed=3, std=1.0) + np.linspace(0, 3, 90)[:, None]
    source = Dense(scores, dtype=dtype)
    g = torch.tensor(np.random.default_rng(0).standard_normal(70), dtype=dtype)
    zeros = torch.zeros(90, dtype=dtype)
    narrow = StoredKernel(source, tau, zeros, rho, zeros, torch.bfloat16)
    assert narrow.kernel.dtype == torch.bfloat16
    f, columns = narrow.sweep(g)
    exact = scores / tau + g.double().numpy()
    wanted = -rho * np.logaddexp.reduce(exact, axis=1)
    bound = -np.log1p(-BFLOAT16) + 1e-5
    assert 1e-4 * rho < np.abs(f.double().numpy() - wanted).max() <= bound * rho
    wanted = np.logaddexp.reduce(scores / tau + f.double().numpy()[:, None], axis=0)
    assert 1e-4 < np.abs(columns.double().numpy() - wanted).max() <= bound


@pytest.mark.parametrize("temperature_std", [0.4, 0.15, 0.01])
@pytest.mark.parametrize("rho", [1.0, 0.65])
def test_biases_of_a_bfloat16_kernel_are_those_of_float32(temperature_std, rho):
    """To 0.02 tau, a fifth of what the tolerance allows, also where it is made anew."""
    text, video = cone_pair(300, 200, 32, seed=0)
    settings = {"temperature_std": temperature_std, "rho": rho, "solver": "stored", "dtype": F32}
    scores = text @ video.T
    wanted = fit_rounds(scores, 40, **settings)
    found = fit_rounds(scores, 40, storage="bfloat16", **settings)
    for side in ("text", "video"):
        x, y = getattr(found, side), getattr(wanted, side)
        assert_allclose(x, y, rtol=0, atol=0.02 * wanted.temperature)
        assert not torch.equal(x, y)


@pytest.mark.parametrize("temperature_std", [0.4, 0.15])
@pytest.mark.parametrize("rho", [1.0, 0.65])
def test_biases_of_bfloat16_products_are_those_of_float32(temperature_std, rho):
    """To 0.006, the bound of a score's error; EMCL's change of the scores stays exact."""
    text, video = cone_pair(300, 200, 64, seed=0)
    pair = FeaturePair(*(Features(torch.from_numpy(x).float()) for x in (text, video)))
    moved = LowRank(pair, torch.full((300, 1), 0.5), torch.linspace(-1, 1, 200)[:, None])
    for source in (pair, moved):
        settings = {"temperature_std": temperature_std, "rho": rho, "solver": "blocks"}
        wanted = fit_biases(source, NCL(**settings))
        found = fit_biases(source, NCL(**settings, products="bfloat16"))
        for side in ("text", "video"):
            x, y = getattr(found, side), getattr(wanted, side)
            assert_allclose(x, y, rtol=0, atol=0.006)
            assert not torch.equal(x, y)
    rough = pair.rough().dense()
    assert rough.dtype == torch.float32
    assert 1e-4 < (rough - pair.dense()).abs().max() <= 0.006


def test_scores_that_are_given_have_no_products_to_round():
    source = Dense(hubby_scores(40, 30, seed=1))
    config = NCL(solver="blocks")
    rough = fit_biases(source, replace(config, products="bfloat16"))
    assert torch.equal(rough.video, fit_biases(source, config).video)


@pytest.mark.parametrize(("entries", "ways"), [(1, 2), (2, 1), (4, 0)])
def test_a_bfloat16_kernel_is_stored_up_to_twice_the_entries(entries, ways):
    """In half of the budget, of which a float32 kernel of 40 x 30 takes all at ``entries`` 1."""
    source = Dense(hubby_scores(40 * entries, 30, seed=1))
    solvers = [
        Problem(source, NCL(storage=storage), memory=2 * 4 * 40 * 30).solver
        for storage in ("bfloat16", "scores")
    ]
    assert solvers == ["stored"] * ways + ["blocks"] * (2 - ways)


# --- what the biases are -----------------------------------------------------------------


def test_auto_stores_what_fits_and_recomputes_what_does_not():
    """The kernel may take half of the budget; the biases are the same, to 1e-9."""
    scores = hubby_scores(40, 30, seed=9)
    source = Dense(scores, dtype=F64)
    small, large = (
        fit_biases(source, NCL(), memory=memory) for memory in (scores.nbytes, 2 * scores.nbytes)
    )
    assert (small.solver, large.solver) == ("blocks", "stored")
    assert_allclose(total(small), total(large), rtol=0, atol=1e-9)
