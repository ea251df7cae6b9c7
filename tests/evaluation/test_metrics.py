"""Metrics against counting by hand, SciPy, scikit-learn and ir-measures."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, RR, Success, nDCG
from numpy.testing import assert_allclose, assert_array_equal
from oracles import plain_ranks
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, ndcg_score

from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.evaluation.metrics import evaluate, is_measure, place
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.scores import Dense, FeaturePair, Features

seeds = st.integers(0, 10_000)


def tied_scores(shape, seed):
    """Scores from four values, so that most of them are tied."""
    return np.random.default_rng(seed).integers(0, 4, shape).astype(float)


def dense(x, memory=None):
    return Dense(x, dtype=torch.float64, memory=memory)


def random_truth(shape, seed, graded=False):
    """Between one and eight right items for most queries, none for some."""
    rng = np.random.default_rng(seed)
    right = rng.random(shape) < 4 / shape[1]
    right[0, 0] = True
    grade = rng.integers(1, 4, shape) if graded else np.ones(shape)
    pairs = np.argwhere(right)
    return GroundTruth.from_pairs(pairs, shape, grade[right]), np.where(right, grade, 0)


@given(st.integers(1, 15), seeds, st.booleans(), st.integers(1, 3000))
def test_one_to_one_ranks_are_those_of_rankdata(n, seed, tied, memory):
    """Both directions, average ranks of ties, any block size."""
    x = np.random.default_rng(seed).standard_normal((n, n))
    x = tied_scores((n, n), seed) if tied else x
    found = evaluate(dense(x, memory))
    assert_array_equal(found.text_to_video.ranks(), np.diag(rankdata(-x, axis=1)))
    assert_array_equal(found.video_to_text.ranks(), np.diag(rankdata(-x, axis=0)))


@given(st.tuples(st.integers(1, 30), st.integers(1, 12)), seeds, st.booleans())
def test_many_to_one_ranks_are_those_counted_by_hand(shape, seed, tied):
    """Several right texts per video: its best one counts; a video without text is left out."""
    rng = np.random.default_rng(seed)
    x = tied_scores(shape, seed) if tied else rng.standard_normal(shape)
    index = rng.integers(0, shape[1], shape[0])
    found = evaluate(dense(x), GroundTruth.from_index(index, shape[1]))
    text, video = plain_ranks(x, index)
    assert_array_equal(found.text_to_video.ranks(), text)
    assert_array_equal(found.video_to_text.ranks(), video[~np.isnan(video)])


@given(seeds, st.booleans(), st.booleans())
def test_ap_and_ndcg_are_scikit_learns(seed, tied, graded):
    """Per query, with ties and with grades, many to many; at a cut for nDCG."""
    shape = (9, 40)
    x = tied_scores(shape, seed) if tied else np.random.default_rng(seed).standard_normal(shape)
    truth, relevance = random_truth(shape, seed, graded)
    found = place(dense(x), truth)
    queries = found.queries
    wanted = [average_precision_score(relevance[i] > 0, x[i]) for i in queries]
    assert_allclose(found.values("mAP"), wanted, rtol=1e-12)
    for name, cut in (("nDCG", None), ("nDCG@5", 5), ("nDCG@10", 10)):
        wanted = [ndcg_score(relevance[[i]], x[[i]], k=cut) for i in queries]
        assert_allclose(found.values(name), wanted, rtol=1e-12)


@given(seeds)
def test_all_are_those_of_ir_measures_where_nothing_is_tied(seed):
    shape = (11, 50)
    x = np.random.default_rng(seed).standard_normal(shape)
    truth, relevance = random_truth(shape, seed)
    qrels = [
        ir_measures.Qrel(str(i), str(j), int(relevance[i, j]))
        for i, j in zip(truth.query, truth.item, strict=True)
    ]
    run = [ir_measures.ScoredDoc(str(i), str(j), x[i, j]) for i, j in np.ndindex(shape)]
    theirs = ir_measures.calc_aggregate(
        [AP, AP @ 5, RR, nDCG, nDCG @ 10, Success @ 1, Success @ 10], qrels, run
    )
    found = place(dense(x), truth)
    for ours, measure in (
        ("mAP", AP), ("mAP@5", AP @ 5), ("MRR", RR), ("nDCG", nDCG), ("nDCG@10", nDCG @ 10),
    ):  # fmt: skip
        assert_allclose(found.metric(ours), theirs[measure], rtol=1e-6)
    assert_allclose(found.metric("R@1"), 100 * theirs[Success @ 1], rtol=1e-12)
    assert_allclose(found.metric("R@10"), 100 * theirs[Success @ 10], rtol=1e-12)


def test_medians_means_and_the_geometric_mean():
    x = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    found = place(dense(x), GroundTruth.diagonal((3, 3)))
    assert found.ranks().tolist() == [1, 2, 3]
    assert found.metric("MdR") == 2
    assert found.metric("MnR") == 2
    assert_allclose(found.metric("GM"), (100 / 3 * 100 * 100) ** (1 / 3))


@given(seeds, st.booleans(), st.sampled_from(["best", "mean", "worst"]))
def test_several_right_items_by_their_best_mean_or_worst(seed, tied, several):
    """Each right item ranked among the wrong ones alone, by SciPy."""
    shape = (6, 30)
    x = tied_scores(shape, seed) if tied else np.random.default_rng(seed).standard_normal(shape)
    truth, relevance = random_truth(shape, seed)
    found = place(dense(x), truth, several)
    wanted = []
    for i in found.queries:
        wrong = x[i][relevance[i] == 0]
        ranks = [rankdata(-np.append(wrong, x[i, j]))[-1] for j in np.flatnonzero(relevance[i])]
        wanted.append({"best": min, "mean": np.mean, "worst": max}[several](ranks))
    assert_allclose(found.ranks(), wanted)


def test_a_constant_matrix_earns_an_average_rank():
    """Giving every pair the same score must not look perfect."""
    found = evaluate(dense(np.zeros((5, 5))))
    assert_array_equal(found.text_to_video.ranks(), np.full(5, 3.0))
    assert found.text_to_video.metric("R@1") == 0


@given(seeds, st.integers(0, 4))
def test_rounding_changes_no_count_of_queries(seed, digits):
    """Coarse scores make ties, never more or fewer queries."""
    x = np.random.default_rng(seed).standard_normal((12, 12)).round(digits)
    found = evaluate(dense(x))
    assert len(found.text_to_video.ranks()) == len(found.video_to_text.ranks()) == 12
    assert (found.text_to_video.ranks() >= 1).all()
    assert (found.text_to_video.ranks() <= 12).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad):
    """Even where no right pair stands: a failed model must not score."""
    x = np.zeros((4, 4))
    x[2, 3] = bad
    with pytest.raises(InputValueError, match=r"\[2, 3\]"):
        evaluate(dense(x))


def test_masked_queries_are_left_out_and_counted():
    x = np.eye(4)
    truth = GroundTruth.diagonal((4, 4)).keep_queries([1, 0, 1, 1])
    facts = evaluate(dense(x), truth).to_dict()["text -> video"]
    assert (facts["queries"], facts["left_out"], facts["R@1"]) == (3, 1, 100.0)


def test_features_and_their_product_give_the_same():
    rng = np.random.default_rng(0)
    text, video = rng.standard_normal((50, 8)), rng.standard_normal((50, 8))
    kwargs = {"metric": "dot", "dtype": torch.float64, "memory": 4000}
    pair = FeaturePair(Features(text, **kwargs), Features(video, **kwargs), memory=4000)
    assert evaluate(pair).to_dict() == evaluate(dense(text @ video.T)).to_dict()


def test_no_right_item_at_all_is_said():
    truth = GroundTruth.diagonal((3, 3)).keep_queries([0, 0, 0])
    with pytest.raises(InputValueError, match="no query has a right item"):
        place(dense(np.eye(3)), truth).metric("R@1")


@pytest.mark.parametrize("name", ["R", "R@", "R@0", "recall", "MdR@1", "r@1", "mAP@", "P@5", ""])
def test_unknown_measures_are_refused(name):
    assert not is_measure(name)
    with pytest.raises(InputValueError, match="measure"):
        place(dense(np.eye(3)), GroundTruth.diagonal((3, 3))).values(name)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: GroundTruth.diagonal((3, 4)), InputValueError, "not known"),
        (lambda: GroundTruth.from_index([0, 4], 4), InputValueError, "video 4 of 4"),
        (lambda: GroundTruth.from_index([0, -1], 4), InputValueError, "not there"),
        (lambda: GroundTruth.from_index([[0, 1]], 4), InputValueError, "one number per text"),
        (lambda: GroundTruth.from_index([0.5], 4), InputTypeError, "whole numbers"),
        (lambda: GroundTruth.from_index(["a"], 4), InputTypeError, "whole numbers"),
        (lambda: GroundTruth.from_pairs([[0, 1, 2]], (2, 3)), InputValueError, "pairs"),
        (lambda: GroundTruth.from_pairs([[0, 1], [0, 1]], (2, 3)), InputValueError, "twice"),
        (lambda: GroundTruth.from_pairs([[0, 1]], (2, 3), [np.nan]), InputValueError, "finite"),
        (lambda: GroundTruth.diagonal((3, 3)).keep_queries([1]), InputValueError, "mask"),
        (lambda: place(dense(np.eye(3)), GroundTruth.diagonal((4, 4))), InputValueError, "sizes"),
        (lambda: evaluate(dense(np.eye(3)), None, "last"), InputValueError, "best, mean, worst"),
    ],
)
def test_bad_ground_truth_is_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


def test_grades_of_zero_are_no_relevance():
    truth = GroundTruth.from_pairs([[0, 0], [0, 1]], (1, 2), [0, 1])
    assert truth.item.tolist() == [1]
