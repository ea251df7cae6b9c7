"""`compare` and `eval`: every method in a table, in every format; measures as asked."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from bank_files import facts_of, invoke

from emcl_plugin.baselines import METHODS
from emcl_plugin.data.demo import load_demo


@pytest.fixture(scope="module")
def demo_rows():
    return facts_of(invoke("compare", "--demo", "--format", "json", "-q"))


def test_every_method_runs_on_the_demo(demo_rows):
    names = {row["name"] for row in demo_rows}
    ours = {"+EMCL", "+NCL", "emcl_plugin", "emcl_plugin-bank", "ncl-even", "ncl-gentle"}
    assert names == {"input", *ours, *METHODS}
    banked = next(row for row in demo_rows if row["name"] == "emcl_plugin-bank")
    assert banked["protocol"] == "bank"


def test_ours_is_first_with_no_option(demo_rows):
    best = max(row["mean"]["R@1"] for row in demo_rows)
    ours = next(row for row in demo_rows if row["name"] == "emcl_plugin")
    assert ours["mean"]["R@1"] == best
    assert ours["protocol"] == "transductive"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_every_format_names_methods_and_metrics(form):
    out = invoke(
        "compare", "--demo", "--methods", "input,csls,emcl_plugin", "--format", form, "-q"
    ).out
    for word in ("input", "csls", "R@1", "MdR", "transductive", "bank"):
        assert word in out
    if form == "csv":
        rows = list(csv.reader(io.StringIO(out)))
        assert len({len(row) for row in rows}) == 1
    if form == "latex":
        assert r"\textbf{" in out
        assert "_" not in out.replace(r"\_", "")


def test_sorted_by_a_measure_or_not_at_all():
    names = ["csls", "emcl_plugin", "input"]

    def order(by):
        out = invoke("compare", "--demo", "--methods", ",".join(names), "--sort", by,
                  "--format", "json", "-q").out  # fmt: skip
        return [row["name"] for row in json.loads(out)]

    assert order("none") == names
    assert order("R@1") == ["emcl_plugin", "csls", "input"]
    assert order("MnR")[0] == "emcl_plugin"


def test_what_cannot_run_is_named(tmp_path):
    np.save(tmp_path / "s.npy", np.random.default_rng(0).random((20, 20)))
    result = invoke("compare", "--sim", tmp_path / "s.npy")
    assert "Note: +EMCL needs features" in result.words
    assert "dbsn" in result.words


def test_eval_measures_both_directions(tmp_path):
    data = load_demo()
    np.save(tmp_path / "t.npy", data.text)
    np.save(tmp_path / "v.npy", data.video)
    files = ("--text", tmp_path / "t.npy", "--video", tmp_path / "v.npy")
    out = facts_of(invoke("eval", *files, "--json", "--measures", "R@1,mAP,GM"))
    assert set(out) == {"text -> video", "video -> text"}
    assert out["text -> video"]["R@1"] == pytest.approx(43.7, abs=0.5)
    assert 0 < out["text -> video"]["mAP"] < 1
    assert out["video -> text"]["hubness"]["k"] == 10
    words = invoke("eval", *files).out
    assert "R@10" in words
    assert "skewness" in words


def test_eval_with_ground_truth_ids_and_mask(tmp_path):
    sim = np.eye(4)[:, :2]  # texts 0 and 1 find their video, 2 and 3 score nothing
    np.save(tmp_path / "s.npy", sim)
    (tmp_path / "gt.csv").write_text("text,video\na,x\nb,y\nc,x\nd,y\n")
    (tmp_path / "t.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "v.txt").write_text("x\ny\n")
    np.save(tmp_path / "m.npy", np.array([1, 1, 0, 0]))
    common = ("eval", "--sim", tmp_path / "s.npy", "--gt", tmp_path / "gt.csv", "--json",
              "--text-ids", tmp_path / "t.txt", "--video-ids", tmp_path / "v.txt")  # fmt: skip
    assert facts_of(invoke(*common))["text -> video"]["R@1"] == 50
    masked = facts_of(invoke(*common, "--query-mask", tmp_path / "m.npy"))
    assert masked["text -> video"] | {"R@1": 100.0, "left_out": 2} == masked["text -> video"]
