"""Every format returns the numbers that were written; bad files are refused by name."""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pyarrow import parquet
from safetensors.numpy import save_file
from scipy.io import savemat
from written import (
    BY_COLUMN,
    IDS,
    TEXT,
    WRITERS,
    Bomb,
    X,
    column,
    refused,
    save_h5,
    stored,
    write_any,
)

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.formats import READERS, read_array, read_vectors, split


def test_every_format_is_tried():
    assert {Path(name).suffix for name in WRITERS} == READERS.keys() - {".pkl", ".pickle"}


def test_every_format_is_on_its_page():
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    assert set(re.findall(r"`(\.\w+)`", page.partition("\n```")[0])) == READERS.keys()


@pytest.mark.parametrize(("name", "dtype"), stored(WRITERS))
def test_round_trip(tmp_path, name, dtype):
    x = X.astype(dtype)
    WRITERS[name](tmp_path / name, x)
    found = read_array(tmp_path / name)
    assert found.dtype == dtype
    assert_array_equal(found, x)
    assert read_array(str(tmp_path / name)).shape == x.shape


@pytest.mark.parametrize("name", WRITERS)
def test_shards_are_one_below_the_other_in_natural_order(tmp_path, name):
    x = np.random.default_rng(1).standard_normal((11, 5)).astype("f4")
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / ".hidden.npy").write_text("not looked at")
    (folder / "notes.txt").write_text("nor this")
    for i, part in enumerate(np.array_split(x, 11)):
        WRITERS[name](folder / f"part_{i}{Path(name).suffix}", part)
    assert_array_equal(read_array(folder), x)
    assert_array_equal(read_array(f"{folder}/part_*{Path(name).suffix}"), x)
    assert_array_equal(read_array(f"{folder}/part_1*"), x[[1, 10]])


def test_no_library_of_a_format_is_imported_before_it_is_needed():
    code = "import sys, emcl_plugin.io.formats; print({'torch', 'scipy', 'h5py'} & {*sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_bfloat16_comes_as_float32(tmp_path):
    x = torch.from_numpy(X).bfloat16()
    torch.save(x, tmp_path / "a.pt")
    assert_array_equal(read_array(tmp_path / "a.pt"), x.float().numpy())


@pytest.mark.parametrize("x", [X.astype(">f4"), np.asfortranarray(X), np.ones((0, 4), "f4")])
def test_layouts_of_npy_under_any_name(tmp_path, x):
    (tmp_path / "features").write_bytes(saved(x))
    found = read_array(tmp_path / "features")
    assert found.dtype == x.dtype
    assert_array_equal(found, x)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("name", "dtype"), stored(BY_COLUMN))
def test_ids_come_with_the_vectors(tmp_path, name, dtype, parts):
    x = X.astype(dtype)
    split_ids = np.array_split(IDS, parts)
    for i, (rows, ids) in enumerate(zip(np.array_split(x, parts), split_ids, strict=True)):
        BY_COLUMN[name](tmp_path / f"part_{i}{Path(name).suffix}", rows, ids.tolist())
    source = tmp_path if parts > 1 else tmp_path / f"part_0{Path(name).suffix}"
    found = read_vectors(source, trust_pickle=True)
    assert_array_equal(found.array, x)
    assert (found.array.dtype, found.ids, found.column_ids) == (dtype, tuple(IDS), None)


@pytest.mark.parametrize("how", [{}, {"chunks": (2,)}, {"compression": "lzf", "shuffle": True}])
def test_texts_of_several_lengths_in_hdf5(tmp_path, how):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = X
        file.create_dataset("ids", data=IDS, **how)
    assert read_vectors(tmp_path / "a.h5").ids == tuple(IDS)


@pytest.mark.parametrize("shape", [(0, 5), ()])
def test_hdf5_without_rows(tmp_path, shape):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.ones(shape)
    assert read_array(f"{tmp_path}/a.h5:x").shape == shape


