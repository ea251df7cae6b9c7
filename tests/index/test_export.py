"""Exported files: contents, replacement only on request, complete or absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from served import faiss, fitted

from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import InputFileError, InputValueError
from emcl_plugin.index.export import WRITERS, export
from emcl_plugin.index.vectors import SPACES, gallery_vectors, longest


@pytest.fixture(scope="module")
def small():
    """A corrector of few items, with and without names."""
    demo = load_demo()
    named = fitted(demo.text_bank, demo.video[:40], names=demo.video_names[:40])
    return named, replace(named, names=())


def kept(path):
    """Everything under a path, by name."""
    return {
        str(p.relative_to(path.parent)): p.read_bytes()
        for p in path.parent.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize("space", SPACES)
def test_what_was_written_is_told(small, tmp_path, to, space):
    if WRITERS[to].library:
        pytest.importorskip(WRITERS[to].library)
    done = export(small[0], str(tmp_path / "out"), to, space=space)
    assert (done.path, done.to, done.space) == (tmp_path / "out", to, space)
    assert (done.count, done.dimension) == (40, 129 if space == "ip" else 130)
    assert done.phi == (None if space == "ip" else longest(small[0]))
    room = export(small[0], str(tmp_path / "room"), to, space=space, phi=3.0)
    assert room.phi == (None if space == "ip" else 3.0)


@pytest.mark.parametrize("space", SPACES)
def test_npy_and_its_ids(small, tmp_path, space):
    named, nameless = small
    export(named, tmp_path / "a", "npy", space=space, phi=2.0)
    assert_array_equal(np.load(tmp_path / "a/gallery.npy"), gallery_vectors(named, space, phi=2.0))
    lines = (tmp_path / "a/ids.txt").read_text(encoding="utf-8").split("\n")
    assert lines == [*named.names, ""]
    export(nameless, tmp_path / "b", "npy")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["gallery.npy"]


@pytest.mark.parametrize("space", SPACES)
def test_parquet(small, tmp_path, space):
    parquet = pytest.importorskip("pyarrow.parquet", reason='pip install ".[formats]"')
    for corrector, ids in zip(small, (small[0].names, [str(j) for j in range(40)]), strict=True):
        path = tmp_path / f"{bool(corrector.names)}.parquet"
        export(corrector, path, "parquet", space=space)
        table = parquet.read_table(path)
        expected = gallery_vectors(corrector, space)
        assert table.column_names == ["id", "vector"]
        assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
        assert table.schema.field("vector").type.list_size == expected.shape[1]
        assert table["id"].to_pylist() == list(ids)
        assert_array_equal(np.stack(table["vector"].to_numpy()), expected)


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF4,Flat"])
def test_faiss_file_and_its_ids(small, tmp_path, factory):
    named, nameless = small
    path = tmp_path / "g.faiss"
    export(named, path, "faiss", factory=factory)
    index = faiss.read_index(str(path))
    kinds = {
        "Flat": faiss.IndexFlat,
        "HNSW16": faiss.IndexHNSWFlat,
        "IVF4,Flat": faiss.IndexIVFFlat,
    }
    assert isinstance(index, kinds[factory])
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert index.ntotal == 40
    if factory == "Flat":
        assert_array_equal(index.reconstruct_n(0, 40), gallery_vectors(named))
        export(named, tmp_path / "l2", "faiss", space="l2", phi=3.0)
        wide = faiss.read_index(str(tmp_path / "l2")).reconstruct_n(0, 40)
        assert_array_equal(wide, gallery_vectors(named, "l2", phi=3.0))
    beside = tmp_path / "g.faiss.ids.txt"
    assert beside.read_text(encoding="utf-8").split("\n") == [*named.names, ""]
    export(nameless, path, "faiss", force=True)  # whose ids are no longer those
    assert not beside.exists()
    beside.write_text("other\n")
    path.unlink()
    with pytest.raises(InputFileError, match=r"exists already(?s:.)*ids\.txt"):
        export(nameless, path, "faiss")


@pytest.mark.parametrize("to", WRITERS)
def test_a_target_is_replaced_on_demand_only(small, tmp_path, to):
    if WRITERS[to].library:
        pytest.importorskip(WRITERS[to].library)
    target = tmp_path / "out"
    export(small[0], target, to)
    before = kept(target)
    with pytest.raises(InputFileError, match="exists already"):
        export(small[0], target, to)
    assert kept(target) == before
    export(small[0], target, to, space="l2", force=True)
    assert kept(target) != before
    again = small[0].without([0])
    assert export(again, target, to, force=True).count == 39
    assert {p.name for p in tmp_path.iterdir()} <= {"out", "out.ids.txt"}
    assert target.stat().st_mode & 0o077 == (0o055 if target.is_dir() else 0o044)


@pytest.mark.parametrize("to", ["npy", "lancedb", "qdrant"])
@pytest.mark.parametrize("other", ["notes.txt", "collection/mine/x", "gallery.lance.old/x"])
def test_a_folder_with_anything_else_is_never_replaced(small, tmp_path, to, other):
    if WRITERS[to].library:
        pytest.importorskip(WRITERS[to].library)
    target = tmp_path / "out"
    export(small[0], target, to)
    (target / other).parent.mkdir(parents=True, exist_ok=True)
    (target / other).write_text("mine")
    before = kept(target)
    with pytest.raises(InputFileError, match="other files"):
        export(small[0], target, to, force=True)
    assert kept(target) == before


def test_targets_that_cannot_be(small, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for target, to, words in (
        ("file", "npy", "is a file"),
        ("folder", "faiss", "is a folder"),
        ("folder", "npy", "exists already"),
        ("nowhere/out", "npy", "does not exist"),
        ("nowhere/out", "faiss", "does not exist"),
    ):
        with pytest.raises(InputFileError, match=words):
            export(small[0], tmp_path / target, to)
    with pytest.raises(InputFileError, match="is a file"):
        export(small[0], tmp_path / "file", "npy", force=True)
    assert (tmp_path / "file").read_text() == "mine"
    export(small[0], tmp_path / "folder", "npy", force=True)  # an empty one costs nothing
    assert (tmp_path / "folder/gallery.npy").is_file()


def fail(*_, **__):
    raise RuntimeError("the disk is full")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("to", "broken"),
    [
        ("faiss", "faiss.write_index"),
        ("npy", "emcl_plugin.index.export.write_npy"),
        ("parquet", "pyarrow.parquet.write_table"),
        ("lancedb", "lancedb.db.LanceDBConnection.create_table"),
        ("qdrant", "qdrant_client.QdrantClient.upload_collection"),
    ],
)
def test_a_failure_leaves_nothing_and_loses_nothing(
    small, tmp_path, monkeypatch, to, broken, force
):
    if WRITERS[to].library:
        pytest.importorskip(WRITERS[to].library)
    target = tmp_path / "out"
    if force:
        export(small[0], target, to)
    before = kept(target)
    monkeypatch.setattr(broken, fail)
    with pytest.raises(InputFileError, match="nothing was written") as caught:
        export(small[0], target, to, force=force)
    assert "the disk is full" in caught.value.received
    assert kept(target) == before
    assert {p.name for p in tmp_path.iterdir()} <= {"out", "out.ids.txt"}
    assert force == target.exists()


def test_a_swap_that_fails_brings_the_old_one_back(small, tmp_path, monkeypatch):
    target = tmp_path / "out"
    export(small[0], target, "npy")
    before = kept(target)
    rename = Path.rename

    def only_away(self, other):
        if self.name.endswith(".part"):
            raise OSError(5, "no")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", only_away)
    with pytest.raises(InputFileError, match="nothing was written"):
        export(small[0], target, "npy", space="l2", force=True)
    assert kept(target) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("to", ["faiss", "npy"])
@pytest.mark.parametrize("sign", ["\n", "\r"])
def test_names_that_are_no_lines(small, tmp_path, to, sign):
    corrector = replace(small[0], names=(*small[0].names[1:], f"two{sign}lines"))
    with pytest.raises(InputValueError, match="line break"):
        export(corrector, tmp_path / "out", to)
    assert not list(tmp_path.iterdir())
    pytest.importorskip("pyarrow")
    export(corrector, tmp_path / "out", "parquet")


def test_wrong_stores_and_settings(small, tmp_path):
    for arguments, words in (
        ({"to": "redis"}, "no such store"),
        ({"to": "npy", "factory": "HNSW32"}, "FAISS only"),
        ({"to": "npy", "space": "l1"}, "no such space"),
        ({"to": "npy", "space": "l2", "phi": 0.5}, "longer than phi"),
        ({"to": "faiss", "factory": "IVF41,Flat"}, "cannot fill"),
    ):
        with pytest.raises(InputValueError, match=words):
            export(small[0], tmp_path / "out", **arguments)
        assert not list(tmp_path.iterdir())
