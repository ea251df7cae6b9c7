"""Track the files that a run reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emcl_plugin.errors import InputFileError

Look = tuple[int, int, int, int]


class Files:
    """The files that a run has read and written so far."""

    def __init__(self) -> None:
        self._read: dict[Path, Look | None] = {}
        self._written: dict[Path, Look | None] = {}

    @property
    def written(self) -> list[Path]:
        """Outputs of this run that are still in place."""
        return [path for path, look in self._written.items() if look and _same(look, _look(path))]

    def read(self, path: Path) -> None:
        """Record the present size and time of an input."""
        self._read.setdefault(path.absolute(), _look(path))

    def place(self, part: Path, path: Path) -> None:
        """Record that this part is about to be renamed to this output.

        Raises
        ------
        InputFileError
            An input has changed since it was read, so the result is undefined.
        """
        for name, before in self._read.items():
            now = _look(name)
            # an input that was replaced or removed is still read in its old state
            if before and now and _same(before, now) and before != now:
                problem = "an input was changed while it was read; nothing was written"
                received = f"{name}: {before[2]} bytes before, {now[2]} now, or rewritten"
                raise InputFileError(problem, received, "run again when nothing writes to it")
        self._written[path] = _look(part)


def _look(path: Path) -> Look | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _same(a: Look, b: Look | None) -> bool:
    return b is not None and a[:2] == b[:2]


_files: Files | None = None


@contextmanager
def files_of_a_run(files: Files) -> Iterator[None]:
    """Record in ``files`` what is read and written in this block.

    >>> import tempfile
    >>> from emcl_plugin.io.atomic import atomic_writer
    >>> files = Files()
    >>> with tempfile.TemporaryDirectory() as folder, files_of_a_run(files):
    ...     with atomic_writer(Path(folder, "a.txt"), force=False) as file:
    ...         _ = file.write(b"whole")
    ...     [path.name for path in files.written]
    ['a.txt']
    """
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
        _files.read(path)


def now_placed(part: Path, path: Path) -> None:
    """Record in the current run, if any, that this part is about to become this output."""
    if _files is not None:
        _files.place(part, path)
