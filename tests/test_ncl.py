"""NCL: Sinkhorn-Knopp against POT and a plain loop, at any temperature, and its symmetries."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import cone_pair, hubby_scores, plain_sinkhorn

from emcl_plugin.errors import ConvergenceWarning, EmclError, InputValueError, ScaleWarning
from emcl_plugin.ncl import NCL, Problem, StoredKernel, fit_biases
from emcl_plugin.similarity import Dense, FeaturePair, Features, LowRank

F32, F64 = torch.float32, torch.float64
SOLVERS = ("stored", "blocks")


class CountedPasses(Dense):
    """A source that counts how often all of it is read."""

    passes = 0

    def blocks(self):
        self.passes += 1
        return super().blocks()


def fit(scores, *, dtype=F64, memory=None, **settings):
    return fit_biases(Dense(scores, dtype=dtype, memory=memory), NCL(**settings))


def fit_rounds(scores, rounds, *, dtype=F64, **settings):
    """Exactly so many rounds; that they do not reach a tolerance of 0 is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = fit(scores, dtype=dtype, rounds=rounds, tolerance=0.0, **settings)
    assert found.rounds == rounds or found.error == 0
    return found


def total(found):
    """tau (f_i + g_j), float64."""
    return (found.text.double()[:, None] + found.video.double()).numpy()


def plan(scores, found):
    return np.exp((scores + total(found)) / found.temperature)


def centred(x):
    return x - x.mean()


