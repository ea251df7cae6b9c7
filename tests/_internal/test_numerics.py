"""Degenerate and extreme input: a finite result of the kind of the input, or a clear error."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from emcl_plugin import EMCL, NCL, Reranker, rerank, rerank_top, rescore
from emcl_plugin.emcl import PRESETS
from emcl_plugin.errors import EmclError, EmclWarning, InputValueError

KINDS = ("float16", "bfloat16", "float32", "float64")
SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (2, 3), (3, 2), (3, 40), (40, 3), (12, 12)]
seeds = st.integers(0, 99)


def several(x, rng):
    """Rows of which each is there about three times."""
    return x[rng.integers(0, max(1, len(x) // 3), len(x))]


SCORES = {
    "random": lambda s, _: s,
    "one number": lambda s, _: np.full_like(s, 0.3),
    "zeros": lambda s, _: 0 * s,
    "equal rows": lambda s, _: np.repeat(s[:1], len(s), 0),
    "equal columns": lambda s, _: np.repeat(s[:, :1], s.shape[1], 1),
    "identity": lambda s, _: np.eye(*s.shape),
    "one entry up": lambda s, _: np.where(np.arange(s.size).reshape(s.shape) == 0, 1.0, 0.0),
    "one entry down": lambda s, _: np.where(np.arange(s.size).reshape(s.shape) == 0, -1.0, 0.0),
    "one entry far up": lambda s, _: np.where(np.arange(s.size).reshape(s.shape) == 0, 3e4, s),
    "hub": lambda s, _: s + 20 * (np.arange(s.shape[1]) == 0),
    "far hub": lambda s, _: s + 3e4 * (np.arange(s.shape[1]) == 0),
    "anti-hub": lambda s, _: s - 1000 * (np.arange(s.shape[1]) == 0),
    "two levels": lambda s, _: (s > 0) * 1.0,
    "copies": lambda s, rng: several(several(s, rng).T, rng).T,
    "logits": lambda s, _: 100 * s,
    "exponentials": lambda s, _: np.exp(2 * s),
    "offset": lambda s, _: 1e4 + 0.01 * s,
    "texts of many levels": lambda s, _: s + np.linspace(0, 3e4, len(s))[:, None],
}
FEATURES = {
    "random": lambda t, v, _: (t, v),
    "one point": lambda t, v, _: (0 * t + v[0], 0 * v + v[0]),
    "two opposite points": lambda t, v, _: (0 * t - v[0], 0 * v + v[0]),
    "equal texts": lambda t, v, _: (0 * t + t[0], v),
    "equal videos": lambda t, v, _: (t, 0 * v + v[0]),
    "orthogonal": lambda t, v, _: (np.eye(len(t), 40), np.eye(len(v), 40)),
    "apart": lambda t, v, _: (np.c_[t, 0 * t], np.c_[0 * v, v]),
    "a hub": lambda t, v, _: (t + 5, np.r_[v[:1] + 50, v[1:]]),
    "an anti-hub": lambda t, v, _: (t + 3, np.r_[0 * v[:1] - 5, v[1:]]),
    "copies": lambda t, v, rng: (several(t, rng), several(v, rng)),
    "a ray": lambda t, v, _: (np.abs(t[:, :1]) * np.ones(6) + 1, np.abs(v[:, :1]) * np.ones(6) + 1),
    "one dimension": lambda t, v, _: (t[:, :1], v[:, :1]),
    "close together": lambda t, v, _: (1 + 1e-5 * t, 1 + 1e-5 * v),
}  # fmt: skip
EXTREME = [
    NCL(temperature_std=1e-4),
    NCL(temperature_std=1e-4, rho=0.01),
    NCL(temperature_std=1e-4, solver="blocks", products="bfloat16"),
    NCL(temperature_std=1e-4, solver="stored", storage="bfloat16"),
    NCL(temperature_std=1e-3, solver="pot", iterations=20),
    NCL(temperature_std=100.0),
    NCL(temperature_std=100.0, rho=0.01, solver="blocks"),
    NCL(temperature_std=100.0, solver="stored", storage="bfloat16"),
    NCL(iterations=1, tolerance=0.0),
    *(NCL(temperature=t) for t in (1e-300, 1e-44, 1e-30, 1e30, 1e300)),
    *(NCL(logit_scale=x) for x in (1e-308, 1e30, 1e308)),
    *(NCL(temperature_std=x, solver=s) for x in (1e-300, 1e300) for s in ("blocks", "pot")),
]
PRIORS = st.sampled_from(["auto", "even", "gentle", "off"])


def arrays(kind, *given):
    """In this dtype; bfloat16, which NumPy lacks, as tensors."""
    if kind == "bfloat16":
        return [torch.tensor(x).bfloat16() for x in given]
    return [x.astype(kind) for x in given]


def scores_of(what, size, seed=0):
    rng = np.random.default_rng(seed)
    return SCORES[what](rng.standard_normal(size), rng)


def features_of(what, size, seed=0):
    rng = np.random.default_rng(seed)
    return FEATURES[what](*(rng.standard_normal((n, 6)) for n in size), rng)


def plain(x):
    return x.double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, "f8")


def survived(work):
    """What ``work`` returns, or None after an error of this package; no other warning passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", EmclWarning)
        try:
            return work()
        except EmclError as error:
            told = error.problem, error.received, error.remedy
    assert all(told)
    return None


