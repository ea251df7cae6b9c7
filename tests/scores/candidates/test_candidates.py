"""Candidates: some pairs in the place of all, held against the dense way on the same data."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import cone_pair

from emcl_plugin import rerank_top, rescore
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import EmclError
from emcl_plugin.evaluation.metrics import place
from emcl_plugin.evidence.guard import stratified_folds
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.ncl import NCL, Problem
from emcl_plugin.ncl.block_kernel import BlockKernel
from emcl_plugin.ncl.candidate_kernel import CandidateKernel
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Settings
from emcl_plugin.scores import Dense, FeaturePair, Features
from emcl_plugin.scores.candidates import (
    AllPairs,
    Candidates,
    Pairs,
    SampledComplement,
    estimate_recall,
)
from emcl_plugin.scores.candidates.search import search
from emcl_plugin.scores.reductions import moments

F64 = torch.float64


def sides(n_text=40, n_video=30, seed=0, dimension=8):
    pair = cone_pair(n_text, n_video, dimension, seed)
    return tuple(Features(x, dtype=F64) for x in pair)


def dense(found):
    """The candidates' scores, and -infinity elsewhere."""
    out = torch.full(found.shape, -torch.inf, dtype=found.dtype)
    out[found.pairs.text, found.pairs.video] = found.values
    return out


# --- search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("with_faiss", [True, False])
def test_the_best_of_both_directions_and_no_others(with_faiss, monkeypatch):
    if not with_faiss:
        monkeypatch.setitem(sys.modules, "faiss", None)
    text, video = sides()
    scores = FeaturePair(text, video).dense()
    best = scores >= scores.topk(4, 1).values[:, -1:]
    best |= scores >= scores.topk(4, 0).values[-1]
    found = search(text, video, 4)
    assert_array_equal(torch.stack([found.pairs.text, found.pairs.video], 1), best.nonzero())
    assert_allclose(found.values, scores[found.pairs.text, found.pairs.video], atol=1e-12)


def test_an_index_that_is_not_known_or_not_there_is_refused(monkeypatch):
    with pytest.raises(EmclError, match="FAISS knows no such index"):
        search(*sides(), 3, index="Round")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(EmclError, match="needs FAISS"):
        search(*sides(), 3, index="HNSW8")


@pytest.mark.parametrize(
    ("index", "words"),
    [("IVF41,Flat", "training points"), ("IVF4,Flat;nprobe=0", "nprobe")],
)
@pytest.mark.filterwarnings("ignore:.*please provide at least")
def test_an_index_that_fits_the_items_badly_is_refused(index, words):
    """More clusters than items, or none of them looked at."""
    with pytest.raises(EmclError, match="FAISS cannot search like this") as caught:
        search(*sides(), 3, index=index)
    assert caught.value.received.startswith(f"{index}: ")
    assert words in caught.value.received


@pytest.mark.slow
def test_an_approximate_index_may_miss_some_and_its_recall_is_told():
    demo = load_demo()
    given_ = demo.text, demo.video
    exact, rough, fair = (
        rerank_top(given_, index=index)
        for index in ("Flat", "IVF16,Flat;nprobe=1", "IVF16,Flat;nprobe=12")
    )
    assert 0.1 < rough.coverage.recall < fair.coverage.recall <= exact.coverage.recall
    assert exact.coverage.recall > 0.99
    assert rough.coverage.pairs < exact.coverage.pairs
    padded = rough.videos == -1
    assert_array_equal(padded, np.isneginf(rough.scores))
    assert bool((np.diff(padded.astype(int), axis=1) >= 0).all())


# --- a source like the others -------------------------------------------------------------------