def random_marginals(n_text, n_video, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random(n_text) + 0.2, rng.random(n_video) + 0.2


# --- against POT -------------------------------------------------------------------------


@pytest.mark.parametrize("own_marginals", [False, True])
@pytest.mark.parametrize("shape", [(12, 12), (16, 9), (9, 16)])
@pytest.mark.parametrize(
    ("units", "tau"),
    [(1, 1.0), (1, 0.1), (1, 0.03), (1, 0.01), (1, 0.003), (100, 1.0), (100, 0.3)],
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
        found = fit(scores, temperature=tau, solver=solver, rounds=20_000, tolerance=1e-9, **given)
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
    settings = {"text_marginal": a, "video_marginal": b, "rounds": 5000, "tolerance": 1e-9}
    wanted = fit(scores, solver="blocks", **settings)
    found = fit(scores, solver="pot", **settings)
    assert (found.solver, found.converged) == ("pot", True)
    assert_allclose(total(found), total(wanted), rtol=0, atol=1e-5 * wanted.temperature)
    assert_allclose(float(found.video.mean()), 0, rtol=0, atol=1e-12)


def test_the_pot_solver_counts_its_rounds():
    """As many as were run, not one less."""
    assert fit(hubby_scores(9, 8, 0), solver="pot", rounds=1, tolerance=100.0).rounds == 1


@pytest.mark.parametrize("solver", ["stored", "pot"])
def test_rare_items_count_for_the_tolerance_too(solver):
    """The error is relative: with rounds left no solver stops while rare columns are off."""
    scores = np.full((20, 20), -1.0)  # the second half, of little mass, is a matter of its own
    scores[:10, :10] = 0.0
    scores[10:, 10:] = 0.5 * np.random.default_rng(0).standard_normal((10, 10))
    masses = np.repeat([1.0, 1e-3], 10)
    settings = {"text_marginal": masses, "video_marginal": masses, "temperature": 0.1}
    found = fit(scores, solver=solver, rounds=2000, tolerance=0.01, **settings)
    assert_allclose(plan(scores, found).sum(0), masses, rtol=0.01)


# --- against the plain loop --------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rho", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("rounds", [1, 2, 17])
def test_every_round_is_that_of_the_plain_loop(rounds, rho, solver):
    """f and g after so many rounds, own marginals, to 1e-9 of a standard deviation."""
    scores = hubby_scores(25, 40, seed=2)
    a, b = random_marginals(25, 40)
    found = fit_rounds(scores, rounds, rho=rho, solver=solver, text_marginal=a, video_marginal=b)
    tau = 0.15 * scores.std()
    f, g = plain_sinkhorn(scores, tau, rounds, rho, a, b)
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
    """After the same number of rounds, in standard deviations of the scores."""
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
        config = NCL(temperature_std=temperature_std, solver="stored", rounds=600, tolerance=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = fit_biases(source, config)
        passes.append(source.passes)
    assert passes[0] + 2 <= passes[1] <= 100  # of 600 rounds
    wanted = fit_rounds(scores, 600, solver="blocks", dtype=dtype, temperature_std=1e-3)
    atol = tolerance * scores.std()
    assert_allclose(found.video.double(), wanted.video.double(), rtol=0, atol=atol)


@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.ScaleWarning")
@pytest.mark.parametrize(("tau", "rho"), [(0.15, 1.0), (0.001, 1.0), (0.15, 0.5), (0.001, 0.5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (F32, 1e-3)])
def test_the_stored_kernel_may_be_read_in_small_chunks(monkeypatch, dtype, tolerance, tau, rho):
    """As large matrices are: 16 rows at a time, of very different levels."""
    scores = hubby_scores(70, 30, seed=3, std=1.0) + np.linspace(0, 100, 70)[:, None]
    monkeypatch.setattr("emcl_plugin.similarity._CACHE_BYTES", 1)
    found = fit_rounds(scores, 30, solver="stored", dtype=dtype, rho=rho, temperature=tau)
    f, g = plain_sinkhorn(scores, tau, 30, rho)
    assert_allclose(found.video, tau * centred(g), rtol=0, atol=tolerance)
    assert_allclose(centred(found.text), tau * centred(f), rtol=0, atol=tolerance)


BFLOAT16 = 2**-8  # half of the distance from 1 to the next larger one


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("tau", "rho"), [(0.15, 1.0), (0.03, 1.0), (0.15, 0.5)])
def test_a_bfloat16_kernel_rounds_each_sum_by_its_bound(monkeypatch, dtype, tau, rho):
    """Row and column sums of one sweep, in parts of 16 rows; rounding is there, and no more."""
    monkeypatch.setattr("emcl_plugin.similarity._CACHE_BYTES", 1)
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


# --- convergence -------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [*SOLVERS, "pot"])
@pytest.mark.parametrize("tolerance", [0.1, 1e-4])
def test_the_error_is_that_of_the_plan(tolerance, solver):
    """The largest relative error of a column sum, computed from the plan itself."""
    scores = hubby_scores(40, 30, seed=5)
    found = fit(scores, solver=solver, tolerance=tolerance, rounds=2000)
    error = abs(plan(scores, found).sum(0) / (40 / 30) - 1).max()
    assert found.converged
    assert 0 < found.error <= tolerance
    assert_allclose(found.error, error, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (F32, 1e-4)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_sum_to_their_marginal_in_any_round(solver, dtype, tolerance):
    """f is updated last, so the error is in the columns alone."""
    scores = hubby_scores(40, 30, seed=5)
    a, _ = random_marginals(40, 30)
    for rounds in (1, 3):
        found = fit_rounds(scores, rounds, solver=solver, dtype=dtype, text_marginal=a)
        P = plan(torch.tensor(scores, dtype=dtype).double().numpy(), found)
        assert_allclose(P.sum(1), a, rtol=tolerance)
        assert found.error > 0.01


@pytest.mark.parametrize("solver", [*SOLVERS, "pot"])
def test_stopping_early_is_a_typed_warning(solver):
    """One round and a tolerance of 0: a warning with the error, and converged is False."""
    with pytest.warns(ConvergenceWarning, match=r"largest relative error of .* \(tolerance 0\)"):
        found = fit(hubby_scores(40, 30, seed=5), solver=solver, rounds=1, tolerance=0.0)
    assert not found.converged


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("paired", [True, False])
def test_an_extreme_temperature_is_survived(paired, solver):
    """1e-4 standard deviations in float32: finite, and within tolerance or with a warning."""
    text, video = cone_pair(60, 40, 32, seed=6)
    scores = (text @ video.T if paired else hubby_scores(60, 40, seed=6)).astype("f4")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fit(scores, dtype=F32, solver=solver, temperature_std=1e-4)
    assert torch.isfinite(found.text).all()
    assert torch.isfinite(found.video).all()
    assert [w.category for w in caught] == [] if found.converged else [ConvergenceWarning]
    # rounding of S / tau alone is worth about 0.02 here
    assert_allclose(plan(scores.astype("f8"), found).sum(1), np.ones(60), rtol=0.05)


def test_a_temperature_far_from_the_scores_is_a_typed_warning():
    """A logit scale of 100 given for scores that were multiplied by 100 already, and worse."""
    with pytest.warns(ScaleWarning, match="standard deviations of the scores"):
        fit(hubby_scores(20, 20, 0), temperature=1e3 * 0.05)


def test_progress_is_told_every_round():
    """("sinkhorn", round, rounds), once per round run."""
    calls = []
    found = fit_biases(
        Dense(hubby_scores(20, 20, 0)), NCL(), progress=lambda *call: calls.append(call)
    )
    assert calls == [("sinkhorn", k + 1, 200) for k in range(found.rounds)]


# --- what the biases are -----------------------------------------------------------------


@pytest.mark.parametrize("rho", [1.0, 0.8])
@pytest.mark.parametrize("solver", SOLVERS)
def test_video_biases_have_mean_zero(solver, rho):
    """The free constant is on the texts' side."""
    found = fit(hubby_scores(40, 30, seed=7), solver=solver, rho=rho)
    assert_allclose(float(found.video.mean()), 0, rtol=0, atol=1e-12)
    assert float(found.video.std()) > 1e-3


def test_rows_are_ranked_by_the_video_bias_and_columns_by_the_text_bias():
    """One re-scored matrix serves both directions: the other side's bias is a constant there."""
    scores = hubby_scores(40, 30, seed=8)
    found = fit(scores)
    rescored = found.apply(Dense(scores, dtype=F64)).dense().numpy()
    assert_allclose(rescored, scores + total(found), rtol=0, atol=1e-15)
    by_g = scores + found.video.numpy()
    by_f = scores + found.text.numpy()[:, None]
    assert_array_equal(np.argsort(rescored, axis=1), np.argsort(by_g, axis=1))
    assert_array_equal(np.argsort(rescored, axis=0), np.argsort(by_f, axis=0))
    assert (np.argmax(rescored, axis=1) != np.argmax(scores, axis=1)).any()


def test_the_hub_has_the_lowest_bias():
    """A video that scores high with everybody is held back most."""
    scores = hubby_scores(40, 30, seed=9)
    scores[:, 11] += 0.2
    assert int(fit(scores).video.argmin()) == 11


def test_auto_stores_what_fits_and_recomputes_what_does_not():
    """The kernel may take half of the budget; the biases are the same, to 1e-9."""
    scores = hubby_scores(40, 30, seed=9)
    source = Dense(scores, dtype=F64)
    small, large = (
        fit_biases(source, NCL(), memory=memory) for memory in (scores.nbytes, 2 * scores.nbytes)
    )
    assert (small.solver, large.solver) == ("blocks", "stored")
    assert_allclose(total(small), total(large), rtol=0, atol=1e-9)


# --- symmetries --------------------------------------------------------------------------

shapes = st.tuples(st.integers(2, 25), st.integers(2, 25))
seeds = st.integers(0, 10_000)
solvers = st.sampled_from(SOLVERS)


@given(shapes, seeds, solvers)
def test_biases_follow_a_permutation(shape, seed, solver):
    """Permuted rows and columns give permuted biases."""
    rng = np.random.default_rng(seed)
    scores = hubby_scores(*shape, seed)
    rows, columns = (rng.permutation(n) for n in shape)
    found = fit_rounds(scores, 10, solver=solver)
    moved = fit_rounds(scores[rows][:, columns], 10, solver=solver)
    assert_allclose(moved.text, found.text[rows], rtol=0, atol=1e-10)
    assert_allclose(moved.video, found.video[columns], rtol=0, atol=1e-10)


@given(shapes, seeds, solvers)
def test_the_transposed_scores_give_the_transposed_result(shape, seed, solver):
    """At convergence S + tau (f + g) transposes; the total mass n_text or n_video shifts it."""
    scores = hubby_scores(*shape, seed)
    settings = {"temperature_std": 1.0, "rounds": 2000, "tolerance": 1e-10, "solver": solver}
    found, other = fit(scores, **settings), fit(scores.T, **settings)
    shift = found.temperature * np.log(shape[0] / shape[1])
    assert_allclose(total(found), total(other).T + shift, rtol=0, atol=1e-9)


@given(
    shapes,
    seeds,
    solvers,
    st.floats(-4, 4).map(lambda x: 10**x),
    st.floats(-100, 100),
    st.sampled_from([1.0, 0.8]),
)
def test_the_default_temperature_follows_the_scale(shape, seed, solver, scale, offset, rho):
    """S -> c S + d: biases by c, rankings unchanged (biases to 1e-9 of a standard deviation)."""
    scores = hubby_scores(*shape, seed, mean=0.0, std=1.0)
    changed = scale * (scores + offset)
    found, other = (fit_rounds(s, 20, rho=rho, solver=solver) for s in (scores, changed))
    if rho == 1:  # with rho < 1 the offset decays over the rounds, all biases alike
        assert_allclose(centred(other.text) / scale, centred(found.text), rtol=0, atol=1e-9)
    assert_allclose(other.video / scale, found.video, rtol=0, atol=1e-9)
    for axis in (0, 1):
        ranked = [
            np.argsort(s + total(x), axis=axis) for s, x in ((scores, found), (changed, other))
        ]
        assert_array_equal(*ranked)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_scores_of_any_magnitude_are_normalised(scale):
    """float32 squares of them vanish or overflow; biases still follow the scale, to 1e-4."""
    scores = hubby_scores(20, 30, seed=0, mean=0.0, std=1.0)
    found = fit((scale * scores).astype("f4"), dtype=F32)
    assert_allclose(found.video.double() / scale, fit(scores).video, rtol=0, atol=1e-4)


@given(shapes, seeds, solvers, st.integers(1, 40))
def test_biases_do_not_depend_on_the_block_size(shape, seed, solver, rows):
    """Blocks of any number of rows, to 1e-12."""
    scores = hubby_scores(*shape, seed)
    memory = 16 * rows * shape[1] * scores.itemsize
    found = fit_rounds(scores, 10, solver=solver)
    blocked = fit_rounds(scores, 10, solver=solver, memory=memory)
    assert_allclose(total(blocked), total(found), rtol=0, atol=1e-12)


# --- refusals ----------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
WRONG_SETTINGS = [
    ({"temperature": 0.0}, "temperature must be a positive number", "temperature=0.0", "leave it"),
    ({"temperature": -1.0}, "temperature must be a positive number", "temperature=-1", "leave it"),
    ({"temperature": NAN}, "temperature must be a positive number", "temperature=nan", "leave it"),
    ({"logit_scale": INF}, "logit scale must be a positive number", "logit_scale=inf", "leave it"),
    ({"temperature_std": 0}, "std must be a positive number", "temperature_std=0", "leave it"),
    ({"temperature": 1.0, "logit_scale": 2.0}, "not both", "logit_scale=2.0", "keep one"),
    ({"rounds": 0}, "at least one round", "rounds=0", "leave it out for 200"),
    ({"tolerance": -0.1}, "finite and not negative", "tolerance=-0.1", "0.1 is usual"),
    ({"tolerance": NAN}, "finite and not negative", "tolerance=nan", "0.1 is usual"),
    ({"rho": 0.0}, "rho must be above 0 and at most 1", "rho=0.0", "1 is NCL"),
    ({"rho": 1.1}, "rho must be above 0 and at most 1", "rho=1.1", "1 is NCL"),
    ({"rho": NAN}, "rho must be above 0 and at most 1", "rho=nan", "1 is NCL"),
    ({"solver": "fast"}, "solver is not known", "solver='fast'", "auto, stored, blocks, pot"),
    ({"products": "float8"}, "cannot be multiplied like this", "products='float8'", "or bfloat16"),
    ({"storage": "float8"}, "cannot be stored like this", "storage='float8'", "or bfloat16"),
    (
        {"storage": "bfloat16", "solver": "blocks"},
        'solver="blocks" stores no kernel',
        "storage='bfloat16'",
        "leave storage out",
    ),
    ({"solver": "pot", "rho": 0.8}, "has no relaxation", "rho=0.8", "another solver or rho=1"),
]
WRONG_MARGINALS = [
    ({"text_marginal": np.ones(5)}, "one number per item", "shape (5,) for 4 items", "uniform"),
    ({"video_marginal": np.ones((3, 1))}, "one number per item", "shape (3, 1)", "uniform"),
    ({"video_marginal": [1, 0, 1]}, "must be positive", "video_marginal[1] = 0.0", "leave out"),
    ({"text_marginal": [1, 1, -2, 1]}, "must be positive", "text_marginal[2] = -2", "leave out"),
    ({"text_marginal": [1, NAN, 1, 1]}, "must be positive", "text_marginal[1] = nan", "leave out"),
    ({"video_marginal": [INF, 1, 1]}, "must be positive", "video_marginal[0] = inf", "leave out"),
    ({"video_marginal": ["a", "b", "c"]}, "not a list of numbers", "list", "one positive number"),
    ({"text_marginal": {"a": 1}}, "not a list of numbers", "dict", "one positive number"),
]


def check_parts(error, problem, received, remedy):
    assert problem in error.problem
    assert received in error.received
    assert remedy in error.remedy
    assert all(part in str(error) for part in (problem, received, remedy))


@pytest.mark.parametrize(("settings", "problem", "received", "remedy"), WRONG_SETTINGS)
def test_a_wrong_setting_is_refused_in_three_parts(settings, problem, received, remedy):
    """The message says what is wrong, what came in and what to do."""
    with pytest.raises(InputValueError) as caught:
        NCL(**settings)
    check_parts(caught.value, problem, received, remedy)


@pytest.mark.parametrize(("marginals", "problem", "received", "remedy"), WRONG_MARGINALS)
def test_a_wrong_marginal_is_refused_in_three_parts(marginals, problem, received, remedy):
    """Shape, sign, finiteness and kind, with the first bad position."""
    with pytest.raises(EmclError) as caught:
        fit(hubby_scores(4, 3, 0), **marginals)
    check_parts(caught.value, problem, received, remedy)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7, 1e6])
@pytest.mark.parametrize("shape", [(2, 2), (7, 5), (130, 90)])
@pytest.mark.parametrize("memory", [None, 1, 50_000])
def test_constant_scores_are_refused(memory, shape, value):
    """Whatever the constant and the block size: rounding must not pass for a spread."""
    for dtype in (F32, F64):
        with pytest.raises(InputValueError, match="all scores are equal"):
            fit(np.full(shape, value), dtype=dtype, memory=memory)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_a_single_row_or_column_is_refused(shape):
    """With one text or one video there is nothing to normalise."""
    with pytest.raises(InputValueError, match="at least two texts and two videos") as caught:
        fit(np.random.default_rng(0).standard_normal(shape))
    assert f"{shape[0]} texts x {shape[1]} videos" in caught.value.received


def test_the_temperature_is_given_in_one_of_three_ways():
    """Absolute, as a logit scale, or in standard deviations."""
    assert NCL(temperature=0.02).resolve_temperature(0.05) == 0.02
    assert NCL(logit_scale=50.0).resolve_temperature(0.05) == 1 / 50
    assert_allclose(NCL(temperature_std=0.4).resolve_temperature(0.05), 0.02, rtol=1e-12)
    assert_allclose(NCL().resolve_temperature(2.0), 0.3, rtol=1e-12)
