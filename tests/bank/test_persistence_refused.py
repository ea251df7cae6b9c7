"""Damaged saved correctors are refused: tensors, headers and folders."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file
from saved import DEEP, V1, at, load, refused, same, write

from emcl_plugin.bank.persistence import FILES, MANIFEST, NAMES, TENSORS
from emcl_plugin.errors import StateError

# --- what is refused: tensors --------------------------------------------------------------------


def rewrite(folder: Path, **changes: object) -> None:
    """The tensors with some of them replaced (None: taken away), by the usual library."""
    tensors = {**load_file(folder / TENSORS), **changes}
    save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, folder / TENSORS)


def poisoned(shape, value, place) -> torch.Tensor:
    out = torch.zeros(shape)
    out[place] = value
    return out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bias": None}, "missing\n.*no bias"),
        ({"extra": torch.ones(1)}, "does not belong there\n.*extra"),
        ({"bias": torch.zeros(9)}, "another shape\n.*bias"),
        ({"bias": torch.zeros(8, 1)}, "another shape\n.*bias"),
        ({"gallery": torch.zeros(6, 8)}, "another shape\n.*gallery"),
        ({"bias": torch.zeros(8).double()}, "another dtype\n.*bias F64"),
        ({"bias": torch.zeros(8).half()}, "another dtype\n.*bias F16"),
        ({"bias": torch.zeros(8, dtype=torch.int32)}, "another dtype\n.*bias I32"),
        ({"bias": poisoned(8, torch.nan, 3)}, r"NaN or infinity\n.*bias\[3\] = nan"),
        ({"bank": poisoned((12, 6), -torch.inf, (2, 4))}, r"infinity\n.*bank\[2, 4\] = -inf"),
        ({"bias": torch.zeros(8)}, "not the saved one\n.*bias"),
        ({"gallery": torch.ones(8, 6) / 6**0.5}, "not the saved one\n.*gallery"),
    ],
)
def test_every_tensor_is_checked(folder, changes, words):
    rewrite(folder, **changes)
    refused(folder, words)


def tampered(folder: Path, change) -> None:
    """The safetensors file with its header changed as an object, the numbers as they are."""
    data = (folder / TENSORS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(change(header) or header).encode()
    (folder / TENSORS).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("bias.data_offsets", [0, 10**12], "damaged"),
        ("bias.data_offsets", [0, 32], "damaged"),
        ("bias.data_offsets", [10**4000, 10**4000], "damaged"),
        ("gallery.data_offsets", [0, 64], "damaged"),
        ("bias.shape", [10**4000], "damaged"),
        ("bias.shape", [8, 1], "another shape"),
        ("bias.dtype", "F64", "damaged"),
        ("bias.dtype", ..., "damaged"),
        ("gallery.shape", [6, 8], "another shape"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_header_that_lies(folder, path, value, words):
    tampered(folder, at(path, value))
    refused(folder, words)


def test_a_header_and_a_json_that_lie_alike_take_no_memory(folder):
    content = json.loads((folder / MANIFEST).read_text())
    content["n_bank"] = 1 << 38

    def change(header):
        end = 0
        for name, entry in header.items():
            if name in ("bank", "potential", "weight"):
                entry["shape"][0] = 1 << 38
            start, end = end, end + 4 * int(np.prod([int(n) for n in entry["shape"]], dtype=object))
            entry["data_offsets"] = [start, end]

    tampered(folder, change)
    write(folder, content)
    refused(folder, "truncated")
    with (folder / TENSORS).open("r+b") as file:  # 8 TiB that are really there, as a hole
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        end = max(entry["data_offsets"][1] for entry in header.values())
        try:
            file.truncate(8 + length + end)
        except OSError:
            pytest.skip("this file system has no files of that size")
    refused(folder, "does not fit into memory")


def header_of(length: int) -> bytes:
    return length.to_bytes(8, "little") + b"{}" + b" " * 40


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def torch_file() -> bytes:
    file = io.BytesIO()
    torch.save({"bias": torch.ones(8), "bomb": Bomb()}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated, or not a safetensors"),
        (b"\x05\x00", "truncated, or not a safetensors"),
        (header_of(1 << 63), "truncated, or not a safetensors"),
        (header_of(43), "truncated, or not a safetensors"),
        ((DEEP).to_bytes(8, "little") + b"[" * DEEP, "damaged, truncated"),
        (b"text,video\n" * 100, "truncated, or not a safetensors"),
        *((pickle.dumps(Bomb(), protocol), "pickle") for protocol in (2, 3, 4, 5)),
        (pickle.dumps(Bomb(), 0), "not a safetensors"),
        (torch_file(), "zip archive"),
    ],
)
def test_files_that_are_not_safetensors(folder, data, words):
    (folder / TENSORS).write_bytes(data)
    refused(folder, words)


def test_too_short_and_too_long(folder, monkeypatch):
    data = (folder / TENSORS).read_bytes()
    for cut in (1, 100, len(data) // 2, len(data) - 9):
        (folder / TENSORS).write_bytes(data[:-cut])
        refused(folder, "truncated")
    (folder / TENSORS).write_bytes(data + b"\0")
    refused(folder, "damaged")
    monkeypatch.setattr(os, "sysconf", lambda _: 30)  # 900 bytes
    refused(folder, "does not fit into memory")


# --- what is refused: folders --------------------------------------------------------------------


def test_no_folder(folder, tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    refused(folder / MANIFEST, "is a file, not a folder")
    refused(Path("nul\0byte"), "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "missing\n.*corrector.json")


@pytest.mark.parametrize("name", FILES)
def test_anything_but_a_file_is_refused_without_waiting(folder, name):
    path = folder / name
    path.unlink()
    refused(folder, f"missing\n.*{name}")
    path.symlink_to("nowhere")
    refused(folder, f"missing\n.*{name}")
    path.unlink()
    path.symlink_to(name)
    refused(folder, f"cannot be read\n.*{name}")
    path.unlink()
    path.mkdir()
    refused(folder, f"not a regular file\n.*{name}")
    path.rmdir()
    os.mkfifo(path)
    refused(folder, f"not a regular file\n.*{name}")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(folder, f"not a regular file\n.*{name}")
    path.unlink()
    path.symlink_to("/etc/passwd")
    text = refused(folder, "damaged|not a safetensors")
    assert "/bin/" not in text  # its lines are not shown around


@pytest.mark.slow
def test_nothing_is_imported_by_a_name_in_the_files(folder):
    """Loading in a fresh interpreter loads no module that the package does not load itself."""
    (folder / "hostile_name.py").write_text("raise SystemExit('imported')")
    content = json.loads((folder / MANIFEST).read_text())
    content["settings"]["emcl"] = "hostile_name"
    write(folder, content)
    code = (
        "import sys; from emcl_plugin import Reranker; load = Reranker.from_pretrained\n"
        "before = set(sys.modules)\n"
        "for path in sys.argv[1:]:\n"
        "    try: load(path)\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "print(sorted(m for m in set(sys.modules) - before if 'hostile' in m or m == 'pickle'))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(V1)],
        capture_output=True, text=True, cwd=folder, check=True,
    )  # fmt: skip
    assert out.stdout.split() == ["StateError", "[]"]


def test_every_single_bit_of_the_numbers_counts(folder):
    data = (folder / TENSORS).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(0)
    for place in rng.sample(range(start, len(data)), 60):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << rng.randrange(8)
        (folder / TENSORS).write_bytes(spoilt)
        refused(folder, "not the saved one|NaN")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.data())
def test_random_damage_is_refused_or_harmless(folder, name, draw):
    """A piece of a file is replaced by other bytes, of any number."""
    data = (V1 / name).read_bytes()
    start, stop = sorted(draw.draw(st.integers(0, len(data)), label="place") for _ in "12")
    new = draw.draw(st.binary(max_size=8) | st.just(data[:start]), label="new")
    (folder / name).write_bytes(data[:start] + new + data[stop:])
    try:
        same(load(folder), load(V1))
    except StateError:
        pass
    finally:
        (folder / name).write_bytes(data)


def test_the_sums_are_those_of_the_bytes():
    content = json.loads((V1 / MANIFEST).read_text())
    tensors = load_file(V1 / TENSORS)
    for name, x in tensors.items():
        assert content["tensors"][name] == hashlib.sha256(x.numpy().tobytes()).hexdigest()
    names = json.loads((V1 / NAMES).read_text())
    joined = tensors["gallery"].numpy().tobytes()
    joined += json.dumps(names, separators=(",", ":")).encode()
    assert content["gallery_order"] == hashlib.sha256(joined).hexdigest()
    assert_array_equal(tensors["gallery"].shape, (8, 6))