def check(found, like, shape):
    """Finite, of the shape, library and dtype that came in; the report is finite, too."""
    assert type(found.scores) is type(like)
    assert found.scores.dtype == like.dtype
    assert tuple(found.scores.shape) == shape
    assert np.isfinite(plain(found.scores)).all()
    json.dumps(found.to_dict(), allow_nan=False)
    for biases in (found.biases, *(vars(found.probes).values() if found.probes else ())):
        if biases is not None:
            assert torch.isfinite(biases.text).all()
            assert torch.isfinite(biases.video).all()


# --- degenerate sets, any option ------------------------------------------------------------------


@pytest.mark.parametrize("what", SCORES)
@settings(max_examples=5)
@given(st.sampled_from(SIZES), st.sampled_from(KINDS), PRIORS, st.booleans(), seeds)
def test_degenerate_scores_give_finite_ones_or_a_reason(what, size, kind, prior, guard, seed):
    (sim,) = arrays(kind, scores_of(what, size, seed))
    before = plain(sim).copy()
    found = survived(lambda: rescore(sim, prior=prior, guard=guard))
    assert_array_equal(plain(sim), before)
    if found is not None:
        check(found, sim, size)
    assert found is not None or not guard  # by default there is always a result


@pytest.mark.parametrize("what", FEATURES)
@settings(max_examples=5)
@given(
    st.sampled_from(SIZES),
    st.sampled_from(KINDS),
    st.sampled_from(["auto", *PRESETS, None, EMCL(strength=-1.0), EMCL(start="gaussian", beta=9)]),
    st.booleans(),
    st.sampled_from(["cosine", "dot"]),
    st.booleans(),
    seeds,
)
def test_degenerate_features_do_so_too(what, size, kind, emcl, guard, metric, both, seed):
    """Alone, and beside a similarity of their own."""
    feats = arrays(kind, *features_of(what, size, seed))
    (sim,) = arrays(kind, scores_of("random", size, seed)) if both else [None]
    found = survived(lambda: rescore(sim, tuple(feats), emcl=emcl, guard=guard, metric=metric))
    if found is not None:
        check(found, feats[0], size)
    elif guard:  # EMCL as requested has left nothing to rank
        assert emcl not in ("auto", None)
        left = rescore(sim, tuple(feats), emcl=emcl, ncl=None, guard=False, metric=metric).scores
        assert_array_equal(plain(left), plain(left)[0, 0])


