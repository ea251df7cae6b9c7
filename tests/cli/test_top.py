"""`--candidates`: runs without a matrix."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from bank_files import BOTH, facts_of, invoke
from numpy.testing import assert_allclose

from emcl_plugin import rerank_top
from emcl_plugin.data.demo import load_demo

RUN = (*BOTH, "--candidates", "50")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", load_demo().text.astype(np.float32))
    np.save("v.npy", load_demo().video.astype(np.float32))


def test_both_runs_are_rerank_tops():
    told = invoke(*RUN, "--run", "a.csv", "--run-v2t", "b.csv", "--top", "7", "--json")
    pair = np.load("t.npy"), np.load("v.npy")
    found = rerank_top(pair, 7, candidates=50)
    rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
    assert [int(r["video"]) for r in rows] == found.videos.ravel().tolist()
    assert_allclose([float(r["score"]) for r in rows], found.scores.ravel(), rtol=1e-6)
    assert len(list(csv.DictReader(Path("b.csv").read_text().splitlines()))) == 7 * 945
    facts = facts_of(told)
    assert facts["candidates"]["pairs"] == found.coverage.pairs
    assert facts["output"] is None
    assert "of the ten best videos of" in " ".join(told.words.split())


def test_ground_truth_gives_before_and_after_and_says_what_is_missing():
    said = invoke(*RUN, "--run", "a.jsonl", "--top", "5", "--gt", "diagonal").words
    assert "input" in said
    assert "emcl_plugin" in said
    assert "not candidates and rank last" in said
