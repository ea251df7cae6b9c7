"""Pipes, devices and sockets instead of files, and archives with paths as names."""

from __future__ import annotations

import os
import shutil
import signal
import socket

import numpy as np
import pytest
import torch

from emcl_plugin import Reranker
from emcl_plugin.errors import InputFileError, StateError
from emcl_plugin.io import members
from emcl_plugin.io.bundle import read_bundle
from emcl_plugin.io.formats import READERS, read_vectors
from emcl_plugin.io.members import utf8_name
from emcl_plugin.io.truth import read_lines, read_truth

X = np.arange(6, dtype="f4").reshape(2, 3)
SPECIAL = {
    "a pipe": os.mkfifo,
    "an endless device": lambda path: os.symlink("/dev/zero", path),
    "an empty device": lambda path: os.symlink("/dev/null", path),
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.fixture(autouse=True)
def no_waiting():
    """Fail instead of hanging when a read blocks."""

    def late(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a maker of special files; sockets need short relative names."""

    def make(kind, name):
        monkeypatch.chdir(tmp_path)
        SPECIAL[kind](name)
        return tmp_path / name

    return make


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("kind", SPECIAL)
def test_no_reader_opens_what_is_no_file(make, kind):
    for suffix in READERS:
        path = make(kind, f"x{suffix}")
        for read in (read_vectors, read_bundle):
            with pytest.raises(InputFileError, match=r"pipe or a device|no arrays by name"):
                read(path, trust_pickle=True)
    for suffix in (".npy", ".csv", ".tsv", ".jsonl", ".parquet", ".qrels", ".txt"):
        path = make(kind, f"gt{suffix}")
        with pytest.raises(InputFileError, match="pipe or a device"):
            read_truth(path, (2, 2))
    with pytest.raises(InputFileError, match="pipe or a device"):
        read_lines(path, 2, "ids")


@pytest.fixture(scope="module")
def corrector(tmp_path_factory):
    rng = np.random.default_rng(0)
    bank, gallery = rng.standard_normal((2, 20, 6)).astype("f4")
    folder = tmp_path_factory.mktemp("fitted") / "fitted"
    Reranker().fit(bank, gallery, names=[str(i) for i in range(20)]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["corrector.json", "corrector.safetensors", "names.json"])
@pytest.mark.parametrize("kind", ["a pipe", "an endless device", "a folder", "a secret"])
def test_a_saved_corrector_with_something_else_in_a_files_place(corrector, tmp_path, kind, name):
    """The content of a linked file of the machine is not shown in the error."""
    folder = shutil.copytree(corrector, tmp_path / "fitted")
    (folder / name).unlink()
    if kind == "a folder":
        (folder / name).mkdir()
    elif kind == "a secret":
        (tmp_path / "secret").write_text("the password is swordfish")
        (folder / name).symlink_to(tmp_path / "secret")
    else:
        SPECIAL[kind](folder / name)
    with pytest.raises(StateError) as told:
        Reranker.from_pretrained(folder)
    assert "swordfish" not in str(told.value)
    assert "password" not in str(told.value)


ESCAPES = ["../out", "/tmp/emcl_out", "a/../../out", "C:\\out", "..", "con", "a\nb\x1b[31m"]


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_names_in_an_archive_are_names_and_no_paths(tmp_path, suffix):
    home = tmp_path / "home"
    home.mkdir()
    path = home / f"x{suffix}"
    before = set(os.listdir(tmp_path)), set(os.listdir("/tmp"))
    for name in ESCAPES:
        if suffix == ".npz":
            np.savez(path, **{name: X})
        else:
            torch.save({name: torch.from_numpy(X)}, path)
        np.testing.assert_array_equal(read_vectors(path).array, X)
        if suffix == ".npz":
            np.testing.assert_array_equal(read_vectors(f"{path}:{name}").array, X)
        read_bundle(path)
    assert os.listdir(home) == [path.name]
    assert set(os.listdir(tmp_path)) == before[0]
    assert "emcl_out" not in set(os.listdir("/tmp")) - before[1]


def test_a_link_that_leads_to_itself(tmp_path):
    (tmp_path / "0.npy").symlink_to("0.npy")
    for source in (tmp_path, tmp_path / "0.npy"):
        with pytest.raises(InputFileError, match="symbolic links"):
            read_vectors(source)


def test_a_name_that_is_no_utf8_is_opened_by_number(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_text("here")
    with utf8_name(path) as named:
        assert named.read_text() == "here"
        assert str(named).isascii()
    with utf8_name(tmp_path / "é.txt") as named:
        assert named == tmp_path / "é.txt"


@pytest.mark.parametrize("suffix", [".pt", ".pkl"])
def test_a_lack_of_memory_is_the_fault_of_a_small_file_only(tmp_path, monkeypatch, suffix):
    def lacking(*_, **__):
        raise MemoryError

    path = tmp_path / f"x{suffix}"
    torch.save(torch.ones(2), path)
    monkeypatch.setattr("torch.load", lacking)
    monkeypatch.setattr("emcl_plugin.io.pickled._Unpickler", lacking)
    with pytest.raises(InputFileError, match="claims more than the memory holds"):
        read_bundle(path, trust_pickle=True)
    monkeypatch.setattr(members, "LARGE", path.stat().st_size)
    with pytest.raises(MemoryError):
        read_bundle(path, trust_pickle=True)
