"""Reading `.npy` runs no code; writing is atomic."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from written import Bomb

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.atomic import check_target
from emcl_plugin.io.npy import npy_size, read_npy, write_npy


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_round_trip(tmp_path, dtype, order):
    array = np.asarray(np.random.default_rng(0).random((7, 5)), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    read = read_npy(tmp_path / "a.npy")
    assert isinstance(read, np.memmap)
    write_npy(tmp_path / "b.npy", (7, 5), np.dtype(dtype), [read[:3], read[3:]])
    assert_array_equal(np.load(tmp_path / "b.npy"), array)
    assert (tmp_path / "b.npy").stat().st_size == npy_size((7, 5), array.itemsize)


def test_empty_array_is_read_as_empty(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((0, 4), "float32"))
    assert read_npy(tmp_path / "a.npy").shape == (0, 4)


def saved(save, x) -> bytes:
    file = io.BytesIO()
    save(file, x)
    return file.getvalue()


def plain(shape) -> bytes:
    return saved(np.save, np.ones(shape))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(Bomb()), "a pickle, which could run any code"),
        (saved(np.save, np.array([Bomb()], object)), "pickled Python objects"),
        (saved(np.savez, np.ones(3)), "archive"),
        (b"", "not an .npy file"),
        (b"text,video\n1,2\n", "not an .npy file"),
        (plain((50, 5))[:-9], "damaged or cut short"),
        (plain((50, 5))[:40], "damaged or cut short"),
        (plain((2, 5)).replace(b"(2, 5)", b"(2, 9)"), "damaged or cut short"),
        (plain((2, 5)).replace(b"(2, 5)", b"(-2,5)"), "damaged or cut short"),
    ],
    ids=["pickle", "objects", "npz", "nothing", "csv", "cut", "header cut", "lies", "negative"],
)
def test_other_files_are_refused(tmp_path, content, words):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match=words):
        read_npy(path)


def test_missing_and_folder_are_refused(tmp_path):
    with pytest.raises(InputFileError, match="does not exist"):
        read_npy(tmp_path / "no.npy")
    with pytest.raises(InputFileError, match="cannot be read"):
        read_npy(tmp_path)


def test_output_that_appears_meanwhile_is_kept(tmp_path):
    def blocks():
        (tmp_path / "a.npy").write_text("somebody else's")
        yield np.ones((2, 2), "float32")

    with pytest.raises(InputFileError, match="appeared"):
        write_npy(tmp_path / "a.npy", (2, 2), np.dtype("float32"), blocks())
    assert [p.read_text() for p in tmp_path.iterdir()] == ["somebody else's"]


def test_targets_that_must_fail_are_refused_before_the_work(tmp_path):
    (tmp_path / "a.npy").touch()
    for path, words in [
        (tmp_path / "a.npy", "already"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "b.npy", "does not exist"),
    ]:
        with pytest.raises(InputFileError, match=words):
            check_target(path, 10, force=False)
    with pytest.raises(InputFileError, match="disk is full"):
        check_target(tmp_path / "b.npy", 1 << 60, force=False)
    check_target(tmp_path / "a.npy", 10, force=True)
