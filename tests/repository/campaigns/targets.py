"""Targets of fuzzing: one function per kind of input, with and without a fuzzer.

A target accepts its bytes or raises one of this project's errors. Anything else is a loss, wrong
numbers included. Formats whose files a library parses alone (pickles, `.pt`, Arrow, HDF5, MATLAB)
are not fuzzed here.
"""

from __future__ import annotations

import csv
import io
import json
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS / place) for place in ("io", "adapters", "repository/campaigns")]

from hostile import CHANGES, Change, behind, change_json, change_safetensors  # noqa: E402
from producers import LEFT, Items, clip4clip, flat, mmt  # noqa: E402
from written import BY_COLUMN, IDS, WRITERS, X  # noqa: E402

from emcl_plugin.errors import EmclError, WorkerError  # noqa: E402
from emcl_plugin.io.formats import read_vectors  # noqa: E402
from emcl_plugin.io.members import MOST_PACKED  # noqa: E402

KEPT = TESTS / "data" / "fuzz"
"""Inputs that once were losses, in a folder per target."""
LONGEST = 2000
"""Maximum length of an error message."""
_SMALL = 100_000  # numbers that are compared one by one


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes
    ----------
    check : callable
        Takes the bytes and an empty folder.
    seeds : callable
        Yields valid inputs.
    change : callable or None
        Mutates an input so that it passes the format's own checks.
    """

    name: str
    check: Callable[[bytes, Path], None]
    seeds: Callable[[Path], Iterable[bytes]]
    change: Change | None = None

    def accepts(self, data: bytes, folder: Path) -> bool:
        """Return whether an input is accepted; raise if it is a loss."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.check(data, folder)
        except WorkerError:
            raise
        except EmclError as error:
            length = len(str(error))
            if length > LONGEST or not all((error.problem, error.received, error.remedy)):
                raise AssertionError(f"a message of {length} characters") from error
            return False
        return True


def _put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.unlink(missing_ok=True)  # the old one may still be mapped
    path.write_bytes(data)
    return path


# --- readers of arrays ----------------------------------------------------------------------------


def _reader(suffix: str, plainly: Callable[[Path], Iterator[Any]] | None = None) -> Any:
    def check(data: bytes, folder: Path) -> None:
        from emcl_plugin._internal.arrays import check_matrix

        path = _put(folder, f"x{suffix}", data)
        found = read_vectors(path, trust_pickle=True)
        array = check_matrix(found.array, "x")
        assert isinstance(array, np.ndarray)
        assert array.nbytes <= MOST_PACKED * len(data), f"{array.shape} of {len(data)} bytes"
        for ids, count in zip((found.ids, found.column_ids), array.shape, strict=True):
            assert ids is None or (len(ids) == count and all(type(x) is str for x in ids))
        if array.size > _SMALL:
            return
        float(np.abs(np.nan_to_num(array)).max())
        if plainly is not None:
            others = []
            with suppress(Exception):  # the plain reader may refuse what ours can read
                others += plainly(path)
            same = any(np.array_equal(array, x, equal_nan=True) for x in others)
            assert same or not others, "other numbers than the plain reader's"

    return check


def _plain_npy(path: Path) -> Iterator[Any]:
    yield np.load(path, allow_pickle=False)


def _plain_npz(path: Path) -> Iterator[Any]:
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            found = None
            with suppress(Exception):  # pickled, packed in an unknown way, ...
                found = archive[name]
            if found is not None:
                yield found


def _plain_safetensors(path: Path) -> Iterator[Any]:
    import torch
    from safetensors.torch import load

    for tensor in load(path.read_bytes()).values():
        yield (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _plain_fvecs(path: Path) -> Iterator[Any]:
    data = path.read_bytes()
    size = 4 + 4 * struct.unpack_from("<i", data)[0]
    yield np.stack(
        [np.frombuffer(data[i + 4 : i + size], "<f4") for i in range(0, len(data), size)]
    )


def _plain_csv(path: Path) -> Iterator[Any]:
    text = path.read_text(encoding="utf-8-sig", newline="")
    mark = "\t" if path.suffix == ".tsv" else ","
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if row]
    for skipped, first in ((0, 0), (1, 0), (0, 1), (1, 1)):
        with suppress(ValueError):
            yield np.array([[float(x) for x in row[first:]] for row in rows[skipped:]], np.float32)


def _plain_jsonl(path: Path) -> Iterator[Any]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    entries = [json.loads(line) for line in lines if line.strip()]
    yield np.array([list(map(float, row)) for row in entries], np.float32)


