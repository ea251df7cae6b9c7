"""`export`: a saved corrector's gallery, and queries, for a vector store."""

from __future__ import annotations

import re

import numpy as np
import pytest
from bank_files import N, data, reranker
from numpy.testing import assert_array_equal

from emcl_plugin.index.vectors import SPACES, gallery_vectors, longest, query_vectors

pytestmark = pytest.mark.usefixtures("fitted")
QUERIES = ("--queries", "t.npy", "--queries-output", "q.npy")


@pytest.fixture
def run(emcl):
    """What a person sees of the command; nothing goes to standard output."""

    def run(*arguments, status=0):
        result = emcl("export", "fitted", *arguments, status=status)
        assert result.out == ""
        return result.words

    return run


@pytest.fixture
def new(folder):
    before = set(folder.iterdir())
    return lambda: sorted(path.name for path in set(folder.iterdir()) - before)


def test_the_summary_tells_what_was_written_and_how_to_search_it(run, new):
    pytest.importorskip("faiss")
    words = run("--to", "faiss", "--output", "g.faiss")
    for part in (
        f"{N} items of dimension 128, protocol bank ({N} bank queries)",
        f"g.faiss (faiss Flat, {N} x 129 float32)",
        "inner product",
        'faiss.read_index("g.faiss").search(Q, 10)',
        "--queries Q.npy",
    ):
        assert part in words
    assert new() == ["g.faiss", "g.faiss.ids.txt"]


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
    words = run("--to", to, "-o", "out")
    assert how in words
    assert f"out ({to}" in words
    assert "exists already" in run("--to", to, "-o", "out", status=1)
    assert run("--to", to, "-o", "out", "--force", "--quiet") == ""


@pytest.mark.parametrize("space", SPACES)
def test_gallery_and_queries_of_every_space(run, space):
    phi = None if space == "ip" else 1.5
    more = [] if phi is None else ["--phi", "1.5"]
    words = run("--to", "npy", "--output", "out", "--space", space, *more, *QUERIES)
    corrector = reranker().corrector_
    assert_array_equal(np.load("out/gallery.npy"), gallery_vectors(corrector, space, phi=phi))
    assert_array_equal(np.load("q.npy"), query_vectors(corrector, data().text, space))
    assert f"for the space {space}" in words
    assert ("phi 1.5" in words) == (space != "ip")


@pytest.mark.slow
def test_the_shown_lines_of_python_find_the_same(run):
    lancedb, faiss = pytest.importorskip("lancedb"), pytest.importorskip("faiss")
    corrector = reranker().corrector_
    scores, best = (x[0].numpy() for x in corrector.search(data().text, 10))
    names = {"faiss": faiss, "lancedb": lancedb, "np": np}
    for to in ("faiss", "lancedb", "npy"):
        shown = run("--to", to, "--output", f"out.{to}", *QUERIES, "--force")
        line = re.search(r"search +(.*)", shown)[1]
        names |= {"Q": np.load("q.npy"), "q": np.load("q.npy")[0]}
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


def test_queries_alone(run, new):
    assert "written" not in run(*QUERIES)
    assert new() == ["q.npy"]
    assert "exists already" in run(*QUERIES, status=1)


def test_phi_is_said(run):
    shown = run("--to", "npy", "--output", "out", "--space", "l2")
    phi = float(re.search(r"phi ([\d.]+)", shown)[1])
    assert phi == pytest.approx(longest(reranker().corrector_), rel=1e-7)
    run("--to", "npy", "--output", "again", "--space", "l2", "--phi", str(phi))  # as printed
    short = run("--to", "npy", "--output", "third", "--space", "l2", "--phi", "1.0", status=1)
    assert "longer than phi" in short


def test_factory(run, new):
    faiss = pytest.importorskip("faiss")
    assert "faiss HNSW16" in run("--to", "faiss", "-o", "h", "--factory", "HNSW16")
    assert isinstance(faiss.read_index("h"), faiss.IndexHNSWFlat)
    assert "cannot build" in run("--to", "faiss", "-o", "x", "--factory", "fast", status=1)
    assert "x" not in new()


def test_files_that_cannot_be_used(emcl, run, new):
    assert "does not exist" in emcl("export", "no", "--to", "npy", "-o", "x", status=1).words
    wrong = ("--queries-output", "q.npy")
    assert "does not exist" in run("--queries", "none.npy", *wrong, status=1)
    np.save("wide.npy", np.ones((2, 7), np.float32))
    words = run("--to", "npy", "-o", "x", "--queries", "wide.npy", *wrong, status=1)
    assert "another dimension" in words
    assert new() == ["wide.npy"]  # not even the gallery