@pytest.mark.parametrize("ncl", EXTREME, ids=lambda x: f"{x.solver}-{x.temperature_std:g}")
@settings(max_examples=4)
@given(
    st.sampled_from(sorted(SCORES)),
    st.sampled_from(SIZES[3:]),
    st.sampled_from(["float32", "float64"]),
    PRIORS,
    st.booleans(),
    st.sampled_from([1.0, 1e-30, 1e-6, 1e6, 1e30]),
)
def test_extreme_settings_give_finite_scores_or_a_reason(ncl, what, size, kind, prior, guard, unit):
    (sim,) = arrays(kind, unit * scores_of(what, size))
    found = survived(lambda: rescore(sim, ncl=ncl, prior=prior, guard=guard))
    if found is not None:
        check(found, sim, size)


@pytest.mark.parametrize("what", FEATURES)
@settings(max_examples=3)
@given(
    st.sampled_from([*SIZES, (60, 60)]),
    st.sampled_from(KINDS),
    st.booleans(),
    st.sampled_from(["cosine", "dot"]),
    st.booleans(),
    seeds,
)
def test_a_degenerate_bank_teaches_finite_biases_or_says_why_not(
    what, size, kind, guard, metric, dual, seed
):
    """Fit, transform, search, growth, drift and export."""
    bank, gallery = features_of(what, size, seed)
    queries = np.random.default_rng(seed).standard_normal((4, bank.shape[1]))
    bank, gallery, queries = arrays(kind, bank, gallery, queries)
    model = Reranker(guard=guard, metric=metric)
    beside = gallery if dual else None
    if survived(lambda: model.fit(bank, gallery, gallery_bank=beside)) is None:
        assert not guard
        return
    json.dumps(model.report_.to_dict(), allow_nan=False)
    out = survived(lambda: model.transform(queries))
    assert type(out) is type(queries)
    assert (out.dtype, tuple(out.shape)) == (queries.dtype, (4, size[1]))
    best, where = survived(lambda: model.search(queries, 1))
    assert_array_equal(plain(best)[:, 0], plain(out).max(1))
    assert_array_equal(plain(out)[np.arange(4), plain(where)[:, 0].astype(int)], plain(best)[:, 0])
    survived(lambda: model.partial_fit(gallery[:1], bank[:1]))
    for x in (
        out,
        model.export_vectors(),
        model.drift_,
        survived(lambda: model.transform(queries)),
    ):
        assert np.isfinite(plain(x)).all()


@pytest.mark.parametrize("what", FEATURES)
@settings(max_examples=3)
@given(st.sampled_from(SIZES), st.sampled_from(KINDS), st.booleans(), st.integers(1, 5), seeds)
def test_degenerate_candidates_are_ranked_or_the_reason_is_told(what, size, kind, guard, k, seed):
    """Finite, falling, and no video twice."""
    feats = arrays(kind, *features_of(what, size, seed))
    found = survived(lambda: rerank_top(tuple(feats), k, candidates=2 * k, guard=guard))
    if found is None:
        assert not guard
        return
    check(found, feats[0], (size[0], min(k, size[1])))
    assert (np.diff(plain(found.scores)) <= 0).all()
    assert all(len(set(row)) == len(row) for row in plain(found.videos))


# --- the ends of the range ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "unit", "std", "words"),
    [
        ("float16", 2e4, 5.0, "do not fit into float16.*float32"),
        ("float32", 1.1e38, 0.15, "do not fit into float32.*float64"),
        ("float32", 1.1e38, 5.0, "leaves the range of float32.*standard deviation"),
        ("float32", 1e-40, 0.15, "leaves the range of float32.*standard deviation"),
        ("float64", 1e300, 0.15, "too large for their spread"),
    ],
)
@pytest.mark.parametrize("solver", ["stored", "blocks"])
def test_scores_at_the_ends_of_the_range_are_refused(kind, unit, std, words, solver):
    """What rounding would make of them is no result: not infinity, and not zero."""
    scores = unit * np.clip(scores_of("hub", (12, 12)), -3, 3)
    settings = {"ncl": NCL(temperature_std=std, solver=solver), "guard": False, "prior": "even"}
    with pytest.raises(InputValueError, match=f"(?s){words}"):
        rerank(scores.astype(kind), **settings)