def _plain_parquet(path: Path) -> Iterator[Any]:
    from pyarrow import parquet, types

    schema = parquet.read_schema(path)
    for field in schema:
        if types.is_nested(field.type):
            column = parquet.read_table(path, columns=[field.name]).column(0)
            yield np.array(column.to_pylist(), field.type.value_type.to_pandas_dtype())


def _written(*names: str) -> Callable[[Path], Iterator[bytes]]:
    """Return small seeds from the tests' writers, by name there; ``:ids`` adds ids."""

    def seeds(folder: Path) -> Iterator[bytes]:
        for name in names:
            path = folder / name.removesuffix(":ids")
            path.unlink(missing_ok=True)
            if name.endswith(":ids"):
                BY_COLUMN[path.name](path, X[:3].astype("f4"), IDS[:3])
            else:
                WRITERS[path.name](path, X[:3].astype("f4"))
            yield path.read_bytes()

    return seeds


def _several(folder: Path) -> Iterator[bytes]:
    """Archives of scores with both sides' ids."""
    path = folder / "run.npz"
    np.savez(path, sims=X[:3, :2], text_ids=IDS[:3], video_ids=IDS[:2])
    yield path.read_bytes()


def _npz_seeds(folder: Path) -> Iterator[bytes]:
    yield from _written("a.npz", "packed.npz", "own.npz:ids", "shared.npz:ids")(folder)
    yield from _several(folder)


# --- ground truth, ids and masks ------------------------------------------------------------------

_TRUTHS = (".csv", ".tsv", ".jsonl", ".qrels", ".npy", ".parquet")
_TEXTS, _VIDEOS = ("a", "b c", "7"), ("x", "7", "ü")


def _check_truth(data: bytes, folder: Path) -> None:
    """Check with the format, and ids or none, that the first byte chooses."""
    from emcl_plugin.io.truth import read_lines, read_mask, read_truth

    which, data = data[0] if data else 0, data[1:]
    suffix = _TRUTHS[which % len(_TRUTHS)]
    path = _put(folder, f"gt{suffix}", data)
    mode = which // len(_TRUTHS) % 3
    if mode == 2 and suffix == ".npy":
        assert read_mask(path, 3).shape == (3,)
        return
    if mode == 2:
        assert len(read_lines(path, 3, "text ids")) == 3
        return
    truth = read_truth(path, (3, 3), *((_TEXTS, _VIDEOS) if mode else (None, None)))
    for places in (truth.query, truth.item):
        assert ((places >= 0) & (places < 3)).all()
    assert len(truth.query) == len(truth.item) == len(truth.grade)
    assert (np.isfinite(truth.grade) & (truth.grade > 0)).all(), "grades are not positive"


def _truth_seeds(folder: Path) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    pairs = [(0, 1, 1), (1, 0, 2), (2, 2, 1)]
    for mode in (0, 1):
        rows = [(_TEXTS[t], _VIDEOS[v], g) if mode else (str(t), str(v), g) for t, v, g in pairs]
        table = folder / "gt.parquet"
        columns = dict(zip(("text", "video", "grade"), map(list, zip(*rows)), strict=True))  # noqa: B905
        parquet.write_table(pa.table(columns), table)
        array = io.BytesIO()
        np.save(array, [v for _, v, _ in pairs] if mode else [(t, v) for t, v, _ in pairs])
        made = {
            ".csv": "text,video,grade\n" + "\n".join(f"{t},{v},{g}" for t, v, g in rows),
            ".tsv": "video\ttext\n" + "\n".join(f"{v}\t{t}" for t, v, _ in rows),
            ".jsonl": "\n".join(
                json.dumps({"text": t, "video": v, "grade": g}) for t, v, g in rows
            ),
            ".qrels": "\n".join(f"{t} 0 {v} {g}".replace("b c", "a") for t, v, g in rows),
            ".npy": array.getvalue(),
            ".parquet": table.read_bytes(),
        }
        for place, suffix in enumerate(_TRUTHS):
            content = made[suffix]
            content = content.encode() if isinstance(content, str) else content
            yield bytes([mode * len(_TRUTHS) + place]) + content
    mask = io.BytesIO()
    np.save(mask, np.array([1, 0, 1]))
    yield bytes([2 * len(_TRUTHS) + 4]) + mask.getvalue()
    yield bytes([2 * len(_TRUTHS)]) + "a\nb\nü\n".encode()


def _truth_change(start: bytes) -> Change:
    return CHANGES[_TRUTHS[start[0] % len(_TRUTHS)]]


# --- retrievers' files ----------------------------------------------------------------------------

_HOLDERS = (".npz", ".safetensors", ".npy")


