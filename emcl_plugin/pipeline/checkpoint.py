"""Checkpoints: a file of Sinkhorn's potentials from which a killed run continues.

The file is in safetensors format. Its tensors are those of :class:`emcl_plugin.ncl.Reached`:
``0.f`` of the first solve, ``1.f`` of the second. Its metadata identify the data and the settings,
the temperature of each solve, and hold a SHA-256 of all this, so that a foreign or damaged file is
refused.

On the CPU, with the same number of threads and the same memory budget, a resumed run gives the same
bits as an uninterrupted one. Otherwise it gives the same up to rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from emcl_plugin._internal.arrays import read_rows
from emcl_plugin.errors import EmclError, InputFileError, InputValueError
from emcl_plugin.io.atomic import atomic_writer, check_target
from emcl_plugin.io.members import utf8_name
from emcl_plugin.io.strict_json import parse_json, read_as
from emcl_plugin.ncl import Reached
from emcl_plugin.scores import rows_per_block
from emcl_plugin.version import __version__

if TYPE_CHECKING:
    from emcl_plugin.pipeline.job import Job

KIND = "emcl_plugin checkpoint 1"
SECONDS = 10.0
"""Least time between two writes; writing 100 MB takes a fraction of a second."""

_TENSORS = ("f", "g", "next_g", "centre")


@contextmanager
def journal(job: Job, path: str | Path | None) -> Iterator[Checkpoint | SharedCheckpoint | None]:
    """Yield the checkpoint of a job, or None without a path."""
    if path is None:
        yield None
    elif job.group.size == 1:
        with Checkpoint(Path(path), job) as own:
            yield own
    else:
        shared = SharedCheckpoint(Path(path), job)
        with shared.own or nullcontext():
            yield shared


class Checkpoint:
    """State of a run's solves, kept in a file while the run lasts.

    As a context manager it removes the file on success and updates it on interruption or failure.

    Parameters
    ----------
    path : Path
        The file. If it exists, the run continues from it.
    job : Job
        Its data and settings must match the file's.
    others : object
        The rows of the other processes, which must match, too.

    Attributes
    ----------
    resumed : int
        Iterations that an earlier run has done.

    Raises
    ------
    InputFileError
        The file is damaged, not a checkpoint, belongs to other data or settings, or cannot be
        written.
    InputValueError
        There are no iterations to keep: without NCL, and with POT's solver.

    Examples
    --------
    >>> import tempfile
    >>> from emcl_plugin import rerank
    >>> from emcl_plugin.data.demo import load_demo
    >>> def stop(stage, done, total):
    ...     if stage == "sinkhorn" and done == 3:
    ...         raise KeyboardInterrupt
    >>> demo = load_demo()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "run.safetensors"
    ...     with suppress(KeyboardInterrupt):
    ...         rerank(None, (demo.text, demo.video), resume=file, progress=stop)
    ...     file.exists()
    ...     scores = rerank(None, (demo.text, demo.video), resume=file)
    ...     file.exists()
    True
    False
    >>> bool((scores == rerank(None, (demo.text, demo.video))).all())
    True
    """

    def __init__(self, path: Path, job: Job, others: object = None) -> None:
        settings = job.settings
        if settings.ncl is None or not settings.normalises or settings.ncl.solver == "pot":
            raise InputValueError(
                "this run has no iterations that could be kept",
                f"{path}, with " + ("POT's solver" if settings.normalises else "no NCL"),
                "leave resume out",
            )
        self.path = path
        self._job = _fingerprint(job, others)
        size = sum(job.shape) * 4 * job.dtype.itemsize
        check_target(path, size, force=True)
        self._solves = _read(path, self._job, job) if path.exists() else []
        self.resumed = sum(solve.reached.iterations for solve in self._solves)
        self._place, self._begun = -1, (0.0, 0.0)
        self._stale = False
        self._written = time.monotonic()

    def begin(self, temperature: float, rho: float) -> Reached | None:
        """Return what an earlier run reached in the solve that begins now."""
        self._place, self._begun = self._place + 1, (temperature, rho)
        if self._place == len(self._solves):
            return None
        found = self._solves[self._place]
        if not (math.isclose(found.temperature, temperature, rel_tol=1e-5) and found.rho == rho):
            raise _bad(
                "the checkpoint's run took another path than this one",
                f"{self.path}: temperature {found.temperature:.6g} and rho {found.rho:g} in solve "
                f"{self._place + 1}, here {temperature:.6g} and {rho:g}",
            )
        return found.reached

    def keep(self, reached: Reached) -> None:
        """Record the state of this solve; write it if the last write is some seconds ago."""
        self._solves[self._place :] = [_Solve(*self._begun, reached)]
        self._stale = True
        if time.monotonic() - self._written >= SECONDS:
            self._write()

    def _write(self) -> None:
        tensors = {
            f"{place}.{name}": getattr(solve.reached, name).cpu().numpy()
            for place, solve in enumerate(self._solves)
            for name in _TENSORS
        }
        solves = json.dumps(
            [(s.temperature, s.rho, s.reached.iterations, s.reached.error) for s in self._solves]
        )
        notes = {"kind": KIND, "job": self._job, "solves": solves}
        notes["sha256"] = _seal(notes, tensors)
        with atomic_writer(self.path, force=True) as file:
            file.write(to_bytes(tensors, notes))
        self._stale = False
        self._written = time.monotonic()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.path.unlink(missing_ok=True)
        elif self._stale:
            with suppress(OSError):  # such as a full disk, which may be the error itself
                self._write()


class SharedCheckpoint:
    """Checkpoint of several processes, kept by rank 0."""

    def __init__(self, path: Path, job: Job) -> None:
        self.group, self.device = job.group, job.device
        rows = None if self.group.counts is None else self._rows(job)
        first = self.group.rank == 0
        self.own = self.group.together(lambda: Checkpoint(path, job, rows) if first else None)
        self.resumed = self.group.told(0 if self.own is None else self.own.resumed)

    def _rows(self, job: Job) -> list[list[float]]:
        """Return the SHA-256 of every process's rows of a matrix, as numbers that float64 holds."""
        digest = hashlib.sha256()
        self.group.together(lambda: _feed(digest, job.given, job.dtype))
        words = np.frombuffer(digest.digest(), ">u4")
        return self.group.gather(words.tolist())

    def begin(self, temperature: float, rho: float) -> Reached | None:
        """Return what an earlier run reached in the solve that begins now."""

        def reached() -> Reached | None:
            found = None if self.own is None else self.own.begin(temperature, rho)
            return None if found is None else found.to(torch.device("cpu"))

        told = self.group.told(self.group.together(reached))
        return None if told is None else told.to(self.device)

    def keep(self, reached: Reached) -> None:
        """Record the state of this solve."""
        if self.own is not None:
            self.own.keep(reached)