@pytest.mark.parametrize("unit", [1e18, 1e30])
@pytest.mark.parametrize(
    "run",
    [
        lambda t, v: rerank(None, (t, v), metric="dot"),
        lambda t, v: rerank(None, (t, v), metric="dot", emcl="clip2video", ncl=None),
        lambda t, v: Reranker(metric="dot").fit(t, v),
        lambda t, v: rerank_top((t, v), 2, metric="dot"),
        lambda t, v: rerank_top((t.astype("f8"), v), 2, metric="dot"),
        lambda t, v: rerank(t @ (v / 1e30).T, (t, v), metric="dot"),
    ],
)
def test_vectors_too_long_for_inner_products_are_refused_by_their_place(run, unit):
    """Their squares overflow float32, which FAISS uses even for float64."""
    text, video = (x.astype("f4") for x in features_of("random", (9, 8)))
    text[5] *= unit
    with pytest.raises(InputValueError, match=r"(?s)too long for inner products.*\[5\].*cosine"):
        run(text, video)


def test_a_query_whose_scores_overflow_is_refused():
    text, video = (x.astype("f4") for x in features_of("random", (60, 50)))
    model = Reranker(metric="dot").fit(text, 1e10 * video)
    with pytest.raises(InputValueError, match="do not fit into float32"):
        model.transform(-1e30 * text[:3])


@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.EmclWarning")
@pytest.mark.parametrize("solver", ["auto", "blocks", "pot"])
@pytest.mark.parametrize("temperature", [1e-300, 1e-44, 1e300])
def test_a_temperature_that_no_number_holds_is_refused(temperature, solver):
    sim = scores_of("random", (12, 9)).astype("f4")
    with pytest.raises(InputValueError, match=r"(?s)leaves the range of float32.*1e[-+]"):
        rerank(sim, ncl=NCL(temperature=temperature, solver=solver), guard=False)


@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.EmclWarning")
def test_pot_says_where_masses_are_too_small_for_it():
    """At a small temperature some videos are asked for so seldom that float32 holds no share."""
    ncl = NCL(temperature_std=0.01, solver="pot")
    with pytest.raises(InputValueError, match=r'(?s)leaves the range.*solver="pot" out'):
        rerank(scores_of("random", (3, 40)).astype("f4"), ncl=ncl, guard=False)


@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.RepeatedItemsWarning")
@pytest.mark.parametrize("ncl", ["auto", None])
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("dimension", [1, 6])
def test_emcl_does_not_take_away_all_there_is(dimension, metric, kind, ncl):
    """On one line through 0 the leading direction is all; without it every score is the best."""
    rng = np.random.default_rng(0)
    line = rng.standard_normal(dimension)
    text = (rng.standard_normal((30, 1)) * line).astype(kind)
    video = ((rng.random((20, 1)) + 0.1) * line).astype(kind)
    for found in (
        rescore(None, (text, video), metric=metric, ncl=ncl),
        rerank_top((text, video), 20, metric=metric, ncl=ncl),
    ):
        assert found.emcl.strength != -1
        assert found.scores.std() > 0.1 * found.score_std


@pytest.mark.parametrize("spread", [0.1, 0.01])
def test_candidates_of_vectors_close_together_have_the_spread_of_all_pairs(spread):
    """Their scores differ by 1e-3 or 1e-5 of themselves; the spread is found to 1 in 1000."""
    text, video = (x.astype("f4") for x in features_of("random", (80, 60)))
    feats = 1 + spread * text, 1 + spread * video
    exact = rescore(None, tuple(x.astype("f8") for x in feats)).score_std
    assert_allclose(rerank_top(feats, 5).score_std, exact, rtol=1e-3)


def test_candidates_that_an_index_did_not_find_are_minus_infinity_in_float16_too():
    feats = tuple(x.astype("f2") for x in features_of("random", (60, 50)))
    found = rerank_top(feats, 40, candidates=40, index="IVF8,Flat;nprobe=2")
    missing = found.videos < 0
    assert missing.any()
    assert_array_equal(np.isneginf(found.scores), missing)
