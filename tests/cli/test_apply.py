"""`apply`: new queries get the scores of the saved reranker, alone and in company."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
from bank_files import FIT, NAMES, VIDEO_BANK, N, data, facts_of, reranker
from numpy.testing import assert_allclose, assert_array_equal

from emcl_plugin import Reranker
from emcl_plugin.evaluation.metrics import MEASURES, place
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.scores import Dense, FeaturePair, Features


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_apply_scores_as_the_saved_reranker(fitted, emcl, dtype):
    np.save("q.npy", data(dtype).text)
    result = emcl("apply", "fitted", "--text", "q.npy")
    scores = np.load("scores.npy")
    wanted = Reranker.from_pretrained(fitted).transform(data(dtype).text)
    assert scores.dtype == wanted.dtype == np.dtype(dtype)
    assert_array_equal(scores, wanted)
    assert result.out == ""
    strength = reranker().corrector_.strength
    for words in (
        "200 queries x 200 gallery items",
        "bank (correction learned from 200 bank queries)",
        f"{100 * strength:.0f} % of the biases",
        "no query is in the bank",
        "scores.npy",
    ):
        assert words in result.words
    assert "transductive" not in result.words


def test_apply_in_the_other_direction(emcl):
    emcl("fit", *VIDEO_BANK, "--text", "t.npy", "--save", "other", "-q")
    emcl("apply", "other", "--video", "v.npy", "--output", "o.npy", "-q")
    wanted = Reranker().fit(data().video_bank, data().text).transform(data().video)
    assert_array_equal(np.load("o.npy"), wanted)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_top_is_a_table_of_search(fitted, emcl, k, named):
    """With names where there are any; of 200 items at most 200."""
    saved = Reranker.from_pretrained(fitted)
    if not named:
        saved = reranker(names=())
        saved.save_pretrained(fitted, force=True)
    result = emcl("apply", "fitted", "--text", "t.npy", "--top", k)
    assert "top.csv" in result.words
    with open("top.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["query", "rank", "item", "name", "score"]
    k = min(k, N)
    scores, items = saved.search(data("f4").text, k)
    assert [int(row[0]) for row in rows] == np.repeat(np.arange(N), k).tolist()
    assert [int(row[1]) for row in rows] == list(range(1, k + 1)) * N
    assert [int(row[2]) for row in rows] == items.ravel().tolist()
    assert [row[3] for row in rows] == [NAMES[i] if named else "" for i in items.ravel()]
    assert_allclose([float(row[4]) for row in rows], scores.ravel(), rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("fitted")
def test_apply_tells_all_in_json(emcl):
    facts = facts_of(emcl("apply", "fitted", "--text", "t.npy", "--json", "-q"))
    corrector = reranker().corrector_
    assert facts.pop("seconds") > 0
    assert facts == {
        "protocol": "bank",
        "queries": N,
        "gallery": N,
        "strength": corrector.strength,
        "likeness": pytest.approx(float(corrector.gate(data().text).mean())),
        "seen_in_bank": 0,
        "output": "scores.npy",
    }
    facts = facts_of(emcl("apply", "fitted", "--text", "tb.npy", "--json", "-q", "--force"))
    assert facts["seen_in_bank"] == N


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("count", "words"), [(0, "no query is"), (1, "1 query is"), (5, "5 queries are")]
)
def test_apply_says_how_many_queries_are_in_the_bank(emcl, count, words):
    np.save("q.npy", np.concatenate([data().text[:20], data().text_bank[:count]]))
    assert f"overlap      {words} in the bank" in emcl("apply", "fitted", "--text", "q.npy").words


@pytest.mark.parametrize("options", [[], ["--emcl-strength", "-0.75"]], ids=["", "EMCL"])
def test_with_ground_truth_apply_measures_the_gain(emcl, options):
    """Before is the cosine, after is what was written."""
    emcl(*FIT, *options, "-q")
    np.save("q.npy", data("f4").text)
    result = emcl("apply", "new", "--text", "q.npy", "--gt", "diagonal", "--json")
    measured = facts_of(result)["measured"]
    before = FeaturePair(*map(Features, (data().text, data().video)))
    after = Dense(np.load("scores.npy"))
    truth = GroundTruth.diagonal((N, N))
    for name, source in (("input", before), ("emcl_plugin", after)):
        wanted = place(source, truth)
        assert measured[name] == {m: wanted.metric(m) for m in MEASURES}
        assert re.search(rf"{name} +{wanted.metric('R@1'):.1f} ", result.words)
    assert measured["emcl_plugin"]["R@1"] > measured["input"]["R@1"]


@pytest.mark.usefixtures("fitted")
def test_ground_truth_of_apply_is_of_queries_and_gallery(emcl):
    """Sixty queries of the 200 items, two for each of thirty."""
    index = np.arange(60) % 30
    np.save("q.npy", data("f4").text[index])
    np.save("gt.npy", index)
    facts = facts_of(emcl("apply", "fitted", "--text", "q.npy", "--gt", "gt.npy", "--json", "-q"))
    wanted = place(Dense(np.load("scores.npy")), GroundTruth.from_index(index, N))
    assert facts["measured"]["emcl_plugin"]["MnR"] == wanted.metric("MnR")