def _check_adapter(data: bytes, folder: Path) -> None:
    """Check with the retriever of the first byte and the format of the second."""
    from emcl_plugin.adapters import ADAPTERS, read

    if len(data) < 2:
        return
    name = list(ADAPTERS)[data[0] % len(ADAPTERS)]
    suffix = _HOLDERS[data[1] % len(_HOLDERS)]
    if name == "clip-retrieval":
        path = _unpacked(data[2:], folder)
    else:
        path = _put(folder, f"run{suffix}", data[2:])
    found = read(name, path, trust_pickle=True)
    shape = found.shape
    assert len(shape) == 2
    assert all(type(length) is int and length > 0 for length in shape)
    for ids, count in ((found.text_ids, shape[0]), (found.video_ids, shape[1])):
        assert ids is None or (len(ids) == count and all(type(x) is str for x in ids))
    truth = found.ground_truth
    if truth is not None:
        assert truth.shape == shape
        assert len(truth.query) == len(truth.item) == len(truth.grade)
    if shape[0] * shape[1] < _SMALL:
        scores = found.scores()
        assert tuple(scores.shape) == shape
        assert bool(np.isfinite(np.asarray(scores)).all()), "scores are not finite"


def _unpacked(data: bytes, folder: Path) -> Path:
    """Unpack an archive into a folder, by the last two parts of the members' names."""
    import shutil

    home = folder / "run"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                parts = [p for p in info.filename.split("/")[-2:] if p not in ("", ".", "..")]
                if parts and "\0" not in info.filename and info.file_size < 1 << 20:
                    path = home.joinpath(*parts)
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(archive.read(info))
    except Exception:
        return home
    return home


def _adapter_seeds(folder: Path) -> Iterator[bytes]:
    """Small files of each retriever."""
    from safetensors.numpy import save

    from emcl_plugin.adapters import ADAPTERS

    items = Items(videos=4, many=True, dimension=3, frames=2, words=2)
    text, rows = clip4clip(items)
    masks = {"text_mask": items.text_mask, "video_mask": items.video_mask}
    weights = {name.replace("mask", "weights"): 0.5 * mask for name, mask in masks.items()}
    points = {"cut_off_points": items.cut_off_points}
    more = {
        "mmt": mmt(videos=3, captions=2, dimension=2, missing=((1, 1),))[0],
        "clip4clip": {"sequence_output": text, "visual_output": items.video, **masks, **points,
                      "sim_matrix": np.concatenate(rows), "logit_scale": 100.0},
        "clip2video": {"sim": np.concatenate(rows), **points},
        "drl": {"text": items.text, "video": items.video, **masks, **weights},
    }  # fmt: skip
    for name, arrays in [*LEFT.items(), *more.items()]:
        which, arrays = list(ADAPTERS).index(name), flat(arrays)
        arrays.pop("orientation", None)
        if name == "clip-retrieval":
            continue
        out = io.BytesIO()
        np.savez(out, **arrays)
        yield bytes([which, 0]) + out.getvalue()
        yield bytes([which, 1]) + save({k: np.atleast_1d(x) for k, x in arrays.items()})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for part in ("text_emb", "img_emb"):
            out = io.BytesIO()
            np.save(out, X[:3].astype("f4"))
            archive.writestr(f"{part}/{part}_0.npy", out.getvalue())
        table = folder / "a.parquet"
        BY_COLUMN["a.parquet"](table, X[:3], IDS[:3])
        archive.writestr("metadata/metadata_0.parquet", table.read_bytes())
    yield bytes([list(ADAPTERS).index("clip-retrieval"), 0]) + packed.getvalue()


def _adapter_change(start: bytes) -> Change:
    from emcl_plugin.adapters import ADAPTERS

    if list(ADAPTERS)[start[0] % len(ADAPTERS)] == "clip-retrieval":
        return CHANGES[".npz"]
    return CHANGES[_HOLDERS[start[1] % len(_HOLDERS)]]


# --- saved correctors and checkpoints -------------------------------------------------------------

SAVED = TESTS / "data" / "state_v1"


def _check_state(data: bytes, folder: Path) -> None:
    """Check with the file that the first byte chooses, checksums corrected or not."""
    import shutil

    import torch

    from emcl_plugin import Reranker
    from emcl_plugin.bank import persistence

    which, data = data[0] if data else 0, data[1:]
    home = folder / "saved"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(SAVED, home)
    _put(home, persistence.FILES[which % 3], data)
    if which // 3 % 2:
        with suppress(Exception):
            _seal_again(home)
    found = persistence.load(home, Reranker)
    queries = torch.ones(2, found.corrector_.dimension, dtype=torch.float64)
    scores = found.transform(queries)
    assert scores.shape == (2, len(found.corrector_))
    assert bool(torch.isfinite(scores).all()), "scores are not finite"