@given(st.integers(2, 20), st.integers(2, 20), st.integers(1, 8), st.integers(0, 5))
def test_every_view_is_the_dense_ones(n_text, n_video, k, seed):
    found = search(*sides(n_text, n_video, seed), k)
    rng = np.random.default_rng(seed)
    whole = dense(found)
    assert_array_equal(found.dense(), whole)
    assert_array_equal(found.T.dense(), whole.T)
    rows, columns = (torch.from_numpy(rng.standard_normal(n)) for n in found.shape)
    assert_allclose(found.biased(rows, columns).dense(), whole + rows[:, None] + columns)
    left, right = (torch.from_numpy(rng.standard_normal((n, 3))) for n in found.shape)
    scales = rows.exp(), columns.exp()
    expected = (whole + left @ right.T) * scales[0][:, None] * scales[1]
    assert_allclose(found.changed(left, right, *scales).dense(), expected, atol=1e-12)
    fewest = int(found.pairs.starts.diff().min())
    scores, videos = found.top(fewest)
    order = torch.sort(whole, dim=1, descending=True, stable=True)
    assert_array_equal(videos, order.indices[:, :fewest])
    assert_array_equal(scores, order.values[:, :fewest])
    assert fewest == found.fewest
    scores, videos = found.top(n_video)
    assert_array_equal(scores, order.values)
    assert_array_equal(videos, torch.where(torch.isfinite(order.values), order.indices, -1))


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 4), st.integers(0, 9))
def test_best_matches_and_ranks_are_the_dense_ones_with_ties(n_text, n_video, k, seed):
    text, video = sides(n_text, n_video, seed)
    found = search(text, video, k)
    tied = Candidates(found.pairs, (found.values * 4).round() / 4, found.all_pairs)
    lowest = torch.where(torch.isfinite(dense(tied)), dense(tied), torch.tensor(-9.0, dtype=F64))
    ours, theirs = nearest(tied), nearest(Dense(lowest, dtype=F64))
    for a, b in zip(ours.in_pairs(), theirs.in_pairs(), strict=True):
        assert_array_equal(a, b)
    assert_array_equal(ours.video_of_text, theirs.video_of_text)
    truth = GroundTruth.from_index(np.arange(n_text) % n_video, n_video)
    a, b = place(tied, truth), place(Dense(lowest, dtype=F64), truth)
    assert_array_equal(a.above, b.above)
    assert_array_equal(a.level, b.level)


@given(st.integers(2, 60), st.integers(2, 9), st.integers(1, 9), st.integers(0, 1000))
def test_partners_within_parts_are_the_dense_ones_with_ties(n_text, n_video, k, seed):
    """Where there are several texts per video."""
    found = search(*sides(n_text, n_video, seed), k)
    tied = Candidates(found.pairs, (found.values * 8).round() / 8, found.all_pairs)
    lowest = Dense(dense(tied).clamp(min=-9), dtype=F64)
    folds = stratified_folds(nearest(lowest))
    ours, theirs = (folds.partners(x, nearest(x)) for x in (tied, lowest))
    assert_array_equal(ours, theirs)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_and_spread_are_those_of_all_pairs(changed, weighted):
    text, video = sides()
    rng = np.random.default_rng(1)
    scores, of_all = FeaturePair(text, video).dense(), AllPairs(text, video)
    if changed:
        left, right = (torch.from_numpy(rng.standard_normal((n, 3))) for n in scores.shape)
        scale = [torch.from_numpy(rng.random(n) + 0.5) for n in scores.shape]
        scores = (scores + left @ right.T) * scale[0][:, None] * scale[1]
        of_all = AllPairs(text, video, left, right, *scale)
    weights = torch.from_numpy(rng.random(len(scores))) if weighted else None
    expected = moments(Dense(scores, dtype=F64), weights)
    assert_allclose(of_all.moments(weights), (expected.mean, expected.std), rtol=1e-9)
    chosen = torch.tensor([3, 0, 7])
    assert_allclose(of_all.rows(chosen), scores[chosen], atol=1e-12)
    assert_allclose(of_all.T.rows(chosen), scores.T[chosen], atol=1e-12)


# --- Sinkhorn -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.02, 1e-3])
@pytest.mark.parametrize("k", [1, 3, 30])
def test_a_sample_of_everything_makes_every_sweep_the_dense_one(tau, k):
    """Candidates and the rest together are all pairs; to 1e-9 in float64, at any temperature."""
    text, video = sides(seed=2)
    found, source = search(text, video, k), FeaturePair(text, video)
    rng = np.random.default_rng(0)
    log_a, log_w = (torch.from_numpy(rng.standard_normal(40) / 3) for _ in range(2))
    ours = CandidateKernel(found, tau, log_a, 0.9, log_w)
    theirs = BlockKernel(source, tau, log_a, 0.9, log_w)
    for _ in range(3):
        g = torch.from_numpy(rng.standard_normal(30) * 3)
        for a, b in zip(ours.sweep(g), theirs.sweep(g), strict=True):
            assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        for a, b in zip(ours._in_logarithms(g, 0.9), theirs.sweep(g), strict=True):
            assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_a_sample_of_some_is_right_on_average():
    """The estimated sum of the other videos, over samples, within 4 standard errors of the sum."""
    text, video = sides(20, 300, seed=3)
    pairs = search(text, video, 5).pairs
    bias = torch.from_numpy(np.random.default_rng(0).standard_normal(300))
    scores = FeaturePair(text, video).dense()
    rest = scores.clone()
    rest[pairs.text, pairs.video] = -torch.inf
    exact = torch.logsumexp(rest / 0.3 + bias, 1).exp()
    found = []
    for seed in range(60):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(300))
        shuffled = Features(video.rows(0, 300)[order], dtype=F64)
        place_ = torch.argsort(order)
        moved = Pairs(pairs.shape, pairs.text, place_[pairs.video])
        others = SampledComplement.sampled(moved, AllPairs(text, shuffled, sample=64).T)
        found.append(others.log_sums(bias[order], 0.3).exp())
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / 60**0.5
    assert bool(((mean - exact).abs() < 4 * error).all())
    assert bool((error < 0.1 * exact).all())


