"""Atomic output: a file, or a folder of files, appears complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from emcl_plugin._internal.sizes import format_size
from emcl_plugin.errors import EmclError, InputFileError
from emcl_plugin.io.members import is_special
from emcl_plugin.io.seen import now_placed


def check_target(path: Path, size: int, *, force: bool) -> None:
    """Raise early if writing ``size`` bytes to ``path`` is bound to fail."""
    _check_file(path)
    _check_new(path, force)
    _check_room(path, size)


def check_folder_target(path: Path, size: int, *, force: bool, files: Collection[str]) -> None:
    """Raise early if a folder of ``files``, of which folders end in a slash, cannot be written.

    With ``force``, an existing folder is replaced only if it holds nothing but such files, so that
    a mistyped path never deletes other data.
    """
    _check_name(path)
    if path.exists() and not path.is_dir():
        raise InputFileError("the output is a file", str(path), "name a folder")
    _check_new(path, force)
    for home in {path, *((path / name).parent for name in files)}:
        for file in home.iterdir() if home.is_dir() else ():
            if f"{file.relative_to(path)}{'/' if file.is_dir() else ''}" not in files:
                problem = "the output folder holds other files too and is not replaced"
                raise InputFileError(problem, str(file), "name another folder")
    _check_room(path, size)


def check_inside(folder: Path) -> None:
    """Raise early if no file can be created in a folder, which is made if necessary."""
    if folder.exists() and not folder.is_dir():
        raise InputFileError("the output is a file", str(folder), "name a folder")
    _check_room(folder / "file" if folder.exists() else folder, 0)


def _check_new(path: Path, force: bool) -> None:
    if path.exists() and not force:
        remedy = "name another one, or add --force"
        raise InputFileError("the output exists already", str(path), remedy)


def _check_file(path: Path) -> None:
    _check_name(path)
    if path.is_dir():
        raise InputFileError("the output is a folder", str(path), "name a file in it")
    if is_special(path):
        raise InputFileError("the output is a pipe or a device", str(path), "name a file")


def _check_name(path: Path) -> None:
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            problem = "the output's name is too long"
            raise InputFileError(problem, str(path), "give it a shorter one") from None


def _place(path: Path) -> Path:
    """Resolve links: the linked file is written, and the link stays."""
    return Path(os.path.realpath(path))


def _check_room(path: Path, size: int) -> None:
    folder = _place(path).parent
    if not folder.is_dir():
        raise InputFileError("the output's folder does not exist", str(folder), "create it first")
    if not os.access(folder, os.W_OK):
        raise InputFileError("the output's folder is read-only", str(folder), "name another one")
    free = shutil.disk_usage(folder).free
    if size > free:
        raise _full(path, f"{format_size(size)} needed, {format_size(free)} free")


@contextmanager
def atomic_writer(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes ``path`` if the block succeeds, and is deleted otherwise.

    ``.NAME.*.part`` is written beside the target (of a link), synced and renamed. Without
    ``force``, a file that appears meanwhile is kept. SIGKILL leaves the part; nothing reads it.
    """
    target = _place(path)
    with _naming_a_failure(path):
        _check_file(path)
        handle, name = tempfile.mkstemp(prefix=prefix(target), suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with _naming_a_failure(path):
            with os.fdopen(handle, "wb") as file:
                yield file
                settle(file)
            part.chmod(0o666 & ~_umask())  # mkstemp makes it private
            now_placed(part, path)
            _rename(part, target, force)
            with suppress(OSError):  # not every system can open a folder
                _sync(target.parent)
    finally:
        with suppress(OSError):
            part.unlink()


def _rename(part: Path, path: Path, force: bool) -> None:
    if not force:
        try:
            os.link(part, path)
            return
        except FileExistsError:
            raise _appeared(path) from None
        except OSError:  # a file system without hard links
            pass
    part.replace(path)


def settle(file: BinaryIO) -> None:
    """Flush to the disk, which reveals a full or failing one."""
    file.flush()
    os.fsync(file.fileno())


def prefix(path: Path) -> str:
    """Return the prefix of a path's temporary names, cut so that they stay valid names."""
    return f".{path.name[:40]}."


@contextmanager
def atomic_folder(path: Path, *, force: bool, files: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` if the block succeeds, and is deleted otherwise.

    The block writes ``files`` into it. With ``force``, a folder of such files is replaced: its name
    is free for a moment, and the old folder returns if the new one cannot be renamed. Nothing but
    ``files`` is ever deleted.
    """
    given, path = path, _place(path)
    with _naming_a_failure(given):
        part = Path(tempfile.mkdtemp(prefix=prefix(path), suffix=".part", dir=path.parent))
    try:
        with _naming_a_failure(given):
            yield part
            for file in part.rglob("*"):
                _sync(file)
            part.chmod(0o777 & ~_umask())
            with suppress(OSError):
                _sync(part)
            now_placed(part, given)
            _rename_folder(part, path, files if force else ())
            with suppress(OSError):
                _sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _rename_folder(part: Path, path: Path, files: Collection[str]) -> None:
    """Rename ``part`` to ``path``; an older folder of these ``files``, if any, is deleted."""
    if not (files and path.exists()):
        try:
            part.rename(path)  # onto an empty folder at most
        except OSError as error:
            if path.exists():
                raise _appeared(path) from error
            raise
        return
    old = Path(tempfile.mkdtemp(prefix=prefix(path), suffix=".old", dir=path.parent))
    try:
        path.rename(old)
        try:
            part.rename(path)
        except BaseException:
            old.rename(path)
            raise
        with suppress(OSError):  # the new folder is in place
            for name in files:
                if name.endswith("/"):
                    shutil.rmtree(old / name, ignore_errors=True)
                else:
                    (old / name).unlink(missing_ok=True)
    finally:
        with suppress(OSError):
            old.rmdir()


@contextmanager
def _naming_a_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(path, os.strerror(error.errno)) from error
        place, failed = _place(path), Path(str(error.filename or path))
        own = failed.parent.name.startswith(prefix(place))  # a file in a part that is a folder
        other = error.filename is not None and failed.parent != place.parent and not own
        if error.errno is None or other or isinstance(error, EmclError):
            raise  # it concerns another file
        remedy = "check that the folder still exists and the disk works"
        problem, received = "writing failed; nothing was written", f"{path}: {error.strerror}"
        raise InputFileError(problem, received, remedy) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _appeared(path: Path) -> InputFileError:
    problem = "the output appeared during this run"
    return InputFileError(problem, str(path), "add --force to replace it")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _full(path: Path, received: str) -> InputFileError:
    remedy = "free some space or write to another disk"
    return InputFileError("the disk is full; nothing was written", f"{path}: {received}", remedy)
