"""Names that nobody would give and somebody will: of files, folders, ids and items."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from emcl_plugin import Reranker
from emcl_plugin.errors import InputValueError, escaped
from emcl_plugin.io.formats import read_vectors
from emcl_plugin.io.write import write_run

N = 12
NAMES = {
    "blanks": b" a b ",
    "a line break": b"a\nb\r",
    "a leading dash": b"-x",
    "two dashes": b"--force",
    "not UTF-8": b"\xff\xfe",
    "long": b"n" * 249,
    "escape sequences": b"\x1b[2J\x1b]0;title\x07red",
    "colons": b"x.npz:t",
    "a glob": b"[a]*?",
    "formats": b"%s%(x)s{0}{}",
    "backslashes": b"C:\\a\\..\\b",
    "shell": b"q'\"`touch pwned`$(touch pwned)$HOME;touch pwned",
    "turned": "\u202egnp.\u2066".encode(),
    "decomposed": unicodedata.normalize("NFD", "é").encode(),
    "composed": "é".encode(),
    "markup": b"<script>alert(1)<",
    "a tilde": b"~",
}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    video = rng.standard_normal((N, 6)).astype("f4")
    return video + 0.5 * rng.standard_normal((N, 6)).astype("f4"), video


@pytest.fixture
def folder(tmp_path, monkeypatch, arrays):
    np.save(tmp_path / "t.npy", arrays[0])
    np.save(tmp_path / "v.npy", arrays[1])
    np.save(tmp_path / "tb.npy", arrays[0] + 0.1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain(said):
    """That nothing acts on the terminal."""
    assert all(c.isprintable() for c in (said.out + said.words).replace("\n", "")), said
    return said


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_file_of_any_name_is_read_and_written(emcl, folder, name):
    """As input, output, run, page's caption file and checkpoint, and a file that is not there."""
    name = os.fsdecode(name)
    given = f"{name}.npy"
    (folder / "t.npy").rename(folder / given)
    (folder / f"{name}.txt").write_text("\n".join(map(str, range(N))))
    before = set(os.listdir(folder))
    said = emcl(
        *("--text", given, "--video", "v.npy", "-o", f"{name}.npz", "--run", f"{name}.csv"),
        *("--text-ids", f"{name}.txt", "--resume", f"{name}.c", "--json"),
    )
    facts = json.loads(plain(said).out.encode("ascii"))
    assert (facts["output"], facts["runs"]["text -> video"]) == (f"{name}.npz", f"{name}.csv")
    assert escaped(f"{name}.npz") in said.words
    assert set(os.listdir(folder)) - before == {f"{name}.npz", f"{name}.csv"}
    again = plain(emcl("--sim", f"{name}.npz:scores", "-o", f"{name}.npz", status=1))
    assert "the output exists already" in again.words
    assert escaped(f"{name}.npz")[:500] in again.words
    (folder / given).unlink()
    gone = plain(emcl("--sim", given, status=1))
    assert escaped(given.partition(":")[0])[:500] in gone.words


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_corrector_in_a_folder_of_any_name(emcl, folder, name):
    name = os.fsdecode(name)
    said = emcl("fit", "--text-bank", "tb.npy", "--video", "v.npy", "--save", name)
    (line,) = [line for line in plain(said).words.splitlines() if line.startswith("Now try: ")]
    shell = f"printf '%s\\0' {line.removeprefix('Now try: ')}"
    words = subprocess.run(["bash", "-c", shell], capture_output=True, cwd=folder, check=True)
    if name.isprintable():
        assert words.stdout.split(b"\0")[2] == os.fsencode(name)
    assert not (folder / "pwned").exists()
    shown = plain(emcl("show", "--json", "--", name))
    assert json.loads(shown.out)["folder"] == name
    plain(emcl("apply", "--text", "t.npy", "-o", f"{name}.npy", "--", name))
    done = plain(emcl("export", "--to", "npy", "-o", f"{name}.d", "--", name))
    code = done.words.partition(" search       ")[2].partition("\n")[0].rpartition("; by ")[0]
    found = {"np": np}
    exec(code, found)
    assert found["x"].shape == (N, 7)