@pytest.mark.parametrize("name", ["a.npy", "a.fvecs", "a.h5"])
def test_what_lies_in_one_piece_is_mapped_and_never_written_to(tmp_path, name):
    WRITERS[name](tmp_path / name, X.astype("f4"))
    found = read_array(tmp_path / name)
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable


# --- several arrays in a file --------------------------------------------------------------------


def save_two_h5(path, t, v):
    with h5py.File(path, "w") as file:
        file["g/t"], file["g/v"] = t, v


def save_two_pt(path, t, v):
    torch.save({"out": {"t": torch.tensor(t), "v": torch.tensor(v)}}, path)


def save_two_columns(path, t, v):
    parquet.write_table(pa.table({"t": column(t), "v": column(v)}), path)


@pytest.mark.parametrize(
    ("name", "first", "second", "write"),
    [
        ("a.npz", "t", "v", lambda path, t, v: np.savez(path, t=t, v=v, n=t[0])),
        ("a.safetensors", "t", "v", lambda p, t, v: save_file({"t": t, "v": v, "n": t[0]}, p)),
        ("a.pt", "out.t", "out.v", save_two_pt),
        ("a.h5", "g/t", "/g/v", save_two_h5),
        ("a.mat", "t", "v", lambda path, t, v: savemat(path, {"t": t, "v": v, "name": "text"})),
        ("a.parquet", "t", "v", save_two_columns),
    ],
)
def test_one_of_several_arrays_has_to_be_named(tmp_path, name, first, second, write):
    path = tmp_path / name
    write(path, X, -X)
    assert_array_equal(read_array(f"{path}:{first}"), X)
    assert_array_equal(read_array(f"{path}:{second}"), -X)
    with pytest.raises(InputFileError, match="several arrays") as caught:
        read_array(path)
    assert f"name one: {name}:{first}" in str(caught.value)
    with pytest.raises(InputFileError, match="no array of this name") as caught:
        read_array(f"{path}:texts")
    assert first in str(caught.value)


def test_the_only_table_among_vectors_needs_no_name(tmp_path):
    np.savez(tmp_path / "a.npz", features=X, lengths=X[:, 0], scale=np.float64(3))
    assert_array_equal(read_array(tmp_path / "a.npz"), X)


@pytest.mark.parametrize("name", ["a.npy", "a.fvecs", "a.pt"])
def test_a_name_where_there_are_none(tmp_path, name):
    WRITERS[name](tmp_path / name, X.astype("f4"))
    refused(f"{tmp_path / name}:features", "without a name")


def test_a_file_whose_name_has_a_colon(tmp_path):
    np.save(tmp_path / "a.npy:b.npy", X)
    assert_array_equal(read_array(tmp_path / "a.npy:b.npy"), X)
    assert split("C.npz:a:b") == ("C.npz", "a:b")
    assert split("folder/x") == ("folder/x", None)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", READERS)
def test_what_is_not_there_or_empty_or_of_another_kind(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    refused(path, "does not exist")
    refused(f"{path}:x", "does not exist")
    for content in (b"", b"text and video\n" * 50, pickle.dumps({"x": Bomb()})):
        path.write_bytes(content)
        refused(path, "run any code|damaged|not JSON|not an?")


@pytest.mark.parametrize("name", WRITERS)
def test_a_name_that_is_not_in_it(tmp_path, name):
    WRITERS[name](tmp_path / name, X.astype("f4"))
    refused(f"{tmp_path / name}:nowhere", "nowhere")


def test_other_kinds_are_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"12345678")
    refused(tmp_path / "a.bin", "unknown file format")
    refused(tmp_path / "a.bin2", "does not exist")
    (tmp_path / "a.npy").mkdir()
    refused(tmp_path / "a.npy", "no files of a known kind")


