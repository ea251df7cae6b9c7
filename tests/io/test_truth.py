"""All formats give the same ground truth; bad files give this project's errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from emcl_plugin.errors import EmclError
from emcl_plugin.io.truth import read_lines, read_mask, read_truth

PAIRS = [(0, 1), (1, 0), (2, 1), (2, 2)]
TEXTS, VIDEOS = ["a b", "c", "ü"], ["v1", "v 2", "7"]


def write(path, form, names):
    rows = [(TEXTS[t], VIDEOS[v]) if names else (str(t), str(v)) for t, v in PAIRS]
    if form == ".npy":
        np.save(path, np.array(PAIRS))
    elif form in (".csv", ".tsv"):
        mark = "," if form == ".csv" else "\t"
        path.write_text("\n".join([f"text{mark}video"] + [mark.join(r) for r in rows]), "utf-8")
    elif form == ".jsonl":
        path.write_text("\n\n".join(json.dumps({"text": t, "video": v}) for t, v in rows), "utf-8")
    elif form == ".parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {"text": [t for t, _ in rows], "video": [v for _, v in rows]}
        parquet.write_table(pa.table(columns), path)
    else:
        path.write_text("\n".join(f"{t} 0 {v} 1" for t, v in rows), "utf-8")


@pytest.mark.parametrize(
    ("form", "names"),
    [
        *((form, False) for form in (".npy", ".csv", ".tsv", ".jsonl", ".parquet", ".qrels")),
        *((form, True) for form in (".csv", ".tsv", ".jsonl", ".parquet")),
    ],
)
def test_every_format(tmp_path, form, names):
    path = tmp_path / f"gt{form}"
    write(path, form, names)
    ids = (TEXTS, VIDEOS) if names else (None, None)
    truth = read_truth(path, (3, 3), *ids)
    assert list(zip(truth.query, truth.item, strict=True)) == PAIRS
    assert_array_equal(truth.grade, 1)


def test_index_array_and_graded_qrels(tmp_path):
    np.save(tmp_path / "gt.npy", np.array([1, 0, 1]))
    truth = read_truth(tmp_path / "gt.npy", (3, 2))
    assert truth.item.tolist() == [1, 0, 1]
    (tmp_path / "gt.qrels").write_text("q1 0 d2 2\nq1 0 d1 0\n\nq2 0 d1 1\n")
    truth = read_truth(tmp_path / "gt.qrels", (2, 2), ["q1", "q2"], ["d1", "d2"])
    assert (truth.query.tolist(), truth.item.tolist()) == ([0, 1], [1, 0])
    assert truth.grade.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gt.xml", "<a/>", "unknown ground-truth format"),
        ("gt.csv", "query,item\n1,2\n", "no columns text and video"),
        ("gt.csv", "", "no columns"),
        ("gt.csv", "text,video\n1\n", "no text or no video"),
        ("gt.csv", f"text,video\n{'x' * 200_000},1\n", "line 2: field larger"),
        ("gt.csv", "text,video,grade\n1,1,good\n", "not a number"),
        ("gt.csv", "text,video,grade\n1,1,nan\n", "not a number"),
        ("gt.csv", "text,video,grade\n1,1,inf\n", "not a number"),
        ("gt.csv", "text,video\nx,1\n", "--text-ids"),
        ("gt.csv", "text,video\n-1,1\n", "--text-ids"),
        ("gt.csv", "text,video\n0,9\n", "video 9 of 3"),
        ("gt.jsonl", "{", "no text or no video"),
        ("gt.jsonl", "[1, 2]", "no text or no video"),
        ("gt.jsonl", '{"text": {"a": 1}, "video": 1}', "no text or no video"),
        ("gt.qrels", "1 0 2\n", "not TREC qrels"),
        ("gt.parquet", "nonsense", "Parquet"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, words):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(EmclError, match=words) as caught:
        read_truth(path, (3, 3))
    assert name in str(caught.value) or "video 9" in str(caught.value)


def test_unknown_and_repeated_ids_are_named(tmp_path):
    path = tmp_path / "gt.csv"
    path.write_text("text,video\na,zzz\n")
    with pytest.raises(EmclError, match="'zzz'"):
        read_truth(path, (1, 2), ["a"], ["x", "y"])
    with pytest.raises(EmclError, match="same id"):
        read_truth(path, (1, 2), ["a"], ["x", "x"])
    with pytest.raises(EmclError, match="2 ids for 3 videos"):
        read_truth(path, (1, 3), ["a"], ["zzz", "y"])


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(EmclError, match="cannot be read"):
        read_truth(tmp_path / "no.csv", (1, 1))
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00text")
    with pytest.raises(EmclError, match="UTF-8"):
        read_truth(tmp_path / "b.csv", (1, 1))


def test_only_line_feeds_end_a_line(tmp_path):
    """Captions may contain Unicode line separators; CSV fields may contain line feeds."""
    captions = ["a\u2028b", "c\x0bd", "", "e\x85"]
    (tmp_path / "names.txt").write_text("\r\n".join(captions) + "\n", "utf-8")
    assert read_lines(tmp_path / "names.txt", 4, "text names") == captions
    (tmp_path / "gt.csv").write_text('text,video\n"x\ny",z\n', "utf-8")
    truth = read_truth(tmp_path / "gt.csv", (1, 1), ["x\ny"], ["z"])
    assert truth.item.tolist() == [0]


def test_lines_and_masks_fit_the_items(tmp_path):
    (tmp_path / "ids.txt").write_text("a\nb\n")
    assert read_lines(tmp_path / "ids.txt", 2, "text ids") == ["a", "b"]
    with pytest.raises(EmclError, match="2 lines for 3 items"):
        read_lines(tmp_path / "ids.txt", 3, "text ids")
    np.save(tmp_path / "m.npy", np.array([1, 0]))
    assert read_mask(tmp_path / "m.npy", 2).tolist() == [True, False]
    with pytest.raises(EmclError, match="mask"):
        read_mask(tmp_path / "m.npy", 3)
