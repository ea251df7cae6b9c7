"""Banks on the command line: the main command by banks."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from bank_files import BOTH, FORWARD, TEXT_BANK, VIDEO_BANK, data, facts_of
from numpy.testing import assert_array_equal

from emcl_plugin import EMCL
from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.bank import BANK
from emcl_plugin.bank.both_directions import correct_by_banks
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Resources, Settings

# --- the main command --------------------------------------------------------------------

BANKS = pytest.mark.parametrize(
    "banks", [TEXT_BANK, VIDEO_BANK, (*TEXT_BANK, *VIDEO_BANK)], ids=["text", "video", "both"]
)


def by_banks(banks, x=None, **settings):
    x = data() if x is None else x
    emcl = {"emcl": settings.pop("emcl", "auto"), "ncl": settings.pop("ncl", "auto")}
    given = [x.text_bank if "--text-bank" in banks else None]
    given += [x.video_bank if "--video-bank" in banks else None]
    limits = {name: settings.pop(name, None) for name in ("dtype", "memory")}
    job = Job(None, (x.text, x.video), Settings.of(**settings), Resources(**limits))
    return correct_by_banks(job, *given, **emcl)


def ways(banks):
    return [w for w, name in zip(DIRECTIONS, ("--text-bank", "--video-bank"), strict=True)
            if name in banks]  # fmt: skip


@BANKS
def test_banks_correct_in_place_of_the_queries(folder, emcl, banks):
    result = emcl(*BOTH, *banks)
    found = by_banks(banks)
    scores = np.load(folder / "reranked.npy")
    assert scores.dtype == np.float16
    assert_array_equal(scores, found.source.dense().numpy().astype("f2"))
    assert result.out == ""
    assert "transductive" not in result.words
    assert re.search(r"protocol +bank \(correction learned from other items", result.words)
    for way in DIRECTIONS:
        assert (re.search(rf"^  {way} *$", result.words, re.M) is not None) == (way in ways(banks))
    assert ("gallery bank of" in result.words) == (len(ways(banks)) == 2)
    gate = re.search(r"gate +(\d+) % of the (\w+) resemble the bank", result.words)
    if len(ways(banks)) == 2:
        assert gate is None  # not asked of each
    else:
        ((way, share),) = found.gates.items()
        assert gate.groups() == (f"{100 * share:.0f}", f"{way.partition(' ')[0]}s")


@BANKS
def test_json_tells_what_each_bank_taught(folder, emcl, banks):
    result = emcl(*BOTH, *banks, "--json", "-q")
    facts, found = facts_of(result), by_banks(banks)
    assert result.words == ""
    assert facts["protocol"] == "bank"
    assert (facts["ncl"], facts["prior"]) == (None, None)
    assert list(facts["banks"]) == list(facts["likeness"]) == ways(banks)
    assert facts["likeness"] == pytest.approx(found.gates)
    assert facts["seen_in_bank"] == found.seen == dict.fromkeys(ways(banks), 0)
    for way, bank in facts["banks"].items():
        assert bank == json.loads(json.dumps(found.report.banks[way].to_dict()))
        assert bank["protocol"] == "bank"
    assert "order_leak" not in facts
    assert sorted(p.name for p in folder.iterdir()) == [
        "ids.txt", "reranked.npy", "t.npy", "tb.npy", "v.npy", "vb.npy",
    ]  # fmt: skip


@pytest.mark.slow
@BANKS
def test_with_ground_truth_the_gain_is_measured_and_named_bank(emcl, banks):
    result = emcl(*BOTH, *banks, "--gt", "diagonal", "--json", "--measures", "R@1,MRR")
    rows = facts_of(result)["measured"]["ablation"]
    assert [(row["name"], row["protocol"]) for row in rows] == [
        ("input", "none"), ("emcl_plugin", "bank"),
    ]  # fmt: skip
    for row, source in zip(rows, (by_banks(banks).base, by_banks(banks).source), strict=True):
        for way, placed in evaluate(source).directions:
            assert row["metrics"][way]["R@1"] == placed.metric("R@1")
    for way in DIRECTIONS:
        before, after = (row["metrics"][way]["R@1"] for row in rows)
        assert re.search(rf"^  {way}  input +{before:.1f} ", result.words, re.M)
        assert f"{way}  R@1 {after - before:+.1f}" in result.words
    assert len(re.findall(r"^ +emcl_plugin +\d", result.words, re.M)) == 2


@pytest.mark.slow
@BANKS
def test_the_page_says_bank_and_never_transductive(folder, emcl, banks):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    shown = ("--report", "page.html", "--plots", "figures")
    result = emcl(*BOTH, *banks, "--gt", "diagonal", *shown)
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg", ".pdf"}
    page = (folder / "page.html").read_text("utf-8")
    sides = " and ".join(f"{way.partition(' ')[0]}s" for way in ways(banks))
    assert f"bank (the correction was learned from other {sides})" in page
    for way in ways(banks):
        assert f"{way}: bank" in page.replace("&gt;", ">")
    assert "transductive" not in page.lower()
    assert "page.html" in result.words
    options = [o for o in banks if o.startswith("--")]
    assert all(option in page for option in options)


def test_queries_of_the_bank_are_said(folder, emcl):
    np.save(folder / "t.npy", np.concatenate([data().text[:190], data().text_bank[:10]]))
    result = emcl(*BOTH, *TEXT_BANK, "--json")
    assert "Note: 10 of the 200 texts are in the bank: their gain" in result.words
    assert facts_of(result)["seen_in_bank"] == {FORWARD: 10}
    assert emcl(*BOTH, *TEXT_BANK, "--force", "-q").words == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--emcl", "off"], {"emcl": None}),
        (["--emcl-strength", "-0.5"], {"emcl": EMCL(strength=-0.5)}),
        (["--ncl", "off"], {"ncl": None}),
        (["--prior", "off"], {"prior": "off"}),
        (["--prior", "gentle"], {"prior": "gentle"}),
        (["--prior", "even"], {"prior": "even"}),
        (["--no-guard"], {"guard": False}),
        (["--temperature", "0.05"], {"ncl": replace(BANK, temperature=0.05)}),
        (["--iterations", "1", "--no-guard"], {"ncl": replace(BANK, iterations=1), "guard": False}),
        (["--metric", "dot"], {"metric": "dot"}),
        (["--dtype", "float64"], {"dtype": torch.float64}),
        (["--memory", "5M"], {"memory": 5 << 20}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.ConvergenceWarning")
def test_options_reach_the_correction_by_banks(folder, emcl, options, settings):
    banks = (*TEXT_BANK, *VIDEO_BANK)
    emcl(*BOTH, *banks, "-q", *options)
    scores = np.load(folder / "reranked.npy")
    wanted = by_banks(banks, **settings).source.dense().numpy()
    if "float64" in options:
        assert scores.dtype == np.float64
    assert_array_equal(scores, wanted.astype(scores.dtype))
