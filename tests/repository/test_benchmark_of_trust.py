"""The benchmark of trust: its sets, worlds and sums are right, its page is today's, it runs."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
WAYS = ("text -> video", "video -> text")


@pytest.fixture
def modules(monkeypatch):
    """Import a module of the benchmark by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_queries_keep_all_their_right_videos(modules, tmp_path):
    np.save(tmp_path / "sim.npy", np.arange(12.0).reshape(4, 3))
    np.save(tmp_path / "text_to_video.npy", [0, 1, 1, 2])
    np.save(tmp_path / "qrels.npy", [[0, 0, 1], [0, 2, 3], [3, 1, 0]])
    data = modules("sets").load(tmp_path)
    assert data.shape == (4, 3)
    assert data.right.tolist() == [[0, 0], [0, 2], [1, 1], [2, 1], [3, 2]]
    asked = data.ask(np.array([3, 0, 0]))
    assert asked.right.tolist() == [[0, 2], [1, 0], [1, 2], [2, 0], [2, 2]]
    assert asked.owner.tolist() == [2, 0, 0]
    assert_array_equal(asked.sim, data.sim[[3, 0, 0]])


def test_scenarios_ask_as_they_say(modules):
    asked, owner = modules("sets").ASKED, np.repeat(np.arange(100), 3)
    random = np.random.default_rng(0)
    texts = {name: draw(owner, random) for name, draw in asked.items()}
    assert_array_equal(texts["even"], np.arange(300))
    for name, part in (("half", 50), ("fifth", 20)):
        videos, counts = np.unique(owner[texts[name]], return_counts=True)
        assert len(videos) == part
        assert set(counts) == {3}
    assert len(texts["zipf"]) == 300
    assert np.bincount(texts["zipf"]).max() > 20
    assert len(set(texts["few"])) == 50
    assert len(asked["few"](owner[:100], random)) == 0


@pytest.mark.parametrize("kind", ["moderate", "nasty"])
def test_worlds_are_what_their_seed_drew(modules, kind):
    worlds = modules("worlds")
    found = [worlds.make(kind, seed) for seed in range(30)]
    again = worlds.make(kind, 7)[0]
    assert_array_equal(again.text, found[7][0].text)
    assert len({settings.demand for _, settings in found}) > 2
    for data, settings in found:
        assert data.shape[1] == settings.videos
        assert len(data.text) >= (100 if kind == "moderate" else 20)
        per_text = np.bincount(data.right[:, 0], minlength=len(data.text))
        assert set(per_text) <= {settings.together, settings.together + 1}
        assert data.truth.shape == data.shape
    if kind == "moderate":
        assert min(data.shape[1] for data, _ in found) >= 100


def line(part, name, case, draw, **found):
    found = {"input": [50.0, 50.0], **found}
    return {"task": [part, name, case, draw], "found": {case: found}}


def test_figures_are_means_worst_cases_and_shares_harmed(modules):
    figures = modules("trust_figures")
    lines = [
        line("sets", "a", "half", 0, emcl_plugin=[60.0, 50.0]),
        line("sets", "a", "half", 1, emcl_plugin=[48.0, 50.0]),
        line("sets", "b", "half", 0, emcl_plugin=[44.0, 49.5], pca=None),
        line("sets", "b_split", "half", 0, emcl_plugin=[43.0, 50.0]),
    ]
    found = figures.summarise(lines, {"a": (3, 3), "b": (3, 3), "b_split": (2, 2)})
    rows = {(row["method"], row["direction"]): row for row in found["rows"]}
    row = rows["emcl_plugin", WAYS[0]]
    assert (row["r1"], row["input"]) == ((54 + 44) / 2, 50)  # a part of another set is left out
    assert (row["worst"], row["where"], row["worst_draw"]) == (-7, "b_split", -7)
    assert row["harmed"] == [75, 50]
    assert (row["sets"], row["draws"]) == (3, 4)
    assert rows["emcl_plugin", WAYS[1]]["harmed"] == [0, 0]
    assert rows["pca", WAYS[0]] == {
        "part": "sets", "case": "half", "direction": WAYS[0], "method": "pca", "refused": 1,
    }  # fmt: skip
    assert found["sets"]["a"]["half"] == {"input": [50, 50], "emcl_plugin": [54, 50]}
    assert [(x["set"], x["gain"]) for x in found["worst"]] == [
        ("b_split", -7), ("b", -6), ("b", -0.5),
    ]  # fmt: skip


