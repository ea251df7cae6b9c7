"""`export`: a saved corrector's gallery, and queries, for a vector store."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from emcl_plugin import Reranker
from emcl_plugin.cli.main import command
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import EmclError, InputFileError, InputValueError, StateError
from emcl_plugin.index.vectors import SPACES, gallery_vectors, longest, query_vectors


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, corrector) of a saved Reranker, with queries beside it."""
    folder = tmp_path_factory.mktemp("state")
    demo = load_demo()
    reranker = Reranker().fit(demo.text_bank, demo.video, names=demo.video_names)
    reranker.save_pretrained(folder / "fitted")
    np.save(folder / "q.npy", demo.text)
    return folder, reranker.corrector_


@pytest.fixture
def run(saved, tmp_path, monkeypatch):
    """The command in an empty folder: its result, or the error of this package."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, folder=saved[0] / "fitted"):
        result = CliRunner().invoke(command, ["export", str(folder), *arguments])
        if isinstance(result.exception, EmclError):
            raise result.exception
        return result

    return run


def test_the_summary_tells_what_was_written_and_how_to_search_it(run, tmp_path):
    pytest.importorskip("faiss")
    result = run("--to", "faiss", "--output", "g.faiss")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    for words in (
        "945 items of dimension 128, protocol bank (946 bank queries)",
        "g.faiss (faiss Flat, 945 x 129 float32)",
        "inner product",
        'faiss.read_index("g.faiss").search(Q, 10)',
        "--queries Q.npy",
    ):
        assert words in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.faiss", "g.faiss.ids.txt"]


@pytest.mark.parametrize(
    ("to", "library", "how"),
    [
        ("faiss", "faiss", "read_index"),
        ("npy", "numpy", "np.load"),
        ("parquet", "pyarrow", "columns id and vector"),
        ("lancedb", "lancedb", "open_table"),
        ("qdrant", "qdrant_client", "query_points"),
    ],
)
def test_every_store(run, to, library, how):
    pytest.importorskip(library)
    result = run("--to", to, "-o", "out")
    assert result.exit_code == 0, result.output
    assert how in result.stderr
    assert f"out ({to}" in result.stderr
    with pytest.raises(InputFileError, match="exists already"):
        run("--to", to, "-o", "out")
    assert run("--to", to, "-o", "out", "--force", "--quiet").stderr == ""


@pytest.mark.parametrize("space", SPACES)
def test_gallery_and_queries_of_every_space(run, saved, tmp_path, space):
    folder, corrector = saved
    more = [] if space == "ip" else ["--phi", "1.5"]
    result = run(
        *("--to", "npy", "--output", "out", "--space", space, *more),
        *("--queries", str(folder / "q.npy"), "--queries-output", "qv.npy"),
    )
    assert result.exit_code == 0, result.output
    items, asked = np.load(tmp_path / "out/gallery.npy"), np.load(tmp_path / "qv.npy")
    phi = None if space == "ip" else 1.5
    assert_array_equal(items, gallery_vectors(corrector, space, phi=phi))
    assert_array_equal(asked, query_vectors(corrector, load_demo().text, space))
    assert f"for the space {space}" in result.stderr
    assert ("phi 1.5" in result.stderr) == (space != "ip")


@pytest.mark.slow
def test_the_shown_lines_of_python_find_the_same(run, saved, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    faiss = pytest.importorskip("faiss")
    folder, corrector = saved
    queries = ["--queries", str(folder / "q.npy"), "--queries-output", "q.npy", "--force"]
    scores, best = (x[0].numpy() for x in corrector.search(load_demo().text, 10))
    names = {"faiss": faiss, "lancedb": lancedb, "np": np}
    for to in ("faiss", "lancedb", "npy"):
        shown = run("--to", to, "--output", f"out.{to}", *queries).stderr
        line = re.search(r"search +(.*)", shown)[1]
        names |= {"Q": np.load(tmp_path / "q.npy"), "q": np.load(tmp_path / "q.npy")[0]}
        if to == "npy":
            exec(line.split(";")[0], names)
            found = (-names["x"] @ names["q"]).argsort()[:10]
        else:
            found = eval(line, names)
        if to == "faiss":
            found = found[1][0]
        if to == "lancedb":
            rows = found.to_list()
            assert [1 - row["_distance"] for row in rows] == pytest.approx(scores, abs=1e-5)
            found = [corrector.names.index(row["id"]) for row in rows]
        assert set(found) == set(best)


def test_queries_alone(run, saved, tmp_path):
    result = run("--queries", str(saved[0] / "q.npy"), "--queries-output", "qv.npy")
    assert result.exit_code == 0, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["qv.npy"]
    assert "written" not in result.stderr
    with pytest.raises(InputFileError, match="exists already"):
        run("--queries", str(saved[0] / "q.npy"), "--queries-output", "qv.npy")


def test_phi_is_said(run, saved):
    shown = run("--to", "npy", "--output", "out", "--space", "l2").stderr
    phi = float(re.search(r"phi ([\d.]+)", shown)[1])
    assert phi == pytest.approx(longest(saved[1]), rel=1e-7)
    run("--to", "npy", "--output", "again", "--space", "l2", "--phi", str(phi))  # as printed
    with pytest.raises(InputValueError, match="longer than phi"):
        run("--to", "npy", "--output", "third", "--space", "l2", "--phi", "1.0")


def test_factory(run, tmp_path):
    faiss = pytest.importorskip("faiss")
    assert "faiss HNSW16" in run("--to", "faiss", "-o", "h", "--factory", "HNSW16").stderr
    assert isinstance(faiss.read_index(str(tmp_path / "h")), faiss.IndexHNSWFlat)
    with pytest.raises(InputValueError, match="cannot build this index"):
        run("--to", "faiss", "-o", "x", "--factory", "fast")
    assert not (tmp_path / "x").exists()


def test_files_that_are_not_there(run, tmp_path):
    with pytest.raises(StateError):
        run("--to", "npy", "-o", "x", folder=tmp_path / "nothing")
    with pytest.raises(InputFileError, match="does not exist"):
        run("--queries", "none.npy", "--queries-output", "qv.npy")
    np.save(tmp_path / "wide.npy", np.ones((2, 7), np.float32))
    with pytest.raises(InputValueError, match="another dimension"):
        run("--to", "npy", "-o", "x", "--queries", "wide.npy", "--queries-output", "qv.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["wide.npy"]  # not even the gallery