IDS = [
    "a b", "a\nb", "a,b", 'say "no"', "=cmd|' /C calc'!A0", "+1", "-1", "@x", "\t", "a;b",
    "e\u0301", "\u00e9", "\u202ex", "\x1b[31m", "{{7*7}}", "", "' OR 1=1", "</script>",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_ids_come_back_as_they_were(emcl, folder, kind):
    """From the file of vectors to the run and the matrix; a formula is left a formula."""
    pytest.importorskip("pyarrow")
    texts, videos = IDS[:N], [f"{name}." for name in IDS[-N:]]
    for name, ids in (("t", texts), ("v", videos)):
        np.savez(folder / f"{name}.npz", x=np.load(folder / f"{name}.npy"), ids=np.array(ids))
    both = ("--text", "t.npz", "--video", "v.npz")
    plain(emcl(*both, "--run", f"r.{kind}", "-o", "m.parquet"))
    if kind == "jsonl":
        rows = [json.loads(line) for line in Path("r.jsonl").read_bytes().splitlines()]
        pairs = {(row["text"], video) for row in rows for video in row["videos"]}
    elif kind == "parquet":
        from pyarrow import parquet

        rows = parquet.read_table("r.parquet").to_pylist()
        pairs = {(row["text"], row["video"]) for row in rows}
    else:
        with open(f"r.{kind}", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, dialect="excel" if kind == "csv" else "excel-tab"))
        pairs = {(row["text"], row["video"]) for row in rows}
    assert pairs == {(text, video) for text in texts for video in videos}
    found = read_vectors("m.parquet")
    assert (found.ids, found.column_ids) == (tuple(texts), tuple(videos))
    refused = plain(emcl(*both, "--run", "r.trec", status=1))
    assert "TREC's columns end at white space" in refused.words


@pytest.mark.parametrize("bad", ["\ud800", "a\0b"])
def test_ids_that_are_no_text_are_never_written(emcl, folder, arrays, bad):
    names = [f"v{i}" for i in range(N - 1)] + [bad]
    with pytest.raises(InputValueError, match="not text that a file can hold"):
        write_run(folder / "r.csv", arrays[0] @ arrays[1].T, video_ids=names)
    Reranker().fit(arrays[0] + 0.1, arrays[1], names=names).save_pretrained(folder / "f")
    before = set(os.listdir(folder))
    for command in (
        ("apply", "f", "--text", "t.npy", "--top", "2"),
        *(("export", "f", "--to", to, "-o", "out") for to in ("npy", "faiss", "parquet")),
    ):
        assert "not text that a file can hold" in plain(emcl(*command, status=1)).words
    assert set(os.listdir(folder)) == before
    plain(emcl("show", "f"))


def test_names_of_items_do_not_act_on_the_terminal(emcl, folder, arrays):
    names = [f"\x1b[31m{i}\n\u202e" for i in range(N)]
    Reranker().fit(arrays[0] + 0.1, arrays[1], names=names).save_pretrained(folder / "f")
    said = plain(emcl("show", "f"))
    assert "\\x1b[31m" in said.out
    plain(emcl("apply", "f", "--text", "t.npy", "--top", str(N)))
    with open("top.csv", encoding="utf-8", newline="") as file:
        assert {row["name"] for row in csv.DictReader(file)} == set(names)


def test_a_file_called_as_an_array_of_another_is_not_read_for_it(emcl, arrays):
    """An archive's array, although a file beside it is called ARCHIVE:ARRAY."""
    pair = {"text": arrays[0], "video": arrays[1]}
    np.savez("run.npz", **pair)
    for name in pair:
        with open(f"run.npz:{name}", "wb") as file:
            np.save(file, np.zeros((N, 6), "f4"))
    emcl("--from", "open_clip", "run.npz", "-o", "a.npy", "--emcl", "off")
    emcl("--text", "t.npy", "--video", "v.npy", "-o", "b.npy", "--emcl", "off")
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))


@pytest.mark.slow
def test_a_list_of_ids_from_a_shells_pipe(folder):
    (folder / "ids.txt").write_text("".join(f"x{i}\n" for i in range(N)))
    command = '"$0" -m emcl_plugin --text t.npy --video v.npy --run r.csv --text-ids <(cat ids.txt)'
    subprocess.run(["bash", "-c", command, sys.executable], cwd=folder, check=True, timeout=60)
    with open(folder / "r.csv", newline="") as file:
        assert {row["text"] for row in csv.DictReader(file)} == {f"x{i}" for i in range(N)}


@pytest.mark.parametrize("count", [400, 5000])
def test_a_long_name_is_shown_at_both_ends(count):
    shown = escaped("a" * count + "\udcff" * 200 + "b" * count)
    assert len(shown) < 600
    assert shown.startswith("a" * 240)
    assert shown.endswith("b" * 240)
