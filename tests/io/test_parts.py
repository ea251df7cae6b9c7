"""Sharded arrays: concatenated in bounded memory with their ids; errors name the file."""

from __future__ import annotations

import glob
import mmap
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from pyarrow import feather, parquet
from written import IDS, WRITERS, X, column, refused, save_h5, stored

from emcl_plugin._internal.arrays import _mapped
from emcl_plugin.errors import InputFileError
from emcl_plugin.io import out_of_core
from emcl_plugin.io.formats import read_array, read_vectors
from emcl_plugin.io.parts import parts_of

LARGE = np.random.default_rng(0).standard_normal((1000, 5))


@pytest.fixture
def small_machine(monkeypatch):
    """Simulate 16 KiB of memory and blocks of 1 KiB."""
    monkeypatch.setattr(out_of_core, "physical_memory", lambda: 1 << 14)
    monkeypatch.setattr(out_of_core, "BLOCK", 1 << 10)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(("name", "dtype"), stored(WRITERS))
def test_more_than_the_memory_should_hold_goes_to_the_disk(tmp_path, name, dtype):
    x = LARGE.astype(dtype)
    for i, part in enumerate(np.array_split(x, 7)):
        WRITERS[name](tmp_path / f"{i}{Path(name).suffix}", part)
    found = read_array(tmp_path)
    assert isinstance(found.base, mmap.mmap)
    assert _mapped(found)
    assert found.dtype == dtype
    assert_array_equal(found, x)


def test_what_fits_stays_in_the_memory(tmp_path):
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", X)
    assert not _mapped(read_array(tmp_path))


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("name", ["chunks.h5", "a.parquet", "a.feather"])
def test_one_large_file_goes_to_the_disk_in_blocks(tmp_path, name):
    path = tmp_path / name
    table = pa.table({"vector": column(LARGE)})
    if name == "chunks.h5":
        save_h5(path, LARGE, chunks=(7, 5), compression="gzip")
    elif name == "a.parquet":
        parquet.write_table(table, path, row_group_size=100)
    else:
        feather.write_feather(table, str(path), chunksize=100)
    found = read_array(path)
    assert _mapped(found)
    assert_array_equal(found, LARGE)


@pytest.mark.usefixtures("small_machine")
def test_a_full_disk_is_told(tmp_path, monkeypatch):
    full = partial(open, "/dev/full", "wb")
    monkeypatch.setattr(out_of_core.tempfile, "TemporaryFile", full)
    np.save(tmp_path / "1.npy", LARGE)
    np.save(tmp_path / "2.npy", LARGE)
    refused(tmp_path, "nor on the disk")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("memory", [1 << 14, 1 << 40])
def test_nan_in_one_part_is_named_with_its_place(tmp_path, monkeypatch, bad, memory):
    monkeypatch.setattr(out_of_core, "physical_memory", lambda: memory)
    monkeypatch.setattr(out_of_core, "BLOCK", 1 << 10)
    for i, part in enumerate(np.array_split(LARGE, 4)):
        part = part.astype("f2")
        if i == 2:
            part[201, 3] = bad
        np.save(tmp_path / f"{i}.npy", part)
    with pytest.raises(InputFileError, match="a part holds NaN or infinity") as caught:
        read_array(tmp_path)
    assert caught.value.received == f"{tmp_path}/2.npy: [201, 3] = {bad}"


@pytest.mark.slow
def test_a_thousand_parts(tmp_path):
    """More shards than a process may have open files."""
    for i in range(1100):
        np.save(tmp_path / f"{i}.npy", np.full((1, 2), i, "f4"))
    assert_array_equal(read_array(tmp_path)[:, 0], np.arange(1100))


def test_tables_beside_the_parts_of_a_folder_are_not_parts(tmp_path):
    np.save(tmp_path / "1.npy", X)
    np.save(tmp_path / "2.npy", X)
    (tmp_path / "names.csv").write_text("a,b")
    (tmp_path / "more.pkl").write_text("")
    assert read_array(tmp_path).shape == (14, 5)


def test_ids_only_where_every_part_has_them(tmp_path):
    np.savez(tmp_path / "1.npz", x=X, ids=IDS)
    np.savez(tmp_path / "2.npz", x=X)
    assert read_vectors(tmp_path).ids is None


# --- ids ----------------------------------------------------------------------------------------


def test_ids_of_both_sides_of_a_similarity(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, scores=X, text_ids=IDS, video_ids=list("abcde"))
    found = read_vectors(path)
    assert (found.ids, found.column_ids) == (tuple(IDS), tuple("abcde"))
    np.savez(path, text=X, video=X[:5], text_ids=IDS, video_ids=list("abcde"))
    assert read_vectors(f"{path}:text").ids == tuple(IDS)
    assert read_vectors(f"{path}:video").ids == tuple("abcde")
    assert read_vectors(f"{path}:video").column_ids is None


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (np.arange(7), tuple("0123456")),
        (np.array(list("abcdefg"), "S"), tuple("abcdefg")),
        (np.arange(7.0), None),
        (np.arange(6), None),
        (np.ones((7, 2), int), None),
        (np.array(list("abcdefg"), object), None),
        (np.array([b"\xff"] * 7), None),
    ],
    ids=["numbers", "bytes", "floats", "others", "pairs", "pickled", "odd bytes"],
)
def test_what_counts_as_ids(tmp_path, ids, found):
    np.savez(tmp_path / "a.npz", x=X, ids=ids)
    assert read_vectors(f"{tmp_path}/a.npz:x").ids == found


