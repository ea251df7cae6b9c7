"""`tune`: what was tried and chosen is told, and the corrector saved has it."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
import torch
from bank_files import NAMES, TUNE, data, facts_of
from oracles import asked_often, cone_pair

from emcl_plugin import NCL, Reranker
from emcl_plugin.cli.tune import _seconds
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.tune import tune


def without_time(facts):
    return {key: value for key, value in facts.items() if key not in ("seconds", "saved")}


@functools.lru_cache
def tuned(**options):
    return tune(data().text_bank, data().video_bank, cuts=1, **options)


def test_tune_shows_what_it_tried_and_what_it_chose(folder, emcl):
    result = emcl(*TUNE, "--cuts", 1)
    found = tuned()
    assert result.out == ""
    lines = result.words.splitlines()
    heads = [line.split() for line in lines if re.search(r"R@1 +MRR +z$", line)]
    assert [head[0].rstrip(",") for head in heads] == ["NCL", "EMCL"]
    assert len(re.findall(r"^\* defaults +\d", result.words, re.M)) == 2
    assert len(re.findall(r"^  nothing +\d", result.words, re.M)) == 2
    assert "more with --verbose" in result.words
    assert f"chosen   {found.chosen.name}: {found.reason}" in result.words
    assert "2 splits of the bank, seed 0" in result.words
    assert re.search(r"gain +R@1 [+-]\d+\.\d over no correction, inside the bank", result.words)
    assert sorted(p.name for p in folder.iterdir()) == [
        "ids.txt", "t.npy", "tb.npy", "v.npy", "vb.npy",
    ]  # fmt: skip


@pytest.mark.slow
def test_verbose_tune_shows_all(emcl):
    words = emcl(*TUNE, "--cuts", 1, "-v").words
    assert "more with --verbose" not in words
    for part in tuned().parts:
        assert [t.candidate.name for t in part if t.candidate.name not in words] == []
    stood = tuned().parts[0][1]
    for trial in tuned().parts[0]:
        z = "" if trial is stood else f"{trial.z(stood):+9.1f}"
        assert f"{trial.candidate.name:26}{trial.r1:8.1f}{trial.mrr:9.3f}{z}\n" in words


@pytest.mark.slow
def test_tune_in_json_is_what_tune_finds(emcl):
    result = emcl(*TUNE, "--cuts", 1, "--json", "-q")
    assert result.words == ""
    assert without_time(facts_of(result)) == without_time(tuned().to_dict())
    other = facts_of(emcl(*TUNE, "--cuts", 1, "--seed", 5, "--metric", "dot", "--json", "-q"))
    assert without_time(other) == without_time(tuned(seed=5, metric="dot").to_dict())


def test_tune_says_where_there_was_no_time(emcl):
    result = emcl(*TUNE, "--budget", "0.0001s", "--json")
    assert "the budget of 0.0001 s is too short for one cut" in result.words
    facts = facts_of(result)
    assert (facts["chosen"]["name"], facts["cuts"], facts["tried"]) == ("defaults", 0, [])


@pytest.mark.slow
@pytest.mark.parametrize("side", ["video", "text"])
def test_tune_saves_a_corrector_with_what_was_chosen(emcl, side):
    options = ("--video", "v.npy") if side == "video" else ("--text", "t.npy")
    result = emcl(*TUNE, "--cuts", 1, *options, "--names", "ids.txt", "--save", "tuned", "--json")
    x = data()
    sides = (x.text_bank, x.video_bank, x.video)
    if side == "text":
        sides = (x.video_bank, x.text_bank, x.text)
    bank, other, gallery = sides
    found = tune(bank, other, cuts=1)
    facts = facts_of(result)
    assert facts["saved"] == "tuned"
    assert without_time(facts) == without_time(found.to_dict())
    saved = Reranker.from_pretrained("tuned")
    wanted = Reranker(found.chosen.emcl, found.chosen.ncl).fit(
        bank, gallery, gallery_bank=other, names=NAMES
    )
    assert torch.equal(saved.corrector_.bias, wanted.corrector_.bias)
    assert saved.corrector_.names == NAMES
    assert re.search(r"written +tuned", result.words)


@pytest.fixture
def made(folder):
    """A bank of all but equal pairs with strong hubs, for which the defaults are too gentle."""
    text, video = (x.astype("f4") for x in cone_pair(450, 450, 8, 0, cone=1.5, noise=0.3))
    for name, side in (("tb", text[:400]), ("vb", video[:400]), ("v", video[400:])):
        np.save(folder / f"{name}.npy", side)


@pytest.mark.slow
@pytest.mark.usefixtures("made")
def test_other_settings_that_win_are_those_of_the_saved_corrector(emcl):
    result = emcl(*TUNE, "--cuts", 2, "--video", "v.npy", "--save", "tuned")
    chosen = tune(np.load("tb.npy"), np.load("vb.npy"), cuts=2).chosen
    assert chosen.ncl == NCL(temperature_std=0.15, rho=1.0)
    assert re.search(rf"chosen +{re.escape(chosen.name)}: NCL 0.15 std, rho 1", result.words)
    assert "significant" in result.words
    saved = Reranker.from_pretrained("tuned")
    assert (saved.emcl, saved.ncl) == (chosen.emcl, chosen.ncl)
    assert saved.report_.rho == 1


@pytest.mark.slow
def test_where_nothing_wins_the_saved_corrector_does_nothing(folder, emcl):
    """Popular items are asked often, and rightly so: what NCL takes away is right."""
    *sides, owner = asked_often()
    for name, side in zip(("tb", "vb", "v", "gt"), (*sides, sides[1][::-1], owner), strict=True):
        np.save(folder / f"{name}.npy", side)
    how = ("--bank-gt", "gt.npy", "--metric", "dot", "--cuts", 1)
    result = emcl(*TUNE, *how, "--video", "v.npy", "--save", "tuned")
    assert "chosen   nothing: on this bank no correction is better than" in result.words
    saved = Reranker.from_pretrained("tuned")
    assert (saved.emcl, saved.ncl) == (None, None)
    assert (saved.corrector_.strength, len(saved.corrector_.change)) == (0, 0)
    assert not saved.corrector_.bias.any()


@pytest.mark.slow
def test_pairs_of_the_bank_come_from_a_file(folder, emcl):
    """Two texts for each of a hundred videos; the other direction turns them round."""
    index = np.repeat(np.arange(100), 2)
    np.save(folder / "vb.npy", data().video_bank[:100])
    np.save(folder / "gt.npy", index)
    (folder / "gt.csv").write_text("text,video\n" + "\n".join(f"{i},{j}" for i, j in
                                                              enumerate(index)))  # fmt: skip
    truth = GroundTruth.from_index(index, 100)
    queries, items = data().text_bank, data().video_bank[:100]
    wanted = without_time(tune(queries, items, truth, cuts=1).to_dict())
    for gt in ("gt.npy", "gt.csv"):
        facts = facts_of(emcl(*TUNE, "--bank-gt", gt, "--cuts", 1, "--json", "-q"))
        assert without_time(facts) == wanted
    options = (*TUNE, "--bank-gt", "gt.npy", "--cuts", 1, "--json", "-q", "--text", "t.npy")
    wanted = without_time(tune(items, queries, truth.T, cuts=1).to_dict())
    assert without_time(facts_of(emcl(*options))) == wanted


def test_a_gallery_that_cannot_be_fitted_is_told_before_the_tuning(folder, emcl, monkeypatch):
    np.save(folder / "narrow.npy", data().video[:, :64])
    monkeypatch.setattr("emcl_plugin.tune.tune", lambda *_, **__: pytest.fail("tuned for nothing"))
    words = emcl(*TUNE, "--video", "narrow.npy", "--save", "new", status=1).words
    assert "different dimensions" in words


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("60s", 60), ("90", 90), ("1.5m", 90), ("2h", 7200), (" 5M ", 300), ("0.5 s", 0.5)],
)
def test_a_time_can_be_given_in_seconds_minutes_and_hours(given, seconds):
    assert _seconds(None, None, given) == seconds
