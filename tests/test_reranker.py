"""The front door: what `rerank`, `rescore` and `Reranker` promise, and what they refuse."""

from __future__ import annotations

import warnings
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

import emcl_plugin
from emcl_plugin import EMCL, NCL, Reranker, rerank, rescore
from emcl_plugin.errors import (
    EmclError,
    InputTypeError,
    InputValueError,
    MemoryBudgetError,
    NotFittedError,
    RepeatedItemsWarning,
    ScaleWarning,
)
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Resources


def hubby(n_text: int = 60, n_video: int = 60, dim: int = 16, seed: int = 0, noise: float = 0.6):
    """Paired features with hubs: everything leans towards one direction, some videos more."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(dim)
    video = rng.standard_normal((n_video, dim)) + rng.uniform(0, 1.5, (n_video, 1)) * shared
    text = video[np.arange(n_text) % n_video] + noise * rng.standard_normal((n_text, dim))
    return text + shared, video


def cosine(text, video):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video)]
    return unit[0] @ unit[1].T


def test_public_names_are_there_and_documented():
    for name in emcl_plugin.__all__:
        assert getattr(emcl_plugin, name) is not None
        if name != "__version__":
            assert getattr(emcl_plugin, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = emcl_plugin.nothing


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("what", ["sim", "feats", "both"])
def test_same_library_dtype_and_device_come_back_and_input_is_untouched(library, dtype, what):
    text, video = (x.astype(dtype) for x in hubby())
    sim = cosine(text.astype("f8"), video.astype("f8")).astype(dtype)
    if library == "torch":
        text, video, sim = (torch.from_numpy(x) for x in (text, video, sim))
    copies = [x.copy() if library == "numpy" else x.clone() for x in (text, video, sim)]
    out = rerank(None if what == "feats" else sim, None if what == "sim" else (text, video))
    assert type(out) is type(sim)
    assert out.dtype == sim.dtype
    assert tuple(out.shape) == (60, 60)
    for before, after in zip(copies, (text, video, sim), strict=True):
        assert_array_equal(np.asarray(before), np.asarray(after))


def test_bfloat16_and_gradients_are_accepted():
    text, video = (torch.from_numpy(x).bfloat16().requires_grad_() for x in hubby())
    out = rerank(None, (text, video))
    assert out.dtype == torch.bfloat16
    assert not out.requires_grad


def test_helps_where_there_are_hubs():
    text, video = hubby(200, 200, noise=0.9)
    before, after = cosine(text, video), rerank(None, (text, video))
    right = [
        [(x.argmax(axis) == np.arange(200)).mean() for axis in (0, 1)] for x in (before, after)
    ]
    gain = np.subtract(right[1], right[0])
    assert gain.mean() > 0.1
    assert gain.min() > 0


def test_result_is_scores_plus_the_reported_biases():
    sim = cosine(*hubby()).astype("float64")
    result = rescore(sim)
    assert result.guard.applied
    expected = sim + result.biases.text.numpy()[:, None] + result.biases.video.numpy()
    assert_allclose(result.scores, expected, rtol=1e-12)
    assert result.protocol == "transductive"
    assert result.biases.converged
    assert any("2212.11790" in line for line in result.citations)
    assert result.emcl is None  # no features, no EMCL


def test_result_is_frozen():
    result = rescore(cosine(*hubby()))
    with pytest.raises(FrozenInstanceError):
        result.scores = None


def test_scores_are_log_probabilities_times_temperature():
    sim = cosine(*hubby()).astype("float64")
    result = rescore(sim, ncl=NCL(tolerance=1e-4, iterations=5000), prior="even")
    plan = np.exp(result.scores / result.biases.temperature)
    assert_allclose(plan.sum(1), 1, rtol=1e-9)
    assert_allclose(plan.sum(0), 1, rtol=1.1e-4)


def test_no_hubs_returns_the_input_bit_for_bit():
    sim = np.eye(30, dtype="float32") * 0.5 + 0.1
    result = rescore(sim)
    assert not result.guard.applied
    assert "unchanged" in result.guard.reason
    assert_array_equal(result.scores, sim)


def test_guard_can_be_switched_off():
    sim = np.eye(30, dtype="float32") * 0.5 + np.random.default_rng(0).random((30, 30), "float32")
    sim[np.arange(30), np.arange(30)] += 1
    assert_array_equal(rerank(sim), sim)
    result = rescore(sim, guard=False)
    assert result.guard.applied
    assert not result.guard.enabled
    assert np.abs(result.scores - sim).max() > 1e-3


@pytest.mark.slow
@given(seed=st.integers(0, 50), n_text=st.integers(2, 80), n_video=st.integers(2, 80))
def test_order_of_items_does_not_matter(seed, n_text, n_video):
    rng = np.random.default_rng(seed)
    text, video = hubby(n_text, n_video, seed=seed)
    rows, columns = rng.permutation(n_text), rng.permutation(n_video)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", emcl_plugin.EmclWarning)
        plain = rerank(None, (text, video))
        mixed = rerank(None, (text[rows], video[columns]))
    assert_allclose(mixed, plain[np.ix_(rows, columns)], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@given(scale=st.sampled_from([1e-6, 1e-3, 20.0, 100.0, 1e6]), seed=st.integers(0, 20))
def test_logit_scale_and_feature_length_do_not_matter(scale, seed):
    text, video = hubby(30, 30, seed=seed)
    sim = cosine(text, video)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", emcl_plugin.EmclWarning)
        assert_allclose(rerank(scale * sim) / scale, rerank(sim), rtol=1e-6, atol=1e-9)
        assert_allclose(
            rerank(None, (scale * text, video)), rerank(None, (text, video)), rtol=1e-6, atol=1e-9
        )


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1 << 20, 1 << 22, 1 << 30])
def test_memory_budget_changes_no_result(memory):
    text, video = hubby(600, 500)
    assert_allclose(
        rerank(None, (text, video), memory=memory),
        rerank(None, (text, video)),
        rtol=1e-9,
        atol=1e-9,
    )


def test_output_larger_than_memory_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr("emcl_plugin.pipeline.job.available", lambda _: 1000)
    with pytest.raises(MemoryBudgetError, match="--output"):
        rerank(cosine(*hubby()), memory=1 << 20)


def test_both_inputs_correct_the_given_similarity():
    """With its own features' cosine as similarity, only EMCL's renormalisation is missing."""
    text, video = hubby(100, 100)
    sim = cosine(text, video)
    config = EMCL(strength=-0.5, renormalize=False)
    from_features = rerank(None, (text, video), emcl=config)
    from_both = rerank(100 * sim + 3, (text, video), emcl=config)
    assert_allclose(
        from_both - from_both.mean(), 100 * (from_features - from_features.mean()), atol=1e-6
    )


def test_features_of_other_items_leave_emcl_out_with_a_warning():
    text, video = hubby()
    with pytest.warns(ScaleWarning, match="do the features belong"):
        result = rescore(-cosine(text, video), (text, video))
    assert result.emcl.strength == 0
    assert "left out" in result.emcl.reason


@pytest.mark.parametrize("name", ["clip2video", "emcl-net", "mmt", "mmt-lsmdc"])
def test_presets_by_name_equal_the_published_formula(name):
    text, video = hubby()
    result = rescore(None, (text, video), emcl=name, ncl=None, guard=False)
    assert result.emcl.reason == "given"
    assert result.emcl.strength > 0
    assert result.emcl.effective_rank <= 2 + 1e-9  # the released start has two distinct bases
    assert result.biases is None


def test_strength_is_chosen_from_candidates_that_contain_zero():
    result = rescore(None, hubby(), ncl=None)
    tried = dict(result.emcl.tried)
    assert set(tried) == set(EMCL().strengths)
    assert tried[result.emcl.strength] == max(tried.values())


def test_repeated_texts_are_said_where_each_counts():
    """With the even prior; otherwise they count once and there is nothing to say."""
    text, video = hubby()
    text = np.vstack([text, 2 * text[:5]])
    with pytest.warns(RepeatedItemsWarning, match="5 of the texts"):
        result = rescore(None, (text, video), prior="even")
    assert (result.repeated_texts, result.repeated_videos) == (5, 0)
    for prior in ("auto", "gentle"):
        assert rescore(None, (text, video), prior=prior).repeated_texts == 5  # warnings are errors


@pytest.mark.parametrize("prior", ["auto", "even", "gentle", "off"])
def test_repeated_videos_are_said(prior):
    text, video = hubby()
    video = np.vstack([video, 2 * video[:5]])
    with pytest.warns(RepeatedItemsWarning, match="5 of the videos"):
        result = rescore(None, (text, video), prior=prior)
    assert (result.repeated_texts, result.repeated_videos) == (0, 5)


@pytest.mark.parametrize(
    "sim",
    [
        np.array([[0.1, 0.9, 0.3]]),
        np.array([[0.1], [0.9], [0.3]]),
        np.array([[0.7]]),
        np.full((4, 5), 0.25),
    ],
    ids=["one text", "one video", "one of each", "all equal"],
)
def test_too_little_to_normalise_comes_back_unchanged(sim):
    result = rescore(sim)
    assert_array_equal(result.scores, sim)
    assert not result.guard.applied
    with pytest.raises(InputValueError):
        rescore(sim, guard=False)


T, V = hubby(5, 6)
NAN = np.where(np.arange(30).reshape(5, 6) == 20, np.nan, 1.0)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({}, InputValueError, "nothing to re-score"),
        ({"sim": [[1.0, 2.0]]}, InputTypeError, "not an array"),
        ({"sim": (T, V)}, InputTypeError, "embeddings come second"),
        ({"sim": np.ones(5)}, InputValueError, "two dimensions"),
        ({"sim": np.ones((2, 3, 4))}, InputValueError, "pool frame or token"),
        ({"sim": np.ones((0, 4))}, InputValueError, "empty"),
        ({"sim": np.ones((3, 4), int)}, InputTypeError, "astype"),
        ({"sim": np.ones((3, 4), complex)}, InputTypeError, "complex128"),
        ({"sim": np.array([["a", "b"]])}, InputTypeError, "floating-point"),
        ({"sim": torch.ones(3, 4).to_sparse()}, InputTypeError, "to_dense"),
        ({"sim": NAN}, InputValueError, r"sim\[3, 2\] = nan"),
        ({"sim": np.where(np.isnan(NAN), -np.inf, 1)}, InputValueError, r"\[3, 2\] = -inf"),
        ({"feats": (T, np.where(np.arange(6)[:, None] == 4, np.nan, V))}, InputValueError,
         r"video\[4, 0\] = nan"),
        ({"feats": (T, V * (np.arange(6) != 2)[:, None])}, InputValueError, r"video\[2\]"),
        ({"feats": (T, V[:, :7])}, InputValueError, "different dimensions"),
        ({"feats": T}, InputTypeError, r"pair \(text, video\)"),
        ({"feats": (T, "v.npy")}, InputTypeError, "video is not an array"),
        ({"sim": np.ones((6, 5)), "feats": (T, V)}, InputValueError, "video x text"),
        ({"sim": np.ones((5, 5)), "feats": (T, V)}, InputValueError, "shapes do not agree"),
        ({"feats": (T, V), "metric": "l2"}, InputValueError, "metric"),
        ({"feats": (T, V), "emcl": "fast"}, InputValueError, "clip2video"),
        ({"feats": (T, V), "emcl": 3}, InputTypeError, "EMCL"),
        ({"feats": (T, V), "ncl": "fast"}, InputTypeError, "NCL"),
        ({"feats": (T, V), "device": "tpu9"}, InputValueError, "device"),
        ({"feats": (T, V), "memory": 10}, InputValueError, "1 MiB"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_problem_received_and_remedy(arguments, kind, words):
    with pytest.raises(kind, match=words) as caught:
        rescore(**arguments)
    assert isinstance(caught.value, EmclError)
    assert isinstance(caught.value, ValueError | TypeError)
    assert caught.value.problem
    assert caught.value.received
    assert caught.value.remedy


def test_scores_that_overflow_float16_are_refused():
    sim = (60000 * cosine(*hubby())).astype("float16")
    with pytest.raises(InputValueError, match="float16"):
        rerank(sim, ncl=NCL(temperature=20000.0), guard=False)


def test_temperature_out_of_proportion_is_said():
    with pytest.warns(ScaleWarning, match="logit scale"):
        rerank(1e6 * cosine(*hubby()), ncl=NCL(temperature=0.01, iterations=1, tolerance=1e9))


def test_estimator_conventions():
    model = Reranker(emcl=None, ncl=NCL(rho=0.9))
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(guard=False) is model
    assert model.get_params()["guard"] is False
    assert repr(Reranker()) == "Reranker()"
    assert repr(Reranker(guard=False)) == "Reranker(guard=False)"
    with pytest.raises(InputValueError, match="no such setting"):
        model.set_params(speed=3)
    with pytest.raises(NotFittedError, match="call fit first"):
        _ = model.report_
    assert not hasattr(model, "report_")


def test_fit_transform_equals_rerank():
    text, video = hubby()
    model = Reranker()
    assert_array_equal(model.fit_transform(text, video), rerank(None, (text, video)))
    assert model.report_.guard.applied


def test_progress_is_called_to_the_end():
    calls = []
    rerank(None, hubby(), progress=lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"agreement", "sinkhorn"}
    assert all(0 < done <= total for _, done, total in calls)


def test_plan_stores_what_fits():
    text, video = hubby(600, 500)
    assert Job(None, (text, video), resources=Resources(memory=1 << 30)).plan.store_scores
    tight = Job(None, (text, video), resources=Resources(memory=1 << 20)).plan
    assert not tight.store_kernel
    assert not tight.store_scores
    assert tight.held == 0
    assert tight.seconds(torch.device("cpu"), torch.float32) > 0
