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
    assert "of the ten best videos of" in " ".join(told.stderr.split())


def test_ground_truth_gives_before_and_after_and_says_what_is_missing(invoke):
    said = invoke(*BOTH, "--run", "a.jsonl", "--top", "5", "--gt", "diagonal").stderr
    assert "input" in said
    assert "emcl_plugin" in said
    assert "not candidates and rank last" in said
