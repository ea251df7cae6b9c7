"""The files of a run on the command line: the same numbers in each, and all of them or none."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from bank_files import BOTH, facts_of, invoke
from numpy.testing import assert_allclose, assert_array_equal
from pyarrow import parquet

from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import InputFileError
from emcl_plugin.io import topk
from emcl_plugin.io.formats import read_array


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """300 texts and 200 videos, where the correction has something to do."""
    monkeypatch.chdir(tmp_path)
    data = load_demo()
    np.save("t.npy", data.text[:300])
    np.save("v.npy", data.video[:200])
    return tmp_path


def run(*options, status=0):
    return invoke(*BOTH, *options, status=status)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in ("t.npy", "v.npy"))


def read_run(path, n):
    """Indices and scores, (queries, k), of a run of n queries; the ranks are checked."""
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    table = np.array(rows, "f8").reshape(n, -1, 4)
    assert_array_equal(table[:, :, 0], np.arange(n)[:, None] + 0 * table[:, :, 0])
    assert_array_equal(table[:, :, 2], np.arange(table.shape[1])[None] + 1 + 0 * table[:, :, 2])
    return names, table[:, :, 1].astype(int), table[:, :, 3]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_kind_of_matrix_holds_the_same_numbers(folder, dtype):
    names = ["o.npy", "o.npz", "o.safetensors", "o.PARQUET"]
    for name in names:
        told = run("--output", name, "--dtype", dtype)
        assert f"{name} (300 x 200 {dtype})" in told.words
    first, *others = map(read_array, names)
    assert first.dtype == dtype
    for other in others:
        assert other.dtype == dtype
        assert_array_equal(other, first)
    assert files(folder) == sorted(names)


@pytest.mark.parametrize("memory", [(), ("--memory", "1M")], ids=["free", "1M"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])  # in half precision there are ties
def test_a_run_is_the_matrix_sorted(folder, dtype, memory):
    run("-o", "o.npy", "--run", "r.csv", "--top", "20", "--dtype", dtype, *memory)
    matrix = np.load("o.npy")
    order = np.argsort(-matrix, axis=1, kind="stable")[:, :20]
    names, videos, scores = read_run("r.csv", 300)
    assert names == ["text", "video", "rank", "score"]
    assert_array_equal(videos, order)
    assert_array_equal(scores.astype("f4"), np.take_along_axis(matrix, order, 1))
    assert files(folder) == ["o.npy", "r.csv"]


@pytest.mark.usefixtures("folder")
def test_a_run_of_videos():
    run("-o", "o.npy", "--run-v2t", "r.csv", "--top", "7", "--dtype", "float32")
    matrix = np.load("o.npy").T
    names, texts, scores = read_run("r.csv", 200)
    assert names == ["video", "text", "rank", "score"]
    assert_allclose(scores, np.take_along_axis(matrix, texts, 1), rtol=0, atol=1e-6)
    assert_allclose(scores, -np.sort(-matrix, axis=1)[:, :7], rtol=0, atol=1e-6)
    assert all(len({*row}) == 7 for row in texts.tolist())


@pytest.mark.slow
def test_scores_that_are_left_alone_make_exact_runs_of_both_sides(folder):
    matrix = np.random.default_rng(0).integers(0, 9, (300, 200)).astype("f4")
    np.save("s.npy", matrix)
    off = ["--sim", "s.npy", "--emcl", "off", "--ncl", "off"]
    run(*off, "--run", "a.csv", "--run-v2t", "b.csv", "--top", "1000", "--memory", "1M")
    for name, x in (("a.csv", matrix), ("b.csv", matrix.T)):
        order = np.argsort(-x, axis=1, kind="stable")
        _, items, scores = read_run(name, len(x))
        assert_array_equal(items, order)
        assert_array_equal(scores, np.take_along_axis(x, order, 1))
    assert files(folder) == ["a.csv", "b.csv", "s.npy"]


def test_with_a_run_and_no_output_there_is_no_matrix(folder):
    told = run("--run", "r.jsonl", "--run-v2t", "v.parquet", "--json", "--check-leak")
    facts = facts_of(told, "rerank")
    assert facts["output"] is None
    assert facts["runs"] == {"text -> video": "r.jsonl", "video -> text": "v.parquet"}
    assert "r.jsonl (the 100 best videos of each text)" in told.words
    assert "v.parquet (the 100 best texts of each video)" in told.words
    assert files(folder) == ["r.jsonl", "v.parquet"]
    assert len(Path("r.jsonl").read_text("utf-8").splitlines()) == 300
    assert len(parquet.read_table("v.parquet")) == 200 * 100


@pytest.mark.usefixtures("folder")
def test_a_bank_makes_runs_too():
    np.save("tb.npy", load_demo().text_bank[:200])
    runs = ["-o", "o.npy", "--run", "r.csv", "--run-v2t", "v.csv", "--dtype", "float32"]
    run("--text-bank", "tb.npy", *runs)
    matrix = np.load("o.npy")
    _, videos, scores = read_run("r.csv", 300)
    assert_array_equal(videos, np.argsort(-matrix, axis=1, kind="stable")[:, :100])
    assert_array_equal(scores.astype("f4"), np.take_along_axis(matrix, videos, 1))
    _, texts, scores = read_run("v.csv", 200)
    assert_allclose(scores, np.take_along_axis(matrix.T, texts, 1), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("folder")
def test_ids_are_in_every_output():
    texts, videos = ([f"{side},{i} é" for i in range(n)] for side, n in (("t", 300), ("v", 200)))
    Path("t.txt").write_text("\n".join(texts), "utf-8")
    Path("v.txt").write_text("\n".join(videos), "utf-8")
    ids = ["--text-ids", "t.txt", "--video-ids", "v.txt"]
    run(*ids, "-o", "o.npz", "--run", "r.csv", "--top", "2")
    with np.load("o.npz") as archive:
        assert archive["text_ids"].tolist() == texts
        assert archive["video_ids"].tolist() == videos
        best = archive["scores"].argmax(1)
    with open("r.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["rank"] == "1"]
    assert [row["text"] for row in rows] == texts
    assert [row["video"] for row in rows] == [videos[i] for i in best]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["o.npz", "o.safetensors", "o.parquet"])
def test_a_matrix_that_is_read_again_brings_its_ids(name):
    texts, videos = ([f"{side} {i}" for i in range(n)] for side, n in (("t", 300), ("v", 200)))
    data = load_demo()
    np.savez("t.npz", text=data.text[:300], ids=np.array(texts))
    np.savez("v.npz", video=data.video[:200], ids=np.array(videos))
    run("--text", "t.npz", "--video", "v.npz", "-o", name)
    invoke("--sim", name, "--ncl", "off", "--run", "r.csv", "--top", "1")
    with open("r.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = read_array(name).argmax(1)
    assert [(row["text"], row["video"]) for row in rows] == [
        (text, videos[i]) for text, i in zip(texts, best, strict=True)
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "full")])
def test_all_outputs_or_none(folder, monkeypatch, error):
    """The second run breaks off when matrix and first run are complete."""
    calls = []

    def fail(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return topk_ranked(*arguments)

    topk_ranked = topk.ranked
    monkeypatch.setattr(topk, "ranked", fail)
    (folder / "o.npy").write_text("old")
    told = run("-o", "o.npy", "--run", "a.csv", "--run-v2t", "b.csv", "--force", status=1)
    assert len(calls) == 2
    if error is not KeyboardInterrupt:
        assert isinstance(told.error, InputFileError)
        assert "the disk is full; nothing was written\n  received: b.csv" in str(told.error)
    assert files(folder) == ["o.npy"]
    assert (folder / "o.npy").read_text() == "old"


@pytest.mark.parametrize(
    "where", ["emcl_plugin.cli.rerank.ablation", "emcl_plugin.report.page.write_report"]
)
def test_interrupted_measuring_names_all_that_is_there(folder, monkeypatch, where):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    np.save("v.npy", load_demo().video[:300])
    monkeypatch.setattr(where, interrupt)
    measured = ("--gt", "diagonal", "--report", "r.html")
    told = run("--run", "a.csv", "--run-v2t", "b.csv", *measured, status=1)
    assert "interrupted while measuring; a.csv, b.csv are written" in told.words
    assert files(folder) == ["a.csv", "b.csv"]
    told = run(*measured, status=1)
    assert "interrupted while measuring; reranked.npy is written" in told.words