def _seal_again(home: Path) -> None:
    """Correct the checksums as a forger would."""
    from safetensors.torch import load_file

    from emcl_plugin.bank import persistence
    from emcl_plugin.bank.manifest import seal

    facts = json.loads((home / persistence.MANIFEST).read_bytes())
    tensors = load_file(home / persistence.TENSORS)
    digests = persistence._digests(tensors)
    with suppress(Exception):
        facts["tensors"] = {name: digest.hexdigest() for name, digest in digests.items()}
    names = json.loads((home / persistence.NAMES).read_bytes()) if facts.get("named") else []
    facts["gallery_order"] = persistence._order(digests["gallery"], names)
    facts["sha256"] = seal(facts)
    (home / persistence.MANIFEST).write_text(json.dumps(facts))


def _state_seeds(folder: Path) -> Iterator[bytes]:
    del folder
    from emcl_plugin.bank import persistence

    for place, name in enumerate(persistence.FILES):
        content = (SAVED / name).read_bytes()
        yield bytes([place]) + content
        yield bytes([place + 3]) + content


def _state_change(start: bytes) -> Change:
    return change_safetensors if start[0] % 3 == 1 else change_json


@cache
def _job() -> tuple[Any, str, bytes]:
    """Return scores, the fingerprint of their job, and one of its checkpoints."""
    import tempfile

    from emcl_plugin import rerank

    scores = np.random.default_rng(0).standard_normal((6, 5))

    def stop(stage: str, done: int, total: int) -> None:
        del total
        if stage == "sinkhorn" and done == 3:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "run.safetensors")
        with suppress(KeyboardInterrupt):
            rerank(scores, resume=path, progress=stop)
        data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    job = json.loads(data[8 : 8 + length])["__metadata__"]["job"]
    return scores, job, data


def _check_checkpoint(data: bytes, folder: Path) -> None:
    """Check with the checksum corrected if the first byte is odd."""
    from emcl_plugin import rerank

    scores, job, _ = _job()
    right, data = bool(data[:1] and data[0] % 2), data[1:]
    path = _put(folder, "run.safetensors", data)
    if right:
        with suppress(Exception):
            _seal_checkpoint(path, job)
    found = rerank(scores, resume=path)
    assert found.shape == scores.shape
    assert np.isfinite(found).all(), "scores are not finite"


def _seal_checkpoint(path: Path, job: str) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save

    from emcl_plugin.pipeline import checkpoint

    with safe_open(path, framework="np") as file:
        notes = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    notes.pop("sha256", None)
    notes["kind"] = checkpoint.KIND
    if notes.get("job", "x")[:1] != "-":  # a way to leave it out, or another
        notes["job"] = job
    notes["sha256"] = checkpoint._seal(notes, tensors)
    path.write_bytes(save(tensors, notes))


def _checkpoint_seeds(folder: Path) -> Iterator[bytes]:
    del folder
    yield from (bytes([right]) + _job()[2] for right in (0, 1))


# --- all ------------------------------------------------------------------------------------------

_ROWS = [
    Target("npy", _reader(".npy", _plain_npy), _written("a.npy"), CHANGES[".npy"]),
    Target("npz", _reader(".npz", _plain_npz), _npz_seeds, CHANGES[".npz"]),
    Target("safetensors", _reader(".safetensors", _plain_safetensors),
           _written("a.safetensors", "a.safetensors:ids"), change_safetensors),
    Target("parquet", _reader(".parquet", _plain_parquet),
           _written("a.parquet", "lists.parquet", "a.parquet:ids"), CHANGES[".parquet"]),
    Target("fvecs", _reader(".fvecs", _plain_fvecs), _written("a.fvecs")),
    Target("csv", _reader(".csv", _plain_csv), _written("a.csv", "a.csv:ids"), CHANGES[".csv"]),
    Target("tsv", _reader(".tsv", _plain_csv), _written("a.tsv"), CHANGES[".tsv"]),
    Target("jsonl", _reader(".jsonl", _plain_jsonl), _written("a.jsonl", "a.jsonl:ids"),
           CHANGES[".jsonl"]),
    Target("truth", _check_truth, _truth_seeds, behind(1, _truth_change)),
    Target("adapters", _check_adapter, _adapter_seeds, behind(2, _adapter_change)),
    Target("state", _check_state, _state_seeds, behind(1, _state_change)),
    Target("checkpoint", _check_checkpoint, _checkpoint_seeds,
           behind(1, lambda _: change_safetensors)),
]  # fmt: skip
TARGETS = {target.name: target for target in _ROWS}