def test_fillings_are_compared_with_each_other_and_with_the_untouched_scores(modules):
    figures = modules("trust_figures")
    same = {"before": [50.0, 50.0], "untouched": [60.0, 60.0]}
    task = ["shapes", "a", "", 0]
    shapes = {
        "top 50, else 0": {"input": [50.0, 50.0], "emcl_plugin": [59.0, 60.0], **same},
        "top 50, else nan": {"input": [50.0, 50.0], "emcl_plugin": [56.0, 60.0], **same},
        "times 100": {"input": [50.0, 50.0], "emcl_plugin": [61.0, 60.0], **same},
    }
    found = figures.summarise([{"task": task, "found": shapes}], {"a": (3, 3)})
    rows = {(row["case"], row["direction"]): row for row in found["rows"] if "kept" in row}
    row = rows["top 50", WAYS[0]]
    assert (row["off"], row["kept"], row["spread"]) == (-4, 75, 3)
    row = rows["times 100", WAYS[0]]
    assert (row["off"], row["kept"], row["spread"]) == (1, 110, 0)
    assert {row["method"] for row in found["rows"]} == {"input", "emcl_plugin"}


def test_peers_are_kept_after_a_change_of_ours(modules, tmp_path):
    trust = modules("trust")
    path, task = tmp_path / "cache.jsonl", ("worlds", "nasty", "nasty", 3)
    trust.Cache(path).add(task, {"nasty": {"input": [1.0, 2.0], "csls": [3.0, 4.0], "pca": None}})
    assert trust.Cache(path).missing(task) == ()
    other = trust.Cache(path)
    other.own = "changed"
    assert set(other.missing(task)) == {"input", "emcl_plugin", "ncl-even"}
    other.add(task, {"nasty": {"input": [1.0, 2.0], "emcl_plugin": [5.0, 6.0]}})
    both = other.found[task]["found"]["nasty"]
    assert both == {"input": [1, 2], "csls": [3, 4], "pca": None, "emcl_plugin": [5, 6]}
    text = path.read_text().replace(other.peers["worlds"], "of other peers")
    path.write_text(text)
    assert "csls" in trust.Cache(path).missing(task)


@pytest.mark.slow
def test_it_runs_and_continues(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- trust.py: begin -->\nold\n<!-- trust.py: end -->\nafter\n")
    command = [sys.executable, str(BENCHMARKS / "trust.py"), "--quick", "--jobs", "1"]
    command += ["--cache", str(tmp_path / "cache.jsonl"), "--json", str(tmp_path / "a.json")]
    command += ["--docs", str(page), "--readme", str(page), "--plot", str(tmp_path / "a.svg")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for progress in (True, False):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=280, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        assert ("min left" in done.stderr) == progress
    figures = json.loads((tmp_path / "a.json").read_text())
    rows = {
        tuple(r[k] for k in ("part", "case", "direction", "method")): r for r in figures["rows"]
    }
    for row in rows.values():
        if "r1" in row:
            assert 0 <= row["r1"] <= 100
            assert 0 <= row["harmed"][1] <= row["harmed"][0] <= 100
            assert row["worst_draw"] <= row["worst"] + 0.01
    for way in WAYS:
        even = {name: rows["sets", "even", way, name] for name in ("input", "emcl_plugin", "sn")}
        assert even["emcl_plugin"]["r1"] > even["input"]["r1"]
        assert rows["worlds", "moderate", way, "emcl_plugin"]["draws"] == 4
        same = rows["shapes", "times 100", way, "emcl_plugin"]
        assert_allclose([same["off"], same["kept"]], [0, 100])
    text = page.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "The worst of" in text
    assert (tmp_path / "a.svg").stat().st_size > 1000