def damaged(content, random):
    """Truncate the content, change bytes, or copy some of them elsewhere."""
    content = bytearray(content)
    if random.random() < 0.3:
        return content[: random.randrange(len(content))]
    for _ in range(random.randint(1, 5)):
        content[random.randrange(len(content))] = random.randrange(256)
    if random.random() < 0.2:
        start, to = random.randrange(len(content)), random.randrange(len(content))
        content[to : to + 8] = content[start : start + 8]
    return content


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*WRITERS, *BY_COLUMN]), st.randoms(use_true_random=False))
def test_damaged_files_are_refused_or_read_never_worse(tmp_path, name, random):
    """Expect this project's error, or an array of numbers with one id per row."""
    path = tmp_path / name
    if not path.exists():
        write_any(path, X.astype("f4"))
    spoilt = tmp_path / f"spoilt{path.suffix}"
    spoilt.write_bytes(damaged(path.read_bytes(), random))
    with contextlib.suppress(InputFileError):
        found = read_vectors(spoilt, trust_pickle=True)
        assert isinstance(found.array, np.ndarray)
        assert found.ids is None or len(found.ids) == len(found.array)


def header(shape):
    file = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def packed(*vectors):
    return b"".join(struct.pack(f"<i{len(v) - 1}f", *v) for v in vectors)


