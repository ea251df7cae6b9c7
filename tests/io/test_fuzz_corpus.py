"""Hostile inputs that fuzzing found, and others that chance does not find, stay refused.

A file in tests/data/fuzz/TARGET is an input of that target of tests/repository/campaigns/fuzz.py.
"""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emcl_plugin._internal.sizes import format_size, parse_size
from emcl_plugin.adapters import read
from emcl_plugin.cli.inputs import read_measures
from emcl_plugin.errors import EmclError, InputFileError
from emcl_plugin.evaluation.metrics import is_measure
from emcl_plugin.io.formats import read_vectors, split
from emcl_plugin.io.parts import natural

sys.path.insert(0, str(Path(__file__).parents[1] / "repository" / "campaigns"))
from targets import KEPT, LONGEST, TARGETS

SECONDS, BYTES = 2.0, 30 << 20
FILES = sorted(path.relative_to(KEPT) for path in KEPT.rglob("*") if path.is_file())


@contextmanager
def quick_and_small():
    """A small file costs neither seconds nor tens of megabytes."""
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begin < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES


@pytest.fixture(scope="module", autouse=True)
def _imported(tmp_path_factory):
    """Import libraries, whose own time and memory do not count."""
    for target in TARGETS.values():
        for seed in target.seeds(tmp_path_factory.getbasetemp()):
            target.accepts(seed, tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("file", FILES, ids=str)
def test_what_was_a_loss_once(tmp_path, file):
    with quick_and_small():
        TARGETS[file.parent.name].accepts((KEPT / file).read_bytes(), tmp_path)


def test_the_corpus_is_small():
    sizes = [(KEPT / file).stat().st_size for file in FILES]
    assert max(sizes) <= 4096
    assert sum(sizes) < 200_000
    assert {file.parent.name for file in FILES} <= TARGETS.keys()


TEXTS = st.binary(max_size=300).map(os.fsdecode) | st.text("0123456789.-+e GMiB:@,nDRm*?[]/\xa0")


@settings(max_examples=1000)
@example("\udcff" * 298)
@example("3 " + "\udca0" * 300)
@example("M" + "\udca0" * 250)
@given(TEXTS.map(lambda text: text.replace("\0", "")))
def test_any_text_of_an_option_is_parsed_or_refused(text):
    where, key = split(text)
    assert text == (where if key is None else f"{where}:{key}")
    assert sorted([text, where], key=natural)
    for parse in (parse_size, read_measures, lambda text: read_vectors(f"/no/such{text}")):
        try:
            found = parse(text)
        except (EmclError, click.UsageError) as error:
            length = len(str(error))
            assert length < LONGEST
            continue
        assert format_size(found) if parse is parse_size else all(map(is_measure, found))


def npy(shape, dtype="<f4", version=1):
    """Return the header of an array."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + size + head


def packed(name, start, zeros, *, copies=1, **claims):
    """Return an archive of one member: ``start``, then zeros; ``claims`` change its directory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        with archive.open(name, "w") as member:
            member.write(start)
            for _ in range(zeros // len(ZEROS)):
                member.write(ZEROS)
        info = archive.filelist[0]
        for claim, value in claims.items():
            setattr(info, claim, value)
        archive.filelist[1:] = [info] * (copies - 1)
    return file.getvalue()


def marked_as_folder():
    """Return a .pt archive for whose numbers PyTorch would return uninitialised memory."""
    made, file = io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.ones(2, 2)}, made)
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(file, "w") as new:
        for info in old.infolist():
            info.external_attr |= 0x10 * info.filename.endswith("data/0")
            new.writestr(info, old.read(info))
    return file.getvalue()


def expanded():
    file = io.BytesIO()
    torch.save(torch.ones(1).expand(10**6, 10**6), file)
    return file.getvalue()


ZEROS = bytes(1_000_000)
AGAIN = b"\x80\x04](" + b"](" + b"K\1" * 1000 + b"e\x94" + b"h\0" * 200_000 + b"e."
LIES = {
    "a header of 60 MB.npz": lambda: packed(
        "x.npy", b"\x93NUMPY\2\0" + struct.pack("<I", 60_000_000), 60_000_000
    ),
    "a packed size that is none.npz": lambda: packed(
        "x.npy", npy((5000, 3000)), 60_000_000, compress_size=1 << 30
    ),
    "a header nested deeply.npy": lambda: npy("(" + "-" * 9000 + "1, 2)"),
    "negative lengths of no bytes.npy": lambda: npy("(-1,)", "|S0") + bytes(64),
    "one row 200000 times.pkl": lambda: AGAIN,
    "a name of 10000 digits.pkl": lambda: pickle.dumps({10**9999: np.ones((2, 2))}),
    "one number as a trillion.pt": expanded,
    "numbers in a folder.pt": marked_as_folder,
    "one member many times.pt": lambda: packed("a/data.pkl", b"", 1_000_000, copies=5000),
    "a text of 4 GB.pt": lambda: b"X\xff\xff\xff\xff" + bytes(100),
}


@pytest.mark.parametrize("name", LIES)
def test_files_that_lie_or_loop(tmp_path, name):
    path = tmp_path / f"a{Path(name).suffix}"
    path.write_bytes(LIES[name]())
    with pytest.raises(InputFileError), quick_and_small():
        read_vectors(path, trust_pickle=True)


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("retriever", "content"),
    [
        ("mmt", {"sims": LOOP}),
        ("clip4clip", {"sim": np.ones((2, 2)), "cut_off_points": np.array([1, 2 * 10**9])}),
        ("clip4clip", {"sim": np.ones((2, 2)), "cut_off_points": np.array(["a", "b"])}),
        ("emcl-net", {"sim": [np.ones((2, 2)), np.ones((2, 3))]}),
        ("mmt", {b"\xff": np.ones((2, 2)), "sims": np.ones((2, 2))}),
        ("mmt", {"sims": [np.ones((200, 200))] * 10_000}),
    ],
)
def test_what_no_retriever_leaves(tmp_path, retriever, content):
    path = tmp_path / "run.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(EmclError):
        read(retriever, path, trust_pickle=True)


def test_a_folder_that_holds_itself_twice(tmp_path):
    np.save(tmp_path / "sims.npy", np.ones((2, 2)))
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(tmp_path)
    with pytest.raises(InputFileError, match="links to a folder inside"):
        read("mmt", tmp_path)


def test_what_a_file_says_cannot_write_to_the_terminal(tmp_path):
    """Nor fill it."""
    names = ["\x1b[2J\x1b]0;title\x07", "\u202e", "a" * 50_000]
    np.savez(tmp_path / "a.npz", **{name: np.ones((2, 2)) for name in names})
    with pytest.raises(InputFileError, match="several arrays") as caught:
        read_vectors(tmp_path / "a.npz")
    text = str(caught.value)
    assert r"\x1b[2J\x1b]0;title\x07, \u202e" in text
    assert text.replace("\n", "").isprintable()
    assert len(text) < 1500