@pytest.mark.parametrize(
    ("ids", "dtype", "found"),
    [
        (np.arange(7), None, tuple("0123456")),
        (np.array(list("abcdefg"), "S"), None, tuple("abcdefg")),
        (np.ones((7, 2), int), h5py.vlen_dtype("i4"), None),
    ],
    ids=["numbers", "bytes", "lists"],
)
def test_what_counts_as_ids_in_hdf5(tmp_path, ids, dtype, found):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = X
        file.create_dataset("ids", len(ids), dtype or ids.dtype)[:] = ids
    assert read_vectors(tmp_path / "a.h5:x").ids == found


def test_own_ids_have_to_be_as_many_as_the_rows(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, x_ids=IDS[1:])
    refused(tmp_path / "a.npz", "6 ids for")


def test_the_first_known_column_counts(tmp_path):
    made = {"uid": list("ABCDEFG"), "key": IDS, "caption": IDS, "vector": column(X)}
    parquet.write_table(pa.table({**made, "id": [0.5] * 7}), tmp_path / "a.parquet")
    assert read_vectors(tmp_path / "a.parquet").ids == tuple(IDS)
    made["key"] = [*IDS[:-1], None]
    parquet.write_table(pa.table(made), tmp_path / "a.parquet")
    assert read_vectors(tmp_path / "a.parquet").ids is None


def clip_retrieval(home, parts=3, rows=4):
    """Write folders as clip-retrieval does."""
    for name in ("img_emb", "text_emb", "metadata"):
        (home / name).mkdir()
    for i in range(parts):
        x = np.random.default_rng(i).standard_normal((rows, 5)).astype("f2")
        np.save(home / f"img_emb/img_emb_{i}.npy", x)
        np.save(home / f"text_emb/text_emb_{i}.npy", -x)
        names = [f"{i}/{j}.jpg" for j in range(rows)]
        table = pa.table({"image_path": names, "caption": ["x"] * rows})
        parquet.write_table(table, home / f"metadata/metadata_{i}.parquet")


@pytest.mark.parametrize("parts", [1, 3, 11])
def test_ids_of_clip_retrieval(tmp_path, parts):
    clip_retrieval(tmp_path, parts)
    wanted = tuple(f"{i}/{j}.jpg" for i in range(parts) for j in range(4))
    for source in ("img_emb", "text_emb", "img_emb/*.npy"):
        assert read_vectors(tmp_path / source).ids == wanted
    first = tmp_path / "metadata/metadata_0.parquet"
    parquet.write_table(pa.table({"width": [224] * 4}), first)
    assert read_vectors(tmp_path / "img_emb").ids is None
    first.unlink()
    assert read_vectors(tmp_path / "img_emb").ids is None


def test_clip_retrieval_of_other_lengths(tmp_path):
    clip_retrieval(tmp_path)
    table = pa.table({"image_path": ["x"]})
    parquet.write_table(table, tmp_path / "metadata/metadata_1.parquet")
    with pytest.raises(InputFileError, match="not that of the rows") as caught:
        read_vectors(tmp_path / "img_emb")
    assert "metadata" in caught.value.received


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.slow
def test_one_long_id_for_all_rows(tmp_path):
    """A gigabyte of ids in a few kilobytes becomes one object or is refused."""
    long = "x" * 1_000_000
    table = pa.table({"id": [long] * 1_000, "vector": column(np.ones((1_000, 2)))})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = read_vectors(tmp_path / "a.parquet").ids
    assert found[0] is found[-1]
    assert found[0] == long
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    refused(tmp_path / "a.parquet", "far more than there is")


def test_hdf5_ids_in_other_files_and_of_other_kinds(tmp_path):
    path = tmp_path / "a.h5"
    (tmp_path / "secret").write_bytes(bytes(56))
    with h5py.File(path, "w") as file:
        file["x"] = X
        external = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("ids", 7, "i8", external=external)
    refused(f"{path}:x", "in another file")
    with h5py.File(path, "w") as file:
        file["x"] = X
        file["ids"] = X[:, 0]
    assert read_vectors(f"{path}:x").ids is None


@pytest.mark.parametrize(
    "pattern", ["**/*.npy", "a/**/*.npy", "**/b/**/[0-9].npy", "*/**/[12].npy"]
)
def test_all_folders_below_are_those_of_glob_but_links(tmp_path, monkeypatch, pattern):
    """Two links to a parent would yield 2 ^ 40 folders."""
    monkeypatch.chdir(tmp_path)
    for name in ("1", "a/1", "a/b/2", "a/b/c/10", "a/.hidden/1", "d/b/3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(f"{name}.npy", np.ones((1, 2)))
    expected = {Path(name) for name in glob.glob(pattern, recursive=True)}
    assert len(expected) > 1
    for name in ("x", "y"):
        (tmp_path / "a" / "b" / name).symlink_to(tmp_path / "a", target_is_directory=True)
    assert set(parts_of(Path(pattern), [".npy"])) == expected