def test_biases_of_candidates_are_the_dense_ones():
    text, video = sides(120, 80, seed=4)
    found, source = search(text, video, 10), FeaturePair(text, video)
    a, b = (Problem(x, NCL(tolerance=1e-6, iterations=500)).solve() for x in (found, source))
    assert a.solver == "candidates"
    assert_allclose(a.video, b.video, atol=1e-5)
    assert_allclose(a.text, b.text, atol=1e-5)


# --- the whole ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"emcl": None}, {"prior": "gentle"}, {"guard": False}])
def test_all_pairs_as_candidates_are_the_dense_result(settings):
    demo = load_demo()
    whole = rescore(None, (demo.text, demo.video), **settings)
    given = Settings.of(**settings)
    job = Job(None, (demo.text, demo.video), given, candidates=len(demo.video))
    found = job.correct()
    scores = found.source.dense()
    assert_allclose(scores, whole.scores.astype(np.float32), atol=2e-3 * whole.score_std + 1e-3)
    assert (scores.numpy().argmax(1) == whole.scores.argmax(1)).mean() > 0.99
    assert found.emcl == whole.emcl or found.emcl.strength == whole.emcl.strength
    assert found.guard.strength == pytest.approx(whole.guard.strength, abs=0.02)


@pytest.mark.parametrize(("count", "recall"), [(100, 0.99), (30, 0.95)])
def test_few_candidates_rank_as_all_pairs_do(count, recall):
    demo = load_demo()
    right = np.arange(len(demo.video))
    whole = rescore(None, (demo.text, demo.video))
    found = rerank_top((demo.text, demo.video), 10, candidates=count)
    gain = (found.videos[:, 0] == right).mean() - (whole.scores.argmax(1) == right).mean()
    assert abs(gain) < 0.006
    assert found.prior.even == pytest.approx(whole.prior.even, abs=0.03)
    assert found.guard.strength == whole.guard.strength
    assert found.coverage.recall > recall
    assert found.coverage.left_out < 0.02
    assert 0 < found.coverage.share < 1


def test_tensors_scale_and_k():
    demo = load_demo()
    pair = torch.from_numpy(demo.text).float(), torch.from_numpy(demo.video).float()
    found = rerank_top(pair, 5)
    assert found.scores.shape == found.videos.shape == (945, 5)
    assert isinstance(found.videos, torch.Tensor)
    longer = rerank_top((7 * pair[0], pair[1]), 5)
    assert_array_equal(longer.videos, found.videos)
    assert found.to_dict()["candidates"]["texts"] == 256


def test_coverage_sees_what_is_missing():
    text, video = sides(200, 200, seed=5)
    few, many = search(text, video, 1), search(text, video, 50)
    bias = torch.zeros(200, dtype=F64)
    a, b = estimate_recall(few, bias, 0.3), estimate_recall(many, bias, 0.3)
    assert a.recall < b.recall
    assert a.left_out > b.left_out > 0
    everything = estimate_recall(search(text, video, 200), bias, 0.3)
    assert (everything.recall, everything.share) == (1, 1)
    assert everything.left_out < 1e-9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "k must be between 1"),
        ({"k": 11, "candidates": 10}, "k must be between 1"),
        ({"candidates": 0}, "k must be"),
        ({"index": "Square"}, "no such index"),
        ({"index": "IVF16,Flat;probes=1"}, "no such index"),
    ],
)
def test_wrong_input_is_refused(change, words):
    demo = load_demo()
    with pytest.raises(EmclError, match=words):
        rerank_top((demo.text, demo.video), **change)


def test_candidates_are_of_features():
    with pytest.raises(EmclError, match="candidates need embeddings"):
        Job(np.ones((3, 3)), None, candidates=2)
