"""Track the files that a run reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from emcl_plugin.errors import InputFileError

Look: TypeAlias = "tuple[int, int, int, int] | None"
"""Device, inode, size in bytes and time of modification; None for a missing file."""


@dataclass
class Files:
    """The files that a run has read and written so far, as they were then."""

    read: dict[Path, Look] = field(default_factory=dict)
    placed: dict[Path, Look] = field(default_factory=dict)

    @property
    def written(self) -> list[Path]:
        """Outputs of this run that are still in place."""
        return [path for path, look in self.placed.items() if _same(look, _look(path))]


def _look(path: Path) -> Look:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _same(a: Look, b: Look) -> bool:
    return a is not None and b is not None and a[:2] == b[:2]


_files: Files | None = None


@contextmanager
def files_of_a_run(files: Files) -> Iterator[None]:
    """Record in ``files`` what is read and written in this block."""
    global _files
    _files = files
    try:
        yield
    finally:
        _files = None


def written() -> list[Path]:
    """Return the outputs of the current run, if any."""
    return [] if _files is None else _files.written


def now_read(path: Path) -> None:
    """Record in the current run, if any, that this file is read."""
    if _files is not None:
        _files.read.setdefault(path.absolute(), _look(path))


def now_placed(part: Path, path: Path) -> None:
    """Record in the current run, if any, that this part is about to become this output.

    Raise if an input has changed since it was read. One that was replaced or removed is still read
    in its old state.
    """
    if _files is None:
        return
    for name, before in _files.read.items():
        now = _look(name)
        if before and now and _same(before, now) and before != now:
            problem = "an input was changed while it was read; nothing was written"
            received = f"{name}: {before[2]} bytes before, {now[2]} now, or rewritten"
            raise InputFileError(problem, received, "run again when nothing writes to it")
    _files.placed[path] = _look(part)
