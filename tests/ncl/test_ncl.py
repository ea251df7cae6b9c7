"""NCL's biases: what they are, when the iterations end, their symmetries, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import cone_pair, hubby_scores
from sinkhorn_runs import centred, fit, fit_rounds, plan, random_marginals, total

from emcl_plugin.errors import ConvergenceWarning, EmclError, InputValueError, ScaleWarning
from emcl_plugin.ncl import NCL, fit_biases
from emcl_plugin.scores import Dense

F32, F64 = torch.float32, torch.float64
SOLVERS = ("stored", "blocks")


# --- convergence -------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [*SOLVERS, "pot"])
@pytest.mark.parametrize("tolerance", [0.1, 1e-4])
def test_the_error_is_that_of_the_plan(tolerance, solver):
    """The largest relative error of a column sum, computed from the plan itself."""
    scores = hubby_scores(40, 30, seed=5)
    found = fit(scores, solver=solver, tolerance=tolerance, iterations=2000)
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
    for iterations in (1, 3):
        found = fit_rounds(scores, iterations, solver=solver, dtype=dtype, text_marginal=a)
        P = plan(torch.tensor(scores, dtype=dtype).double().numpy(), found)
        assert_allclose(P.sum(1), a, rtol=tolerance)
        assert found.error > 0.01


@pytest.mark.parametrize("solver", [*SOLVERS, "pot"])
def test_stopping_early_is_a_typed_warning(solver):
    """One iteration and a tolerance of 0: a warning with the error, and converged is False."""
    with pytest.warns(ConvergenceWarning, match=r"largest relative error of .* \(tolerance 0\)"):
        found = fit(hubby_scores(40, 30, seed=5), solver=solver, iterations=1, tolerance=0.0)
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
    """("sinkhorn", iteration, iterations), once per iteration."""
    calls = []
    found = fit_biases(
        Dense(hubby_scores(20, 20, 0)), NCL(), progress=lambda *call: calls.append(call)
    )
    assert calls == [("sinkhorn", k + 1, 200) for k in range(found.iterations)]


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
    settings = {"temperature_std": 1.0, "iterations": 2000, "tolerance": 1e-10, "solver": solver}
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
    if rho == 1:  # with rho < 1 the offset decays over the iterations, all biases alike
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
    ({"iterations": 0}, "at least one iteration", "iterations=0", "leave it out for 200"),
    ({"tolerance": -0.1}, "finite and not negative", "tolerance=-0.1", "0.1 is usual"),
    ({"tolerance": NAN}, "finite and not negative", "tolerance=nan", "0.1 is usual"),
    ({"rho": 0.0}, "rho must be above 0 and at most 1", "rho=0.0", "1 is NCL"),
    ({"rho": 1.1}, "rho must be above 0 and at most 1", "rho=1.1", "1 is NCL"),
    ({"rho": NAN}, "rho must be above 0 and at most 1", "rho=nan", "1 is NCL"),
    (
        {"solver": "fast"},
        "solver is not known",
        "solver='fast'",
        "auto, stored, blocks, fused, pot",
    ),
    ({"products": "float8"}, "precision of the products", "products='float8'", "or bfloat16"),
    ({"storage": "float8"}, "precision of the kernel", "storage='float8'", "or bfloat16"),
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