def pack_npz(path):
    """Write seven rows behind a header of six."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header((6, 5)) + X.astype("f4").tobytes())


def save_texts(path):
    with h5py.File(path, "w") as file:
        file["x"] = IDS


def save_twice(path):
    parquet.write_table(pa.table([column(X), column(X)], ["vector", "vector"]), path)


def saved(x, save=np.save):
    file = io.BytesIO()
    save(file, x)
    return file.getvalue()


def save_vectors(rows):
    return lambda path: parquet.write_table(pa.table({"vector": rows}), path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.fvecs", packed((3, 1, 2)), "no vectors"),
        ("a.fvecs", packed((0, 1, 2)), "no vectors"),
        ("a.fvecs", packed((2, 1, 2), (3, 1, 2)), "vector 1 has dimension 3"),
        ("a.npy", saved(X, np.savez), "archive"),
        ("a.npy", saved(X)[:40], "damaged or cut short"),
        ("a.npy", saved(X).replace(b"(7, 5)", b"(7, 9)"), "damaged or cut short"),
        ("a.npy", saved(X).replace(b"(7, 5)", b"(-7,5)"), "damaged or cut short"),
        ("a.npz", pack_npz, r"x: \(6, 5\) of float32 in 268 bytes"),
        ("a.h5:x", save_texts, "is of object"),
        ("a.mat", lambda path: savemat(path, {"x": X + 1j}), "complex"),
        ("a.parquet", save_twice, "several columns are called vector"),
        ("a.parquet", save_vectors([[1.0, 2.0], [1.0]]), "lengths"),
        ("a.parquet", save_vectors([[1.0, 2.0], None]), "without a vector"),
        ("a.parquet", save_vectors([[1.0, None], [1.0, 2.0]]), "missing numbers"),
        ("a.parquet", save_vectors([["a"], ["b"]]), "holds string"),
        ("a.parquet", save_vectors([1.0, 2.0]), "holds no array"),
        ("a.pkl", saved(X), "array of numbers, not a pickle"),
    ],
)
def test_numbers_that_are_others_than_the_file_says(tmp_path, name, content, words):
    path = tmp_path / name.partition(":")[0]
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    refused(tmp_path / name, words, trust_pickle=True)


@pytest.mark.parametrize("keep", [0.3, 0.9])
@pytest.mark.parametrize("name", sorted(WRITERS.keys() - TEXT))
def test_cut_short(tmp_path, name, keep):
    x = np.random.default_rng(0).standard_normal((300, 7)).astype("f4")
    WRITERS[name](tmp_path / name, x)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(keep * len(content)) | 1])
    refused(tmp_path / name, "damaged|cut short|not an?")


@pytest.mark.skipif(torch.__version__ < "2.10", reason="conftest.py trusts the tests' own files")
def test_an_old_torch_reads_no_pt_files(tmp_path, monkeypatch):
    """Older restricted readers can be exploited: CVE-2025-32434 and CVE-2026-24747."""
    torch.save(torch.from_numpy(X), tmp_path / "a.pt")
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.9.1+cu128"))
    refused(tmp_path / "a.pt", r"2\.9\.1\+cu128[^$]*torch 2\.10 or newer")
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.10.0"))
    assert_array_equal(read_array(tmp_path / "a.pt"), X)


def test_headers_that_claim_more_than_there_is(tmp_path):
    """Ten gigabytes claimed in a thousand bytes are refused before allocation."""
    huge = (50_000, 50_000)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header(huge) + bytes(1000))
    refused(tmp_path / "a.npz", "far more than there is")
    (tmp_path / "a.npy").write_bytes(header(huge) + bytes(1000))
    refused(tmp_path / "a.npy", "damaged or cut short")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", huge, "f4", chunks=(100, 100), compression="gzip")
    refused(tmp_path / "a.h5", "far more than there is")
    about = b'{"x":{"dtype":"F32","shape":[50000,50000],"data_offsets":[0,10000000000]}}'
    content = struct.pack("<Q", len(about)) + about + bytes(1000)
    (tmp_path / "a.safetensors").write_bytes(content)
    refused(tmp_path / "a.safetensors", "damaged")


@pytest.mark.slow
def test_zip_bombs(tmp_path):
    """Archives of zeros, recompressed, and a Parquet column of one repeated number."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", header((5_000, 5_000)) + bytes(100_000_000))
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    refused(tmp_path / "a.npz", "far more than there is")
    torch.save(torch.zeros(5_000, 5_000), tmp_path / "big.pt")
    with (
        zipfile.ZipFile(tmp_path / "big.pt") as big,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_BZIP2) as small,
    ):
        for info in big.infolist():
            small.writestr(info.filename, big.read(info))
    refused(tmp_path / "a.pt", "far more than there is")
    zeros = pa.table({"vector": column(np.zeros((10_000, 2_000), "f4"))})
    parquet.write_table(zeros, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    refused(tmp_path / "a.parquet", "far more than there is")


def test_hdf5_that_points_to_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(X.tobytes())
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        where = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("x", X.shape, "f8", external=where)
    refused(path, "in another file")
    save_h5(tmp_path / "b.h5", X)
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("b.h5", "group/data")
    refused(path, "holds no array")
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout(X.shape, "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "group/data", X.shape)
        file.create_virtual_dataset("x", layout)
    refused(path, "in another file")


def test_links_out_of_a_folder(tmp_path):
    inside = tmp_path / "parts"
    inside.mkdir()
    np.save(tmp_path / "b.npy", X)
    np.save(inside / "1.npy", X)
    (inside / "3.npy").symlink_to(inside / "1.npy")
    assert read_array(inside).shape == (14, 5)
    (inside / "2.npy").symlink_to(tmp_path / "b.npy")
    with pytest.raises(InputFileError, match="links to a file outside"):
        read_array(inside)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (("b.npy", X[:, :4]), "cannot be concatenated"),
        (("b.npy", X.astype("f4")), "cannot be concatenated"),
        (("b.npy", X[0]), "cannot be concatenated"),
        (("b.fvecs", X), "several kinds"),
    ],
)
def test_shards_that_do_not_fit(tmp_path, other, words):
    name, x = other
    np.save(tmp_path / "a.npy", X)
    WRITERS["a" + Path(name).suffix](tmp_path / name, x)
    with pytest.raises(InputFileError, match=words) as caught:
        read_array(tmp_path / "*")
    assert Path(name).suffix in str(caught.value)


def test_a_folder_of_other_files_than_parts(tmp_path):
    """Texts and videos are not concatenated unless a pattern asks for it."""
    refused(tmp_path, "no files of a known kind")
    refused(tmp_path / "*.npy", "no files of a known kind")
    np.save(tmp_path / "text.npy", X)
    np.save(tmp_path / "video.npy", X)
    refused(tmp_path, "not numbered parts of one")
    assert read_array(tmp_path / "*.npy").shape == (14, 5)
