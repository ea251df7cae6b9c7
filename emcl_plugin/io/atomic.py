"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from emcl_plugin.errors import InputFileError
from emcl_plugin.sizes import format_size


def check_target(path: Path, size: int, *, force: bool) -> None:
    """Raise now if writing ``size`` bytes to ``path`` is bound to fail later."""
    folder = path.resolve().parent
    if path.is_dir():
        raise InputFileError("the output is a folder", str(path), "name a file in it")
    if path.exists() and not force:
        raise InputFileError(
            "the output is there already", str(path), "name another one, or add --force"
        )
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

    Written beside its target, synced, then renamed: a reader sees the old file or the whole new
    one. Without ``force`` a file that appeared in the meantime is not replaced.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)  # mkstemp makes it private; a result is like any other file
        if force:
            part.replace(path)
        else:
            _rename_new(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(path, os.strerror(error.errno)) from error
        raise
    finally:
        with suppress(OSError):
            part.unlink()


def _rename_new(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise InputFileError(
            "the output appeared while this run worked", str(path), "add --force to replace it"
        ) from None
    except OSError:  # a file system without hard links
        part.replace(path)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every system can open a folder
        handle = os.open(folder, os.O_RDONLY)
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
