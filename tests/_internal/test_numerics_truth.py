"""Correct results for any unit, layout, order or number of threads."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import cone_pair, hubby_scores, plain_sinkhorn

from emcl_plugin import NCL, Reranker, rerank, rerank_top, rescore
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import ConvergenceWarning, EmclWarning, InputTypeError, InputValueError

EVEN = {"prior": "even", "guard": False}
UNITS = [1e-6, 1e-3, 1.0, 100.0, 1e6]


@pytest.fixture
def threads():
    """Set the number of threads; restore it afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def apart(x, least):
    """The ranks of every row, those that are closer than this to a neighbour left out."""
    order = np.argsort(-x, axis=1, kind="stable")
    gaps = -np.diff(np.take_along_axis(x, order, 1)) > least
    clear = np.c_[np.ones(len(x), bool), gaps] & np.c_[gaps, np.ones(len(x), bool)]
    return np.where(clear, order, -1)


# --- the plain loop -------------------------------------------------------------------------------

SETS = {
    "hubs": lambda: hubby_scores(25, 40, 1),
    "one hub": lambda: hubby_scores(25, 40, 1) + 2 * (np.arange(40) == 3),
    "an anti-hub": lambda: hubby_scores(25, 40, 1) - 5 * (np.arange(40) == 3),
    "3 x 200": lambda: hubby_scores(3, 200, 1),
    "200 x 3": lambda: hubby_scores(200, 3, 1),
    "2 x 2": lambda: hubby_scores(2, 2, 1),
    "copies": lambda: np.tile(hubby_scores(10, 8, 1), (3, 2)),
    "identity": lambda: np.eye(20),
    "offset": lambda: 1e4 + hubby_scores(25, 40, 1),
    "texts of many levels": lambda: hubby_scores(25, 40, 1) + np.linspace(0, 50, 25)[:, None],
    "exponentials": lambda: np.exp(100 * hubby_scores(25, 40, 1)),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("what", SETS)
def test_the_whole_pipeline_is_the_plain_loop(what, unit):
    """prior="even" without the guard is NCL as published: to 1e-9 of the spread, or rounding."""
    scores = unit * SETS[what]()
    atol = 1e-9 * scores.std() + 1e-13 * np.abs(scores).max()
    for solver in ("stored", "blocks"):
        for std in (1.0, 0.15, 0.02):
            ncl = NCL(temperature_std=std, iterations=7, tolerance=0.0, solver=solver)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                found = rescore(scores, ncl=ncl, **EVEN)
            tau = std * scores.std()
            f, g = plain_sinkhorn(
                scores, tau, found.biases.iterations, b=np.full(scores.shape[1], 1.0)
            )
            assert_allclose(found.scores, scores + tau * (f[:, None] + g), rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("what", SETS)
@pytest.mark.parametrize("std", [1e-4, 0.01, 0.15, 1.0, 100.0])
def test_marginals_are_within_the_tolerance_or_a_warning_says_not(std, what, kind):
    """Sums of exp(score / tau), in float64, but for the rounding of the scores at that size."""
    scores = SETS[what]().astype(kind)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = rescore(scores, ncl=NCL(temperature_std=std), **EVEN)
    assert {w.category for w in told} <= {ConvergenceWarning}
    assert found.biases.converged == (not told)
    tau = found.biases.temperature
    largest = max(
        np.abs(np.asarray(x)).max() for x in (scores, found.biases.text, found.biases.video)
    )
    rounding = 4 * np.finfo(kind).eps * float(largest) / tau
    if rounding > 0.1:
        return  # at this temperature the scores themselves are rounded by as much
    plan = np.exp(found.scores.astype("f8") / tau)
    assert_allclose(plan.sum(1), 1, rtol=np.expm1(rounding) + 1e-9)
    if found.biases.converged:
        wanted = len(scores) / scores.shape[1]
        assert_allclose(plan.sum(0), wanted, rtol=0.1 + 2 * np.expm1(rounding))


@settings(max_examples=10)
@given(st.integers(0, 99), st.sampled_from(UNITS), st.sampled_from([0.0, -3.0, 1e4]))
def test_rankings_in_float32_are_those_in_float64(seed, unit, offset):
    """Of the same rounded scores, for pairs further apart than the rounding of what was added."""
    scores = (unit * (hubby_scores(30, 20, seed, mean=0.0, std=1.0) + offset)).astype("f4")
    ncl = NCL(iterations=10, tolerance=0.0)  # else one of them may stop a round earlier
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        single, double = (rerank(x, ncl=ncl, **EVEN) for x in (scores, scores.astype("f8")))
    slack = unit * (1e-4 + 8 * np.finfo("f4").eps * (1 + abs(offset)))
    ranks = apart(double, 2 * slack)
    assert (ranks >= 0).mean() > 0.5
    assert_array_equal(np.argsort(-single, axis=1)[ranks >= 0], ranks[ranks >= 0])


# --- layouts --------------------------------------------------------------------------------------


def mapped(x, folder):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


def frozen(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "read-only": lambda x, _: frozen(x),
    "Fortran": lambda x, _: np.asfortranarray(x),
    "turned around": lambda x, _: x[::-1, ::-1].copy()[::-1, ::-1],
    "every other": lambda x, _: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "big-endian": lambda x, _: x.astype(x.dtype.newbyteorder(">")),
    "mapped": mapped,
    "mapped, transposed": lambda x, folder: mapped(np.ascontiguousarray(x.T), folder).T,
    "unmasked": lambda x, _: np.ma.masked_invalid(x),
    "a tensor, transposed": lambda x, _: torch.from_numpy(x.T.copy()).T,
    "a negated tensor": lambda x, _: torch.complex(*[torch.from_numpy(-x)] * 2).conj().imag,
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_the_layout_of_the_input_does_not_matter(kind, layout, tmp_path):
    """To the bit, where no product of matrices takes another way; and the input is left."""
    if kind == "f2" and layout == "a negated tensor":
        pytest.skip("torch has no complex numbers of float16 parts on the CPU")
    text, video = (x.astype(kind) for x in cone_pair(60, 50, 8, 0))
    sim = (text.astype("f8") @ video.T).astype(kind)

    def laid(x):
        return LAYOUTS[layout](x, tmp_path)

    def same(found, wanted):
        found = found.numpy() if isinstance(found, torch.Tensor) else found
        assert type(found) is np.ndarray
        assert found.dtype == wanted.dtype
        atol = 1e-6 if kind == "f4" else 1e-12
        assert_allclose(found, wanted, rtol=0, atol=atol if torch.is_tensor(other) else 0)

    other = laid(sim)
    same(rerank(other, guard=False), rerank(sim, guard=False))
    assert_array_equal(np.asarray(other.resolve_neg() if torch.is_tensor(other) else other), sim)
    same(rerank(None, (laid(text), video), guard=False), rerank(None, (text, video), guard=False))
    model, again = Reranker().fit(text, video), Reranker().fit(laid(text), video)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        same(again.transform(laid(text)), model.transform(text))


def test_masked_entries_are_refused():
    """Rather than taken for numbers."""
    masked = np.ma.masked_greater(hubby_scores(9, 8, 0), 0.3)
    with pytest.raises(InputValueError, match=r"(?s)masked entries.*masked.*filled"):
        rerank(masked)


def test_a_tensor_without_numbers_is_refused():
    with pytest.raises(InputTypeError, match=r"(?s)holds no numbers.*meta"):
        rerank(torch.ones(3, 3, device="meta"))


@pytest.mark.parametrize("where", ["sim", "text", "video", "bank", "gallery", "queries"])
@settings(max_examples=8)
@given(
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.integers(0, 599),
    st.integers(0, 49),
    st.sampled_from(["f2", "f4", "f8"]),
    st.sampled_from([1 << 20, 1 << 30]),
)
def test_what_is_no_number_is_refused_by_its_place(where, bad, row, column, kind, memory):
    """In any row and column, whatever the dtype and the memory that is there."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((600, 50)).astype(kind), rng.standard_normal((50, 50)).astype(kind)
    clean = y.copy()
    x[row, column] = bad
    run = {
        "sim": lambda: rerank(x, memory=memory),
        "text": lambda: rerank(None, (x, y), memory=memory),
        "video": lambda: rerank_top((y, x), memory=memory),
        "bank": lambda: Reranker(memory=memory).fit(x, y),
        "gallery": lambda: Reranker(memory=memory).fit(y, x),
        "queries": lambda: Reranker(ncl=None, emcl=None).fit(y, clean).transform(x),
    }[where]
    with pytest.raises(InputValueError) as caught:
        run()
    assert f"{where}[{row}, {column}] = {bad}" in caught.value.received


# --- the same again -------------------------------------------------------------------------------


def runs():
    """Every way to a result, on data with hubs: name and result."""
    text, video = (x.astype("f4") for x in cone_pair(100, 80, 32, 0))
    bank = cone_pair(100, 80, 32, 0)[0][60:].astype("f4") + text[:40]
    sim = text @ video.T
    yield "sim", rerank(sim)
    yield "feats", rerank(None, (text, video))
    yield "blocks", rerank(sim, memory=1 << 20)
    yield "even", rerank(sim, **EVEN)
    found = rerank_top((text, video), 10, candidates=40)
    yield "candidates", found.videos
    yield "candidates' scores", found.scores
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        yield "bank", Reranker().fit(bank, video).transform(text)


def digests():
    return [hashlib.sha256(np.ascontiguousarray(x)).hexdigest() for _, x in runs()]


@pytest.mark.slow
def test_a_run_again_has_the_same_bits():
    """In this process and in another with as many threads."""
    here = digests()
    assert digests() == here
    code = f"import torch, sys; torch.set_num_threads({torch.get_num_threads()}); "
    code += "sys.path[:0] = ['tests', 'tests/_internal']; import test_numerics_truth as t; "
    code += "print(*t.digests())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_ranks(threads):
    """Wherever scores differ by more than 1e-5, which is nearly everywhere."""
    threads(1)
    first = dict(runs())
    demo = load_demo()
    first["demo"] = rerank(None, (demo.text[:120], demo.video[:120]))
    for count in (2, 4):
        threads(count)
        now = dict(runs())
        now["demo"] = rerank(None, (demo.text[:120], demo.video[:120]))
        for name, wanted in first.items():
            if wanted.dtype.kind == "i":
                assert (now[name] != wanted).mean() < 1e-3
                continue
            assert_allclose(now[name], wanted, rtol=0, atol=1e-5)
            ranks = apart(wanted, 2e-5)
            assert (ranks >= 0).mean() > 0.5
            order = np.argsort(-now[name], axis=1, kind="stable")
            assert_array_equal(order[ranks >= 0], ranks[ranks >= 0])
