"""Text tables return the numbers and ids that were written, or an error names the line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal
from written import refused

from emcl_plugin.io.formats import read_vectors

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
matrices = arrays("f4", array_shapes(min_dims=2, max_dims=2), elements=finite)


@given(matrices, st.data())
def test_every_float32_and_every_id_comes_back(tmp_path_factory, x, data):
    ids = data.draw(st.lists(st.text(), min_size=len(x), max_size=len(x)))
    folder = tmp_path_factory.mktemp("a")
    names = [f"d{i}" for i in range(x.shape[1])]
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        with (folder / f"a{suffix}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=mark)
            clean = [name.replace("\0", "") for name in ids]
            writer.writerow(["video_id", *names])
            writer.writerows([i, *row] for i, row in zip(clean, x.tolist(), strict=True))
        found = read_vectors(folder / f"a{suffix}")
        assert_array_equal(found.array, x)
        assert found.ids == tuple(clean)
    lines = [json.dumps({"key": i, "scores": r}) for i, r in zip(ids, x.tolist(), strict=True)]
    (folder / "a.jsonl").write_text("\n\n".join(lines))
    found = read_vectors(folder / "a.jsonl")
    assert_array_equal(found.array, x)
    assert found.array.dtype == np.float32
    assert found.ids == tuple(ids)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("1,2\n3,4\n", None),
        ("\ufeffx,y\r\n1,2\r\n3,4\r\n", None),
        (",0,1\na,1,2\nb,3,4", ("a", "b")),
        ("index,0,1\n10,1,2\n11,3,4", ("10", "11")),
        ("id,0,1\n5,1,2\n6,3,4", ("5", "6")),
        ("Video,x,y\n5,1,2\n6,3,4", ("5", "6")),
        ("who,x,y\nv5,1,2\nv6,3,4", ("v5", "v6")),
        ("v5,1,2\nv6,3,4", ("v5", "v6")),
        ("1_0,1,2\n1_1, 3 ,4e0", ("1_0", "1_1")),
        ('"a, ""b"",\nc",1,2\nd,3,4', ('a, "b",\nc', "d")),
    ],
)
def test_tables_as_programs_write_them(tmp_path, text, ids):
    (tmp_path / "a.csv").write_text(text, "utf-8")
    found = read_vectors(tmp_path / "a.csv")
    assert_array_equal(found.array, [[1, 2], [3, 4]])
    assert found.ids == ids


@pytest.mark.parametrize(
    ("name", "text", "words", "line"),
    [
        ("a.csv", "1,2\n3\n", "lines hold 2 and 1 numbers", 2),
        ("a.csv", "1,2\n3,4,5\n", "lines hold 2 and 3 numbers", 2),
        ("a.csv", "x,y\n1,2\n3,\n", "not a finite float32", 3),
        ("a.csv", "1,2\n3,nan\n", "not a finite float32", 2),
        ("a.csv", "1,2\n3,1e39\n", "not a finite float32", 2),
        ("a.csv", "1,2\n3,1_0\n", "not a finite float32", 2),
        ("a.csv", '"a\nb",2\n"c",x\n', "not a finite float32", 3),
        ("a.csv", "a,,2\nb,3,4\n", "not a finite float32", 1),
        ("a.csv", "0,1,2\n3,4,5\n", "column names or numbers", 1),
        ("a.csv", "1,2\nO.3,4\n", "mixes numbers and text", 2),
        ("a.csv", "v1,2\n7,4\n", "mixes numbers and text", 1),
        ("a.csv", "x,y\n", "no rows", None),
        ("a.csv", '"1,2\n', "damaged", None),
        ("a.csv", "1;2\n3;4\n", "not a finite float32", 2),
        ("a.jsonl", "[1, 2]\n\n[3]\n", "lines hold 2 and 1 numbers", 3),
        ("a.jsonl", "[1, NaN]", "not a finite float32", 1),
        ("a.jsonl", f"[1{'0' * 400}]", "not a finite float32", 1),
        ("a.jsonl", "[1, true]", "not a finite float32", 1),
        ("a.jsonl", '[1, "2"', "not JSON", 1),
        ("a.jsonl", "[" * 100_000, "not JSON", 1),
        ("a.jsonl", '{"id": 1}', "nor an object of an id and one of", 1),
        ("a.jsonl", '{"id": [1], "vector": [1]}', "nor an object of an id and one of", 1),
        ("a.jsonl", '{"features": [1], "vector": [1]}', "nor an object of an id and one of", 1),
        (
            "a.jsonl",
            '{"text": "a", "videos": ["x"], "scores": [1]}',
            "nor an object of an id and one of",
            1,
        ),
        ("a.jsonl", '{"id": 1, "vector": [1]}\n[2]', "some none", 2),
        ("a.jsonl", " \n", "no rows", None),
    ],
)
def test_other_tables_are_refused_with_the_line(tmp_path, name, text, words, line):
    (tmp_path / name).write_text(text)
    refused(tmp_path / name, words)
    if line is not None:
        refused(tmp_path / name, rf"{name}, line {line}\b")


def test_text_that_is_not_utf8(tmp_path):
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(b"\xff\xfe1,2")
        refused(tmp_path / name, "damaged")


def test_more_text_than_the_memory_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("emcl_plugin.io.members.physical_memory", lambda: 1000)
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_text("1,2\n" * 20)
        refused(tmp_path / name, "does not fit into the memory")
