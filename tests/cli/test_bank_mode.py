"""Bank mode on the command line, end to end: banks, fit, apply, show, tune; right and wrong use."""

from __future__ import annotations

import csv
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import asked_often, cone_pair

from emcl_plugin import EMCL, NCL, Reranker
from emcl_plugin.bank import BANK
from emcl_plugin.banked import correct_by_banks
from emcl_plugin.cli import main
from emcl_plugin.cli.tune import _seconds
from emcl_plugin.demo import load_demo
from emcl_plugin.job import Job
from emcl_plugin.metrics import DIRECTIONS, MEASURES, evaluate, place
from emcl_plugin.similarity import Dense, FeaturePair, Features
from emcl_plugin.truth import GroundTruth
from emcl_plugin.tune import tune

FORWARD, BACKWARD = DIRECTIONS
N = 200
SIDES = ("text", "video", "text_bank", "video_bank")
NAMES = tuple(load_demo().video_names[:N])
BOTH = ("--text", "t.npy", "--video", "v.npy")
TEXT_BANK, VIDEO_BANK = ("--text-bank", "tb.npy"), ("--video-bank", "vb.npy")
FIT = ("fit", *TEXT_BANK, "--video", "v.npy", "--save", "new")
TUNE = ("tune", *TEXT_BANK, *VIDEO_BANK)


@functools.lru_cache
def data(dtype="f2"):
    """The demo's first rows."""
    demo = load_demo()
    return SimpleNamespace(**{name: getattr(demo, name)[:N].astype(dtype) for name in SIDES})


@functools.lru_cache
def reranker(*, dual=False, names=NAMES, settings=()):
    x = data()
    extra = {"gallery_bank": x.video_bank} if dual else {}
    return Reranker(**dict(settings)).fit(x.text_bank, x.video, names=names, **extra)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Demo files of 200 rows, where the program runs."""
    for name, side in zip(("t", "v", "tb", "vb"), SIDES, strict=True):
        np.save(tmp_path / f"{name}.npy", getattr(data(), side))
    (tmp_path / "ids.txt").write_text("\n".join(NAMES), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A corrector of texts' queries, saved once."""
    place = tmp_path_factory.mktemp("kept") / "fitted"
    reranker().save_pretrained(place)
    return place


@pytest.fixture
def fitted(folder, kept):
    shutil.copytree(kept, folder / "fitted")
    return folder / "fitted"


