"""Writing a file, or a folder of files, whole or not at all."""

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
    """Raise now if writing ``size`` bytes to ``path`` is bound to fail later."""
    _check_kind(path)
    if path.exists() and not force:
        raise InputFileError(
            "the output is there already", str(path), "name another one, or add --force"
        )
    _check_room(path, size)


def check_folder_target(path: Path, size: int, *, force: bool, files: Collection[str]) -> None:
    """As :func:`check_target` for a folder of ``files``.

    With ``force`` a folder may be there that holds such files and nothing else, so that a
    mistyped path never costs anybody's data.
    """
    _check_name(path)
    if path.exists() and not path.is_dir():
        raise InputFileError("the output is a file", str(path), "name a folder")
    if path.exists() and not force:
        raise InputFileError(
            "the output is there already", str(path), "name another one, or add --force"
        )
    if path.exists():
        with os.scandir(path) as entries:
            others = (e.name for e in entries if e.name not in files or e.is_dir())
            other = min(others, default=None)
        if other is not None:
            raise InputFileError(
                "the output folder holds something else, too, and is not replaced",
                f"{path / other}",
                "name another folder",
            )
    _check_room(path, size)


def check_inside(folder: Path) -> None:
    """Raise now if nothing can be put into a folder, which is made where it is not there."""
    if folder.exists() and not folder.is_dir():
        raise InputFileError("the output is a file", str(folder), "name a folder")
    _check_room(folder / "file" if folder.exists() else folder, 0)


def _check_kind(path: Path) -> None:
    """Refuse what is there and no file: a device would be gone, and a pipe nobody's result."""
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
            raise InputFileError(
                "the output's name is too long", str(path), "give it a shorter one"
            ) from None


def _place(path: Path) -> Path:
    """Where a name leads: results go to the file that a link means, and the link stays."""
    return Path(os.path.realpath(path))


def _check_room(path: Path, size: int) -> None:
    folder = _place(path).parent
    if not folder.is_dir():
        raise InputFileError("the output's folder does not exist", str(folder), "create it first")
    if not os.access(folder, os.W_OK):
        raise InputFileError("the output's folder is read-only", str(folder), "name another one")
    free = shutil.disk_usage(folder).free
    if size > free:
        raise _full(path, f"{format_size(size)} are needed, {format_size(free)} are free")


@contextmanager
def atomic_writer(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A binary file that becomes ``path`` when the block ends well, and vanishes when it does not.

    Written beside its target, as ``.NAME.*.part``, synced, then renamed: a reader sees the old file
    or the whole new one. Without ``force`` a file that appeared in the meantime is not replaced.
    A program that is killed (SIGKILL) leaves its part there; nothing ever reads one. Where ``path``
    is a link, the file that it leads to is written.
    """
    target = _place(path)
    with _naming_a_failure(path):
        _check_kind(path)
        handle, name = tempfile.mkstemp(prefix=prefix(target), suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with _naming_a_failure(path):
            with os.fdopen(handle, "wb") as file:
                yield file
                settle(file)
            part.chmod(0o666 & ~_umask())  # mkstemp makes it private; a result is as any file
            now_placed(part, path)
            if force:
                part.replace(target)
            else:
                _rename_new(part, target)
            _sync_folder(target.parent)
    finally:
        with suppress(OSError):
            part.unlink()


def settle(file: BinaryIO) -> None:
    """Bring what was written to the disk, where a full or failing one is found."""
    file.flush()
    os.fsync(file.fileno())


def prefix(path: Path) -> str:
    """How the parts of a path begin, so short that with what follows they are names, too."""
    return f".{path.name[:40]}."


@contextmanager
def atomic_folder(path: Path, *, force: bool, files: Collection[str]) -> Iterator[Path]:
    """An empty folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    The block writes ``files`` into it. With ``force`` a folder of such files is replaced: for a
    moment there is none under its name, and it comes back if the new one cannot take its place.
    Nothing but ``files`` is ever deleted.
    """
    given, path = path, _place(path)
    with _naming_a_failure(given):
        part = Path(tempfile.mkdtemp(prefix=prefix(path), suffix=".part", dir=path.parent))
    try:
        with _naming_a_failure(given):
            yield part
            for file in part.iterdir():
                _sync(file)
            part.chmod(0o777 & ~_umask())
            _sync_folder(part)
            now_placed(part, given)
            if force and path.exists():
                _swap(part, path, files)
            else:
                _rename_new_folder(part, path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, path: Path, files: Collection[str]) -> None:
    """Put ``part`` in the place of ``path`` and delete these files of what was there."""
    old = Path(tempfile.mkdtemp(prefix=prefix(path), suffix=".old", dir=path.parent))
    try:
        path.rename(old)
        try:
            part.rename(path)
        except BaseException:
            old.rename(path)
            raise
        with suppress(OSError):  # the new folder is in its place, whatever becomes of the old one
            for name in files:
                (old / name).unlink(missing_ok=True)
    finally:
        with suppress(OSError):
            old.rmdir()


def _rename_new_folder(part: Path, path: Path) -> None:
    try:
        part.rename(path)  # onto an empty folder at most
    except OSError as error:
        if path.exists():
            raise _appeared(path) from error
        raise


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
            raise  # of another file than this one
        raise InputFileError(
            "writing failed; nothing was written",
            f"{path}: {error.strerror}",
            "see that its folder is still there, and its disk sound",
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _rename_new(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise _appeared(path) from None
    except OSError:  # a file system without hard links
        part.replace(path)


def _appeared(path: Path) -> InputFileError:
    return InputFileError(
        "the output appeared while this run worked", str(path), "add --force to replace it"
    )


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every system can open a folder
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _full(path: Path, received: str) -> InputFileError:
    return InputFileError(
        "the disk is full; nothing was written",
        f"{path}: {received}",
        "free some room or write to another disk",
    )
