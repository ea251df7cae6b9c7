"""`--candidates`: runs without a matrix."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose

from emcl_plugin import rerank_top
from emcl_plugin.cli.main import command
from emcl_plugin.data.demo import load_demo

BOTH = ["--text", "t.npy", "--video", "v.npy", "--candidates", "50"]


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo = load_demo()
    np.save("t.npy", demo.text.astype(np.float32))
    np.save("v.npy", demo.video.astype(np.float32))

    def run(*options, status=0):
        found = CliRunner().invoke(command, list(options))
        assert found.exit_code == status, found.output
        return found

    return run


def test_both_runs_are_rerank_tops(invoke):
    told = invoke(*BOTH, "--run", "a.csv", "--run-v2t", "b.csv", "--top", "7", "--json")
    pair = np.load("t.npy"), np.load("v.npy")
    for name, found in (("a.csv", rerank_top(pair, 7, candidates=50)),):
        rows = list(csv.DictReader(Path(name).read_text().splitlines()))
        assert [int(r["video"]) for r in rows] == found.videos.ravel().tolist()
        assert_allclose([float(r["score"]) for r in rows], found.scores.ravel(), rtol=1e-6)
    assert len(list(csv.DictReader(Path("b.csv").read_text().splitlines()))) == 7 * 945
    facts = json.loads(told.stdout)
    assert facts["candidates"]["pairs"] == found.coverage.pairs
    assert facts["output"] is None
    assert "of their ten best videos among them" in " ".join(told.stderr.split())


def test_ground_truth_gives_before_and_after_and_says_what_is_missing(invoke):
    said = invoke(*BOTH, "--run", "a.jsonl", "--top", "5", "--gt", "diagonal").stderr
    assert "input" in said
    assert "emcl_plugin" in said
    assert "no candidates and count as last" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BOTH, "name a run"),
        ([*BOTH, "--run", "a.csv", "--output", "m.npy"], "name a run"),
        ([*BOTH, "--run", "a.csv", "--top", "60"], "more than --candidates"),
        ([*BOTH, "--run", "a.csv", "--sim", "s.npy"], "searched among embeddings"),
        (["--sim", "s.npy", "--candidates", "9", "--run", "a.csv"], "searched among embeddings"),
        ([*BOTH, "--run", "a.csv", "--text-bank", "t.npy"], "searched among embeddings"),
        ([*BOTH, "--run", "a.csv", "--report", "o.html", "--gt", "diagonal"], "need all scores"),
        ([*BOTH[:4], "--index", "Flat"], "--index is for --candidates"),
    ],
)
def test_wrong_use_is_told(invoke, options, words):
    said = invoke(*options, status=2).output
    assert words in " ".join(said.split())
    assert sorted(p.name for p in Path().iterdir()) == ["t.npy", "v.npy"]