@dataclass(frozen=True)
class _Solve:
    """State of one solve."""

    temperature: float
    rho: float
    reached: Reached


def _read(path: Path, name: str, job: Job) -> list[_Solve]:
    """Return the solves of a checkpoint, which must be of this job."""
    try:
        with utf8_name(path) as named, safe_open(named, framework="np") as file:
            notes = file.metadata() or {}
            names = file.keys() if notes.get("kind") == KIND else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise _bad("the file is damaged, or not a checkpoint", f"{path}: {error}") from None
    if notes.get("kind") != KIND:
        raise _bad("the file is not a checkpoint", f"{path}: no kind {KIND!r}")
    if notes.pop("sha256", None) != _seal(notes, tensors):
        raise _bad("the checkpoint was changed or damaged", f"{path}: another sha256")
    if notes.get("job") != name:
        raise _bad(
            "the checkpoint belongs to another run",
            f"{path}: of other data, other settings or another version than {__version__}",
        )
    try:
        return list(_solves(notes["solves"], tensors, job))
    except (EmclError, KeyError, ValueError, RecursionError) as error:
        received = " ".join(str(error).split())[:200]
        raise _bad("the checkpoint is none of this program's", f"{path}: {received}") from None


def _solves(text: str, tensors: Mapping[str, np.ndarray[Any, Any]], job: Job) -> Iterator[_Solve]:
    """Yield the listed solves; their values and tensors must fit this job."""
    kind = tuple[tuple[float, float, int, float], ...]
    listed = read_as(kind, parse_json(text.encode(), "solves"), "solves")
    dtype = np.dtype(str(job.dtype)[6:])
    for place, (temperature, rho, iterations, worst) in enumerate(listed):
        given = [tensors[f"{place}.{name}"] for name in _TENSORS]
        shapes = [(job.shape[0],), *[(job.shape[1],)] * 3]
        if [x.shape for x in given] != shapes or any(x.dtype != dtype for x in given):
            raise ValueError(f"tensors of solve {place} are not {shapes} of {dtype}")
        if iterations < 1 or not all(np.isfinite(x).all() for x in given):
            raise ValueError(f"solve {place} is empty or not finite")
        f, g, next_g, centre = (torch.from_numpy(x).to(job.device) for x in given)
        yield _Solve(temperature, rho, Reached(f, g, next_g, centre, iterations, worst))


def _bad(problem: str, received: str) -> InputFileError:
    return InputFileError(problem, received, "remove it to start anew, or name another file")


def _seal(notes: Mapping[str, str], tensors: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return the SHA-256 of a checkpoint's other metadata and its tensors."""
    digest = hashlib.sha256(json.dumps(sorted(notes.items())).encode())
    for name, array in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# --- which run it is ------------------------------------------------------------------------------


def _fingerprint(job: Job, others: object) -> str:
    """Return the SHA-256 of the data and of all settings that change the problem.

    Device, memory budget and outputs may differ when a run is resumed.
    """
    digest = hashlib.sha256()
    features = [side.array for side in job.features or ()]
    own = job.settings
    method = own.emcl, own.ncl, own.prior, own.guard, own.metric, job.candidates, job.index
    _feed(digest, [__version__, job.dtype, job.given, features, method, others], job.dtype)
    return digest.hexdigest()


def _feed(digest: Any, value: object, dtype: torch.dtype) -> None:
    """Hash an array in the dtype of the computation, and anything else by its parts."""
    if isinstance(value, np.ndarray | torch.Tensor):
        digest.update(f"array {tuple(value.shape)}".encode())
        step = rows_per_block(math.prod(value.shape[1:]) or 1, dtype, None)
        for start in range(0, len(value), step):
            rows = read_rows(value, start, start + step, dtype, torch.device("cpu"))
            digest.update(rows.contiguous().numpy().data)
    elif is_dataclass(value):
        _feed(digest, {field.name: getattr(value, field.name) for field in fields(value)}, dtype)
    elif isinstance(value, Mapping):
        _feed(digest, list(value.items()), dtype)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        digest.update(f"list {len(value)}".encode())
        for item in value:
            _feed(digest, item, dtype)
    else:
        digest.update(f"{value!r};".encode())
