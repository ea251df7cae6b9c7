"""Every format reads back what was written, or nothing is written."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import time
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal
from pyarrow import parquet
from safetensors import safe_open
from safetensors.numpy import load_file

from emcl_plugin.errors import InputFileError, InputTypeError, InputValueError
from emcl_plugin.io import write_matrices
from emcl_plugin.io.atomic import atomic_writer
from emcl_plugin.io.formats import read_array
from emcl_plugin.io.npy import npy_size, write_npy
from emcl_plugin.io.topk import ranked
from emcl_plugin.io.write import prepare_run, prepare_scores, write_run, write_scores
from emcl_plugin.io.write_matrices import SCORES
from emcl_plugin.io.write_runs import RUNS
from emcl_plugin.scores import Dense

X = np.random.default_rng(0).standard_normal((7, 5))
TIED = np.random.default_rng(1).integers(0, 3, (7, 5)).astype("f4")
TEXTS = ["a, b", 'say "hi"', "two\nlines", "tab\there", "猫 🐈", "cr\rlf", " edge "]
VIDEOS = ["v1", "v,2", "v\n3", "v'4", "v5 "]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# --- matrices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("suffix", SCORES)
def test_scores_are_read_back_in_their_dtype(tmp_path, suffix, dtype, rows):
    x, path = X.astype(dtype), tmp_path / f"s{suffix}"
    write = prepare_scores(path, x.shape, x.dtype, (TEXTS, VIDEOS), force=False)
    with atomic_writer(path, force=False) as file:
        write(file, (x[i : i + rows] for i in range(0, len(x), rows)))
    found = read_array(path)
    assert found.dtype == dtype
    assert_array_equal(found, x)
    assert files(tmp_path) == [path.name]
    assert suffix != ".npy" or path.stat().st_size == npy_size(x.shape, x.itemsize)


def test_ids_are_where_the_format_has_a_place_for_them(tmp_path):
    blocks = Dense(torch.from_numpy(X), memory=1 << 9)
    assert blocks.block_rows < len(X)
    for suffix in SCORES:
        write_scores(tmp_path / f"s{suffix}", blocks, text_ids=TEXTS, video_ids=VIDEOS)
    with np.load(tmp_path / "s.npz") as archive:
        assert (archive["text_ids"].tolist(), archive["video_ids"].tolist()) == (TEXTS, VIDEOS)
    with safe_open(tmp_path / "s.safetensors", "np") as file:
        ids = {name: json.loads(ids) for name, ids in file.metadata().items()}
    assert ids == {"text_ids": TEXTS, "video_ids": VIDEOS}
    table = parquet.read_table(tmp_path / "s.parquet")
    assert table["id"].to_pylist() == TEXTS
    assert json.loads(table.schema.metadata[b"video_ids"]) == VIDEOS


def test_without_ids_there_are_none(tmp_path):
    for suffix in SCORES:
        write_scores(tmp_path / f"s{suffix}", X)
    assert np.load(tmp_path / "s.npz").files == ["scores"]
    assert [*load_file(tmp_path / "s.safetensors")] == ["scores"]
    length = int.from_bytes((tmp_path / "s.safetensors").read_bytes()[:8], "little")
    assert length % 8 == 0, "the numbers are not aligned"
    schema = parquet.read_schema(tmp_path / "s.parquet")
    assert (schema.names, b"video_ids" in (schema.metadata or {})) == (["scores"], False)


@pytest.mark.parametrize("suffix", SCORES)
def test_the_same_scores_are_the_same_bytes_at_any_time(tmp_path, monkeypatch, suffix):
    for name, now in (("a", 1e9), ("b", 1.5e9)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        write_scores(tmp_path / f"{name}{suffix}", X, text_ids=TEXTS)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SCORES)
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.from_numpy(X), X),
        (torch.from_numpy(X).bfloat16(), torch.from_numpy(X).bfloat16().float().numpy()),
        (torch.from_numpy(X).half().requires_grad_(), X.astype("f2")),
        (np.asfortranarray(X)[::-1], X[::-1]),
        (X.astype(">f4"), X.astype("f4")),
        (Dense(torch.from_numpy(X), dtype=torch.float64, memory=1 << 7), X),
    ],
    ids=["tensor", "bfloat16", "grad", "strides", "big-endian", "source"],
)
def test_whatever_holds_scores(tmp_path, suffix, given, wanted):
    write_scores(tmp_path / f"s{suffix}", given)
    found = read_array(tmp_path / f"s{suffix}")
    assert found.dtype == wanted.dtype
    assert_array_equal(found, wanted)


# --- runs ----------------------------------------------------------------------------------------


def reference(x, k, queries, items):
    """Return (query, item, rank, score) by a stable sort of whole rows."""
    order = np.argsort(-x.astype("f8"), axis=1, kind="stable")[:, :k]
    return [
        (queries[i], items[j], rank, x[i, j])
        for i, row in enumerate(order)
        for rank, j in enumerate(row, 1)
    ]


def read_csv(path, dialect):
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file, dialect)
    return names[:2], [(q, item, int(rank), float(score)) for q, item, rank, score in rows]


def read_jsonl(path):
    rows, names = [], []
    for line in path.read_text("utf-8").split("\n")[:-1]:
        entry = json.loads(line)
        (query, items, scores), names = entry.values(), [*entry]
        rows += [(query, *x) for x in zip(items, range(1, 99), scores, strict=False)]
    assert (names[1][-1], names[2]) == ("s", "scores")
    return [names[0], names[1][:-1]], rows


def read_parquet(path):
    table = parquet.read_table(path)
    assert table.column_names[2:] == ["rank", "score"]
    return table.column_names[:2], list(zip(*table.to_pydict().values(), strict=True))


def read_trec(path):
    found = list(ir_measures.read_trec_run(str(path)))
    ranks = [int(line.split()[3]) for line in path.read_text().splitlines()]
    return None, [(x.query_id, x.doc_id, r, x.score) for x, r in zip(found, ranks, strict=True)]


READ = {
    ".csv": lambda path: read_csv(path, "excel"),
    ".tsv": lambda path: read_csv(path, "excel-tab"),
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".trec": read_trec,
    ".run": read_trec,
}


def test_every_format_of_runs_is_tried():
    assert READ.keys() == RUNS.keys()


@pytest.mark.parametrize(
    "x", [*(X.astype(f"f{n}") for n in (2, 4, 8)), TIED], ids=["f2", "f4", "f8", "ties"]
)
@pytest.mark.parametrize("direction", ["text -> video", "video -> text"])
@pytest.mark.parametrize("suffix", RUNS)
def test_runs_are_the_first_of_a_stable_sort(tmp_path, suffix, direction, x):
    path = tmp_path / f"r{suffix}"
    texts, videos = TEXTS, VIDEOS
    if READ[suffix] is read_trec:
        texts, videos = ([f"é,{i}" for i in range(n)] for n in x.shape)
    write_run(path, x, 3, direction=direction, text_ids=texts, video_ids=videos)
    names, rows = READ[suffix](path)
    forward = direction == "text -> video"
    wanted = reference(x, 3, texts, videos) if forward else reference(x.T, 3, videos, texts)
    assert [(*row[:3], x.dtype.type(row[3])) for row in rows] == wanted
    assert names in (None, ["text", "video"] if forward else ["video", "text"])
    assert files(tmp_path) == [path.name]


def test_a_trec_run_measures_as_the_matrix_does(tmp_path):
    x = np.random.default_rng(2).standard_normal((50, 50)).astype("f4") + np.eye(50, dtype="f4")
    write_run(tmp_path / "r.trec", x)
    qrels = [ir_measures.Qrel(str(i), str(i), 1) for i in range(50)]
    run = ir_measures.read_trec_run(str(tmp_path / "r.trec"))
    found = ir_measures.calc_aggregate([ir_measures.RR, ir_measures.Success @ 1], qrels, run)
    ranks = 1 + (x > x.diagonal()[:, None]).sum(1)
    assert found[ir_measures.RR] == pytest.approx((1 / ranks).mean())
    assert found[ir_measures.Success @ 1] == pytest.approx((ranks == 1).mean())


def test_without_ids_a_run_names_indices_and_lines_tell_equal_ids_apart(tmp_path):
    write_run(tmp_path / "r.csv", X, 100)
    assert READ[".csv"](tmp_path / "r.csv")[1] == reference(X, 5, "0123456", "01234")
    write_run(tmp_path / "r.jsonl", X, 1, text_ids=["t"] * 7)
    assert READ[".jsonl"](tmp_path / "r.jsonl")[1] == reference(X, 1, ["t"] * 7, "01234")


@given(
    arrays("f4", array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-2, 2)),
    st.integers(1, 12),
    st.integers(1, 5),
)
def test_ties_go_to_the_lower_index_whatever_the_blocks(x, k, rows):
    k = min(k, x.shape[1])
    blocks = torch.from_numpy(x).split(rows)
    wanted = np.argsort(-x, axis=1, kind="stable")[:, :k]
    starts, scores, columns = zip(*ranked(blocks, k), strict=True)
    assert [*starts] == [*range(0, len(x), rows)]
    assert_array_equal(np.concatenate(columns), wanted)
    assert_array_equal(np.concatenate(scores), np.take_along_axis(x, wanted, 1))


@given(ids=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=2,
                    max_size=4, unique=True),
       suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))  # fmt: skip
def test_any_ids_survive(tmp_path_factory, ids, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    x = np.eye(len(ids))
    write_run(path, x, 1, text_ids=ids, video_ids=ids[::-1], force=True)
    assert READ[suffix](path)[1] == reference(x, 1, ids, ids[::-1])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_neighbouring_numbers_stay_apart_in_every_text(tmp_path, dtype):
    one = np.ones(1, dtype)
    x = np.stack([np.nextafter(one, 0), one, np.nextafter(one, 2)], 1)
    for suffix in (".csv", ".jsonl", ".trec"):
        write_run(tmp_path / f"r{suffix}", x)
        scores = [row[3] for row in READ[suffix](tmp_path / f"r{suffix}")[1]]
        assert scores[0] > scores[1] > scores[2]


# --- what is refused, and what a failure leaves --------------------------------------------------


def spoilt(value):
    x = X.copy()
    x[4, 2] = value
    return x


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda f: write_scores(f / "s.txt", X), r"cannot be written.*s\.txt.*\.npy, \.npz"),
        (lambda f: write_scores(f / "s", X), "cannot be written"),
        (lambda f: write_run(f / "r.xml", X), r"cannot be written.*\.jsonl, \.csv"),
        (lambda f: write_scores(f / "no" / "s.npy", X), "create it first"),
        (lambda f: write_scores(f, X), "is a folder"),
        (lambda f: write_scores(f / "s.npz", X, text_ids=TEXTS[1:]), "6 ids for 7 texts"),
        (lambda f: write_run(f / "r.csv", X, video_ids=TEXTS), "7 ids for 5 videos"),
        (lambda f: write_run(f / "r.csv", X, video_ids=[*"abcdb"]), "two videos.*'b'.*jsonl"),
        (lambda f: write_run(f / "r.trec", X, text_ids=[*"abcdbfg"]), "two texts.*'b'"),
        (lambda f: write_run(f / "r.parquet", X, text_ids=[*"abcdbfg"]), "two texts.*'b'"),
        (lambda f: write_run(f / "r.csv", X, text_ids=["\ud800", *TEXTS[1:]]), "ud800"),
        (lambda f: write_scores(f / "s.npz", X, video_ids=["a\0", *"bcde"]), "not text"),
        (lambda f: write_run(f / "r.trec", X, text_ids=TEXTS), "white space.*'a, b'.*csv"),
        (lambda f: write_run(f / "r.run", X, video_ids=["", *"bcde"]), "is empty"),
        (lambda f: write_run(f / "r.trec", X, video_ids=["a\x85b", *"bcde"]), "white space"),
        (lambda f: write_run(f / "r.csv", X, 0), "k = 0"),
        (lambda f: write_run(f / "r.csv", X, direction="t2v"), "'text -> video' or"),
        (lambda f: write_scores(f / "s.npy", spoilt(np.nan)), r"\[4, 2\] = nan"),
        (lambda f: write_run(f / "r.csv", spoilt(np.inf)), r"\[4, 2\] = inf"),
        (lambda f: write_scores(f / "s.npy", X[0]), "two dimensions"),
        (lambda f: write_scores(f / "s.npy", X.astype(int)), "floating-point"),
        (lambda f: write_scores(f / "s.npy", X.tolist()), "not an array"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, write, words):
    with pytest.raises((InputFileError, InputValueError, InputTypeError), match=f"(?s){words}"):
        write(tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_more_ids_than_readers_accept_are_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(write_matrices, "_MOST_METADATA", 64)
    with pytest.raises(InputValueError, match="too many or too long"):
        write_scores(tmp_path / f"s{suffix}", X, video_ids=["x" * 50, *"bcde"])


@pytest.mark.parametrize("write", [write_scores, write_run])
def test_parquet_without_its_library(tmp_path, monkeypatch, write):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputFileError, match="formats"):
        write(tmp_path / "x.parquet", X)


@pytest.mark.parametrize("suffix", [*SCORES, *RUNS])
def test_no_room_is_told_before_the_work(tmp_path, suffix):
    prepare = prepare_scores if suffix in SCORES else prepare_run
    how = {} if suffix in SCORES else {"k": 10**9, "direction": "text -> video"}
    huge, dtype = (10**9, 10**9), np.dtype("f4")
    with pytest.raises(InputFileError, match="disk is full"):
        prepare(tmp_path / f"x{suffix}", huge, dtype, (None, None), force=False, **how)


class Failing(Dense):
    """A source that fails after its first block."""

    error: BaseException

    def rows(self, start, stop):
        if start:
            raise self.error
        return super().rows(start, stop)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError(28, "full")])
@pytest.mark.parametrize("suffix", [*SCORES, *(s for s in RUNS if s != ".parquet"), "run.parquet"])
def test_a_write_that_fails_midway_leaves_what_was_there(tmp_path, suffix, error):
    source = Failing(torch.from_numpy(X), memory=1 << 9)
    source.error = error
    assert 0 < source.block_rows < len(X)
    path = Path(tmp_path / f"x{suffix}")
    write = write_scores if suffix in SCORES else write_run
    kind = InputFileError if isinstance(error, OSError) else type(error)
    with pytest.raises(kind):
        write(path, source)
    assert files(tmp_path) == []
    path.write_text("old")
    with pytest.raises(InputFileError, match="exists already"):
        write(path, source)
    with pytest.raises(kind):
        write(path, source, force=True)
    assert (files(tmp_path), path.read_text()) == ([path.name], "old")


def test_an_output_that_appears_meanwhile_is_kept(tmp_path):
    def blocks():
        (tmp_path / "a.npy").write_text("somebody else's")
        yield np.ones((2, 2), "float32")

    with pytest.raises(InputFileError, match="appeared"):
        write_npy(tmp_path / "a.npy", (2, 2), np.dtype("float32"), blocks())
    assert [p.read_text() for p in tmp_path.iterdir()] == ["somebody else's"]


@pytest.mark.parametrize("force", [True, False])
def test_a_folder_that_vanishes_is_told_and_other_files_failures_are_theirs(tmp_path, force):
    folder = tmp_path / "there"
    folder.mkdir()
    with (
        pytest.raises(InputFileError, match="nothing was written") as told,
        atomic_writer(folder / "scores.npy", force=force),
    ):
        shutil.rmtree(folder)
    assert str(folder / "scores.npy") in told.value.received
    with pytest.raises(FileNotFoundError), atomic_writer(tmp_path / "x.npy", force=force):
        (tmp_path / "input" / "gone.npy").read_bytes()
    assert list(tmp_path.iterdir()) == []