@pytest.fixture
def emcl(folder, monkeypatch, capsys):
    """Run the whole program in this process: what it printed, and what a person saw."""
    assert folder.samefile(".")

    def run(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["emcl-rerank", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        out, words = capsys.readouterr()
        assert ended.value.code == status, words
        assert "Traceback" not in words
        return SimpleNamespace(out=out, words=words)

    return run


def everything(folder):
    """Every file, hidden ones too, and what is in it."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def facts_of(result):
    """The JSON that is all of standard output."""
    return json.loads(result.out, parse_constant=pytest.fail)


# --- the main command --------------------------------------------------------------------

BANKS = pytest.mark.parametrize(
    "banks", [TEXT_BANK, VIDEO_BANK, (*TEXT_BANK, *VIDEO_BANK)], ids=["text", "video", "both"]
)


def by_banks(banks, x=None, **settings):
    x = data() if x is None else x
    emcl = {"emcl": settings.pop("emcl", "auto"), "ncl": settings.pop("ncl", "auto")}
    given = [x.text_bank if "--text-bank" in banks else None]
    given += [x.video_bank if "--video-bank" in banks else None]
    return correct_by_banks(Job(None, (x.text, x.video), **settings), *given, **emcl)


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
    assert re.search(r"protocol +bank \(the correction was learnt from other items", result.words)
    for way in DIRECTIONS:
        assert (re.search(rf"^  {way} *$", result.words, re.M) is not None) == (way in ways(banks))
    assert ("items of the gallery's kind" in result.words) == (len(ways(banks)) == 2)
    gate = re.search(r"gate +(\d+) % of the (\w+) are like the bank's", result.words)
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


@BANKS
def test_the_page_says_bank_and_never_transductive(folder, emcl, banks):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    result = emcl(*BOTH, *banks, "--gt", "diagonal", "--report", "page.html")
    page = (folder / "page.html").read_text("utf-8")
    sides = " and ".join(f"{way.partition(' ')[0]}s" for way in ways(banks))
    assert f"(bank: the correction was learnt from other {sides})" in page
    for way in ways(banks):
        assert f"{way}: bank" in page.replace("&gt;", ">")
    assert "transductive" not in page.lower()
    assert "page.html" in result.words
    options = [o for o in banks if o.startswith("--")]
    assert all(option in page for option in options)


def test_the_figures_can_be_had_by_banks_too(folder, emcl):
    pytest.importorskip("matplotlib")
    emcl(*BOTH, *TEXT_BANK, "--gt", "diagonal", "--plots", "figures", "-q")
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg", ".pdf"}


def test_queries_of_the_bank_are_said(folder, emcl):
    np.save(folder / "t.npy", np.concatenate([data().text[:190], data().text_bank[:10]]))
    result = emcl(*BOTH, *TEXT_BANK, "--json")
    assert "Note: 10 of the 200 texts are in the bank: what they gain says little" in result.words
    assert facts_of(result)["seen_in_bank"] == {FORWARD: 10}
    assert emcl(*BOTH, *TEXT_BANK, "--force", "-q").words == ""


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
        (["--rounds", "1", "--no-guard"], {"ncl": replace(BANK, rounds=1), "guard": False}),
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


def test_banks_are_read_from_the_environment(emcl, monkeypatch):
    monkeypatch.setenv("EMCL_RERANK_TEXT_BANK", "tb.npy")
    assert facts_of(emcl(*BOTH, "--json", "-q"))["protocol"] == "bank"


# --- fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dual", [False, True], ids=["one bank", "both banks"])
@pytest.mark.parametrize("names", [False, True], ids=["no names", "names"])
@pytest.mark.parametrize("way", DIRECTIONS)
def test_fit_saves_what_the_bank_taught(folder, emcl, way, names, dual):
    x = data()
    bank, gallery, other = x.text_bank, x.video, x.video_bank
    options = (*TEXT_BANK, "--video", "v.npy", *(VIDEO_BANK if dual else ()))
    if way == BACKWARD:
        bank, gallery, other = x.video_bank, x.text, x.text_bank
        options = (*VIDEO_BANK, "--text", "t.npy", *(TEXT_BANK if dual else ()))
    options += ("--names", "ids.txt") if names else ()
    result = emcl("fit", *options, "--save", "new", "--json")
    wanted = Reranker().fit(
        bank, gallery, gallery_bank=other if dual else None, names=NAMES if names else ()
    )
    saved = Reranker.from_pretrained(folder / "new")
    assert torch.equal(saved.corrector_.bias, wanted.corrector_.bias)
    assert saved.corrector_.names == (NAMES if names else ())
    assert_array_equal(saved.transform(x.text), wanted.transform(x.text))
    told = json.loads(json.dumps(wanted.report_.to_dict()))
    assert facts_of(result) == {**told, "saved": "new"}
    asks = "--text" if way == FORWARD else "--video"
    assert f"Now try: emcl-rerank apply new {asks} q.npy" in result.words
    for words in ("200 bank queries x 200 gallery items", "protocol     bank", "guard", "written"):
        assert words in result.words
    assert ("kinship" in result.words) == dual
    assert "transductive" not in result.words


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {}),
        (["--emcl", "off"], {"emcl": None}),
        (["--emcl-strength", "-0.5"], {"emcl": EMCL(strength=-0.5)}),
        (["--emcl", "clip2video"], {"emcl": EMCL.preset("clip2video")}),
        (["--ncl", "off"], {"ncl": None}),
        (["--temperature", "0.05"], {"ncl": replace(BANK, temperature=0.05)}),
        (["--rounds", "20"], {"ncl": replace(BANK, rounds=20)}),
        (["--prior", "even", "--rounds", "20"], {"prior": "even", "ncl": NCL(rounds=20)}),
        (["--prior", "gentle"], {"prior": "gentle"}),
        (["--prior", "off"], {"prior": "off"}),
        (["--no-guard"], {"guard": False}),
        (["--metric", "dot"], {"metric": "dot"}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.ConvergenceWarning")
def test_fit_keeps_the_settings_it_was_told(emcl, options, settings):
    result = emcl(*FIT, "-q", *options)
    assert (result.out, result.words) == ("", "")
    saved = Reranker.from_pretrained("new")
    wanted = reranker(names=(), settings=tuple(settings.items()))
    assert torch.equal(saved.corrector_.bias, wanted.corrector_.bias)
    assert torch.equal(saved.corrector_.change, wanted.corrector_.change)
    for name in ("emcl", "ncl", "prior", "guard", "metric"):
        assert getattr(saved, name) == getattr(wanted, name)


def test_verbose_fit_tells_more(emcl):
    words = emcl(*FIT).words
    assert "distinct subspaces" not in words
    assert "distinct subspaces" in emcl(*FIT, "--force", "-v").words


def test_force_replaces_a_corrector_and_nothing_else(fitted, emcl):
    before = everything(fitted)
    options = ("fit", *VIDEO_BANK, "--text", "t.npy", "--save", "fitted")
    emcl(*options, status=1)
    assert everything(fitted) == before
    emcl(*options, "--force")
    saved = Reranker.from_pretrained(fitted)
    assert torch.equal(saved.corrector_.bias, Reranker().fit(data().video_bank, data().text)
                       .corrector_.bias)  # fmt: skip
    (fitted / "thesis.txt").write_text("years of work")
    words = emcl(*options, "--force", status=1).words
    assert "holds something else" in words
    assert (fitted / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("command", ["fit", "tune"])
def test_an_interrupted_fit_leaves_nothing(folder, emcl, monkeypatch, command):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    before = everything(folder)
    monkeypatch.setattr(Reranker, "fit", interrupt)
    options = ("--budget", "0.001s") if command == "tune" else ()
    result = emcl(
        command, *TEXT_BANK, *VIDEO_BANK, "--video", "v.npy", "--save", "new", *options, status=1
    )
    assert "interrupted; nothing was written" in result.words
    assert everything(folder) == before


# --- apply -------------------------------------------------------------------------------


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
        "bank (200 bank queries made the correction)",
        f"{100 * strength:.0f} % of the biases",
        "none of the queries are in the bank",
        "scores.npy",
    ):
        assert words in result.words
    assert "transductive" not in result.words


@pytest.mark.usefixtures("fitted")
def test_a_query_is_scored_alike_alone_and_in_company(emcl):
    emcl("apply", "fitted", "--text", "t.npy", "-q")
    np.save("one.npy", data().text[77:78])
    emcl("apply", "fitted", "--text", "one.npy", "--output", "one-scores.npy", "-q")
    assert_array_equal(np.load("one-scores.npy"), np.load("scores.npy")[77:78])


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


def test_names_with_commas_and_quotes_survive_the_table(fitted, emcl):
    names = tuple(f'the "{i}", or not' for i in range(N))
    reranker(names=names).save_pretrained(fitted, force=True)
    emcl("apply", "fitted", "--text", "t.npy", "--top", 1, "-q")
    with open("top.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [names[int(row["item"])] for row in rows]


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
@pytest.mark.parametrize(("count", "words"), [(1, "1 of the queries is"), (5, "5 of the queries")])
def test_apply_says_how_many_queries_are_in_the_bank(emcl, count, words):
    np.save("q.npy", np.concatenate([data().text[:20], data().text_bank[:count]]))
    assert f"leak        {words}" in emcl("apply", "fitted", "--text", "q.npy").words


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


def test_apply_without_biases_leaves_the_cosine(emcl):
    emcl(*FIT, "--ncl", "off", "--emcl", "off", "-q")
    np.save("q.npy", data("f8").text)
    emcl("apply", "new", "--text", "q.npy", "-q")
    wanted = FeaturePair(*(Features(x, dtype=torch.float64) for x in (data().text, data().video)))
    assert_allclose(np.load("scores.npy"), wanted.dense(), rtol=0, atol=1e-6)


# --- show --------------------------------------------------------------------------------


@pytest.mark.usefixtures("fitted")
def test_show_tells_what_is_in_a_corrector(emcl):
    result = emcl("show", "fitted")
    assert result.words == ""
    corrector = reranker().corrector_
    hub, lifted = NAMES[int(corrector.bias.argmin())], NAMES[int(corrector.bias.argmax())]
    for words in (
        "200 bank queries x 200 gallery items",
        "protocol",
        f"{100 * corrector.strength:.0f} % of the biases",
        "200 items of dimension 128, float32, with names",
        f"{corrector.bias.min():+.4f} ({hub}, the largest hub)",
        f"{corrector.bias.max():+.4f} ({lifted})",
        f"none of the correction up to {corrector.likeness.low:.3f}",
        f"{100 * corrector.drift():.1f} % since the fit",
        "Reranker()",
    ):
        assert words in result.out


@pytest.mark.usefixtures("fitted")
def test_show_in_json(emcl):
    facts = facts_of(emcl("show", "fitted", "--json"))
    corrector = reranker().corrector_
    assert facts == {
        "folder": "fitted",
        "protocol": "bank",
        "bank": N,
        "gallery": N,
        "dimension": 128,
        "dtype": "float32",
        "metric": "cosine",
        "settings": "Reranker()",
        "names": True,
        "temperature": corrector.temperature,
        "rho": 0.8,
        "strength": corrector.strength,
        "emcl_directions": len(corrector.change),
        "gate": [corrector.likeness.low, corrector.likeness.high],
        "drift": pytest.approx(corrector.drift()),
        "fit": json.loads(json.dumps(reranker().report_.to_dict())),
    }


def test_show_without_names_gate_and_biases(emcl):
    emcl(*FIT, "--no-guard", "--emcl-strength", "-0.5", "--ncl", "off", "-q")
    words = emcl("show", "new").out
    for part in ("without names", "every query is let through", "+0.0000 (item 0", "drift"):
        assert part in words
    facts = facts_of(emcl("show", "new", "--json"))
    assert (facts["names"], facts["gate"], facts["strength"], facts["drift"]) == (False, None, 0, 0)
    assert facts["emcl_directions"] > 0
    assert "strength=-0.5" in facts["settings"]


def test_show_finds_no_drift_right_after_a_fit_with_both_banks(emcl):
    emcl(*FIT, *VIDEO_BANK, "-q")
    assert facts_of(emcl("show", "new", "--json"))["drift"] < 0.05


# --- tune --------------------------------------------------------------------------------


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
    assert "2 cuts of the bank, seed 0" in result.words
    assert re.search(r"gain +R@1 [+-]\d+\.\d over nothing inside the bank", result.words)
    assert sorted(p.name for p in folder.iterdir()) == [
        "ids.txt", "t.npy", "tb.npy", "v.npy", "vb.npy",
    ]  # fmt: skip


def test_verbose_tune_shows_all(emcl):
    words = emcl(*TUNE, "--cuts", 1, "-v").words
    assert "more with --verbose" not in words
    for part in tuned().parts:
        assert [t.candidate.name for t in part if t.candidate.name not in words] == []
    stood = tuned().parts[0][1]
    for trial in tuned().parts[0]:
        z = "" if trial is stood else f"{trial.z(stood):+9.1f}"
        assert f"{trial.candidate.name:26}{trial.r1:8.1f}{trial.mrr:9.3f}{z}\n" in words


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
    assert "written      tuned" in result.words


@pytest.fixture
def made(folder):
    """A bank of all but equal pairs with strong hubs, for which the defaults are too gentle."""
    text, video = (x.astype("f4") for x in cone_pair(450, 450, 8, 0, cone=1.5, noise=0.3))
    for name, side in (("tb", text[:400]), ("vb", video[:400]), ("v", video[400:])):
        np.save(folder / f"{name}.npy", side)


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


def test_where_nothing_wins_the_saved_corrector_does_nothing(folder, emcl):
    """Popular items are asked often, and rightly so: what NCL takes away is right."""
    *sides, owner = asked_often()
    for name, side in zip(("tb", "vb", "v", "gt"), (*sides, sides[1][::-1], owner), strict=True):
        np.save(folder / f"{name}.npy", side)
    how = ("--bank-gt", "gt.npy", "--metric", "dot", "--cuts", 1)
    result = emcl(*TUNE, *how, "--video", "v.npy", "--save", "tuned")
    assert "chosen   nothing: on this bank doing nothing is better than" in result.words
    saved = Reranker.from_pretrained("tuned")
    assert (saved.emcl, saved.ncl) == (None, None)
    assert (saved.corrector_.strength, len(saved.corrector_.change)) == (0, 0)
    assert not saved.corrector_.bias.any()


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


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("60s", 60), ("90", 90), ("1.5m", 90), ("2h", 7200), (" 5M ", 300), ("0.5 s", 0.5)],
)
def test_a_time_can_be_given_in_seconds_minutes_and_hours(given, seconds):
    assert _seconds(None, None, given) == seconds


# --- wrong use ---------------------------------------------------------------------------


def spoil(folder):
    """Files that no command can use."""
    x = data("f4")
    np.save(folder / "narrow.npy", x.video[:, :64])
    np.save(folder / "short.npy", x.video_bank[:150])
    for name, of in (("nan", x.text), ("nanbank", x.text_bank)):
        spoilt = of.copy()
        spoilt[137, 5] = np.nan
        np.save(folder / f"{name}.npy", spoilt)
    np.save(folder / "zero.npy", x.text * (np.arange(N)[:, None] != 3))
    np.save(folder / "flat.npy", np.ones(4, "f4"))
    np.save(folder / "int.npy", np.ones((N, 128), int))
    (folder / "words.npy").write_text("hello")
    (folder / "few.txt").write_text("a\nb")
    (folder / "other").mkdir()
    (folder / "other" / "thesis.txt").write_text("x")


APPLY = "apply fitted --text"
MAIN = "--text t.npy --video v.npy"
PAIRS = "tune --text-bank tb.npy --video-bank vb.npy"
BANK_V = "fit --text-bank tb.npy --video v.npy"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fit --text-bank tb.npy --save new", "the gallery that will be searched"),
        ("fit --text-bank tb.npy --save new", "neither is there"),
        ("fit --text-bank tb.npy --text t.npy --video v.npy --save new", "not both"),
        ("fit --video v.npy --save new", "give --text-bank"),
        ("fit --video v.npy --video-bank vb.npy --save new", "give --text-bank"),
        ("fit --text t.npy --text-bank tb.npy --save new", "give --video-bank"),
        (BANK_V, "--save"),
        (f"{BANK_V} --save new --ncl off --temperature 0.1", "cannot work with --ncl off"),
        (f"{BANK_V} --save new --prior off --temperature 0.1", "cannot work with --prior off"),
        (f"{BANK_V} --save new --ncl off --prior even", "cannot work with --ncl off"),
        (f"{BANK_V} --save new --emcl off --seed 1", "cannot work with --emcl off"),
        (f"{BANK_V} --save new --memory lots", "4G"),
        (f"{BANK_V} --save new --sim s.npy", "--sim"),
        ("apply", "DIR"),
        ("apply fitted", "--text or --video"),
        ("apply fitted --text t.npy --video v.npy", "one of the two"),
        (f"{APPLY} t.npy --output o.csv", ".npy"),
        (f"{APPLY} t.npy --output o", ".npy"),
        (f"{APPLY} t.npy --top 3 --output o.npy", ".csv"),
        (f"{APPLY} t.npy --top 0", "--top"),
        (f"{APPLY} t.npy --top many", "--top"),
        ("show", "DIR"),
        ("show fitted other", "other"),
        ("tune --text-bank tb.npy", "tuning needs pairs"),
        ("tune --video-bank vb.npy", "tuning needs pairs"),
        ("tune --video v.npy --save new", "tuning needs pairs"),
        (f"{PAIRS} --save new", "--save needs the gallery"),
        (f"{PAIRS} --text t.npy --video v.npy --save new", "not both"),
        (f"{PAIRS} --budget abc", "'abc' is not a time; 60s, 5m and 1h are"),
        (f"{PAIRS} --budget 0s", "'0s' is not a time"),
        (f"{PAIRS} --budget -5", "'-5' is not a time"),
        (f"{PAIRS} --budget 1.5.2m", "is not a time"),
        (f"{PAIRS} --budget 5d", "is not a time"),
        (f"{PAIRS} --cuts 0", "--cuts"),
        (f"{PAIRS} --seed -1", "--seed"),
        ("--text-bank tb.npy", "nothing to work on"),
        ("--text t.npy --text-bank tb.npy", "--text alone"),
        ("--sim t.npy --text-bank tb.npy", "hold embeddings"),
        (f"{MAIN} --sim t.npy --video-bank vb.npy", "without --sim"),
        (f"{MAIN} --text-bank tb.npy --check-leak", "--check-leak"),
        (f"{MAIN} --text-bank tb.npy --report r.html", "--gt"),
        (f"--text-bank tb.npy {BANK_V} --save new", "cannot go with the sub-command fit"),
    ],
)
def test_wrong_use_is_told_and_writes_nothing(fitted, emcl, arguments, words):
    folder = fitted.parent
    before = everything(folder)
    result = emcl(*arguments.split(), status=2)
    assert words in result.words
    assert "Usage: emcl-rerank" in result.words
    assert "--help" in result.words
    assert result.out == ""
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (f"{BANK_V} --save fitted", "is there already"),
        (f"{BANK_V} --save fitted", "--force"),
        (f"{BANK_V} --save other --force", "thesis.txt"),
        (f"{BANK_V} --save ids.txt", "is a file"),
        (f"{BANK_V} --save ids.txt --force", "is a file"),
        (f"{BANK_V} --save no/new", "create it first"),
        (f"{BANK_V} --save new --names few.txt", "2 lines for 200 items"),
        (f"{BANK_V} --save new --names no.txt", "cannot be read"),
        (f"{BANK_V} --save new --device tpu", "device"),
        (f"{BANK_V} --save new --video-bank narrow.npy", "another dimension than the gallery"),
        ("fit --text-bank tb.npy --video narrow.npy --save new", "different dimensions"),
        ("fit --text-bank nanbank.npy --video v.npy --save new", "[137, 5] = nan"),
        ("fit --text-bank tb.npy --video nan.npy --save new", "gallery[137, 5] = nan"),
        ("fit --text-bank zero.npy --video v.npy --save new", "[3]"),
        ("fit --text-bank words.npy --video v.npy --save new", "not an .npy file"),
        ("fit --text-bank no.npy --video v.npy --save new", "does not exist"),
        ("fit --text-bank flat.npy --video v.npy --save new", "two dimensions"),
        ("fit --text-bank int.npy --video v.npy --save new", "floating-point"),
        ("apply no --text t.npy", "there is no saved corrector"),
        ("apply ids.txt --text t.npy", "is a file, not a folder"),
        ("apply other --text t.npy", "other/corrector.json"),
        (f"{APPLY} narrow.npy", "another dimension than the gallery"),
        (f"{APPLY} nan.npy", "queries[137, 5] = nan"),
        (f"{APPLY} nan.npy --top 2", "queries[137, 5] = nan"),
        (f"{APPLY} zero.npy", "queries[3]"),
        (f"{APPLY} flat.npy", "two dimensions"),
        (f"{APPLY} int.npy", "floating-point"),
        (f"{APPLY} no.npy", "does not exist"),
        (f"{APPLY} words.npy", "not an .npy file"),
        (f"{APPLY} t.npy --output tb.npy", "--force"),
        (f"{APPLY} t.npy --output no/o.npy", "create it first"),
        (f"{APPLY} t.npy --gt no.npy", "does not exist"),
        (f"{APPLY} short.npy --gt diagonal", "150 texts and 200 videos"),
        (f"{APPLY} t.npy --gt flat.npy", "4 entries for 200 texts"),
        (f"{APPLY} t.npy --device tpu", "device"),
        ("show no", "there is no saved corrector"),
        ("show ids.txt", "is a file, not a folder"),
        ("show other --json", "other/corrector.json"),
        ("tune --text-bank no.npy --video-bank vb.npy", "does not exist"),
        ("tune --text-bank tb.npy --video-bank short.npy", "200 texts and 150 videos"),
        ("tune --text-bank tb.npy --video-bank narrow.npy --cuts 1", "different dimensions"),
        ("tune --text-bank flat.npy --video-bank flat.npy", "two dimensions"),
        (f"{PAIRS} --bank-gt flat.npy", "4 entries for 200 texts"),
        (f"{PAIRS} --bank-gt no.csv", "cannot be read"),
        (f"{PAIRS} --video v.npy --save fitted", "--force"),
        (f"{PAIRS} --video v.npy --save new --names few.txt", "2 lines for 200 items"),
        (f"{PAIRS} --video no.npy --save new", "does not exist"),
        (f"{PAIRS} --video narrow.npy --save new --budget 0.001", "dimension"),
        (f"{MAIN} --text-bank narrow.npy", "text_bank has another dimension"),
        (f"{MAIN} --video-bank narrow.npy", "video_bank has another dimension"),
        (f"{MAIN} --text-bank no.npy", "does not exist"),
        (f"{MAIN} --text-bank nanbank.npy", "text_bank[137, 5] = nan"),
        (f"{MAIN} --text-bank int.npy", "text_bank does not hold floating-point"),
        (f"{MAIN} --text-bank tb.npy --output v.npy", "--force"),
    ],
)
def test_bad_files_are_told_in_three_parts_and_leave_nothing(fitted, emcl, arguments, words):
    folder = fitted.parent
    spoil(folder)
    before = everything(folder)
    result = emcl(*arguments.split(), status=1)
    assert words in result.words
    assert re.search(r"^Error: .+\n  received: .+\n  to do:    .+", result.words, re.M)
    assert result.out == ""
    assert everything(folder) == before


@pytest.mark.parametrize("side", ["text", "video"])
def test_fit_blames_the_file_that_is_at_fault(folder, emcl, side):
    """A bank with a NaN, not the side of it, nor that of the gallery."""
    spoil(folder)
    bank, gallery = ("--text-bank", "--video") if side == "text" else ("--video-bank", "--text")
    words = emcl("fit", bank, "nanbank.npy", gallery, "t.npy", "--save", "new", status=1).words
    (received,) = re.findall(r"received: (.*)", words)
    assert "bank" in received
    assert {"text": "video", "video": "text"}[side] not in received


def test_a_gallery_that_cannot_be_fitted_is_told_before_the_tuning(folder, emcl, monkeypatch):
    spoil(folder)
    monkeypatch.setattr("emcl_plugin.tune.tune", lambda *_, **__: pytest.fail("tuned for nothing"))
    words = emcl(*PAIRS.split(), "--video", "narrow.npy", "--save", "new", status=1).words
    assert "dimension" in words


# --- help --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fit", "apply", "show", "tune"])
def test_help_shows_options_and_examples(emcl, command):
    result = emcl(command, "--help")
    assert result.words == ""
    assert "Examples:" in result.out
    assert f"  emcl-rerank {command} " in result.out
    assert emcl(command, "-h").out == result.out
    assert re.search(rf"^  {command} ", emcl("--help").out, re.M)


def test_help_is_quick_and_waits_for_nothing_heavy():
    code = (
        "import sys\n"
        "from emcl_plugin.cli.main import command\n"
        "for name in ('fit', 'apply', 'show', 'tune'):\n"
        "    command.main([name, '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Examples:") == 4
