"""Standard input and addresses, copied to a private folder and then read as local files."""

from __future__ import annotations

import atexit
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from emcl_plugin.errors import EmclError, InputFileError
from emcl_plugin.io.members import library
from emcl_plugin.io.parts import check_alike, numbered

STDIN = "-"
_BEGINNINGS = {b"\x93NUMPY": ".npy", b"PK": ".npz", b"PAR1": ".parquet", b"\x80": ".pkl"}


def is_address(text: str) -> bool:
    """Return whether a text is an address rather than a path.

    >>> is_address("s3://bucket/features.npy"), is_address("features.npz:text")
    (True, False)
    """
    return re.match(r"[a-z0-9+.-]+://", text) is not None


@cache
def _home() -> Path:
    """Return the folder of all copies, which is removed when the process ends."""
    path = Path(tempfile.mkdtemp(prefix="emcl-rerank-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def new_folder() -> Path:
    """Return a new empty folder for one source."""
    return Path(tempfile.mkdtemp(dir=_home()))


@contextmanager
def copied(source: str, kinds: Collection[str]) -> Iterator[tuple[list[Path], bool]]:
    """Copy standard input, or what fsspec finds at an address; errors show the given names.

    Yield the copies, and whether the source is several files: an address with ``*`` or no suffix.
    """
    if source == STDIN:
        copy = _spooled()
        files, several, given = [copy], False, {str(copy): STDIN, copy.name: STDIN}
    else:
        given, several = _fetched(source, kinds)
        files = [Path(name) for name in given]
    try:
        yield files, several
    except EmclError as error:
        received, remedy = error.received, error.remedy
        for name, shown in given.items():
            received, remedy = received.replace(name, shown), remedy.replace(name, shown)
        raise type(error)(error.problem, received, remedy) from None


def _spooled() -> Path:
    """Copy standard input to a file with the suffix of its first bytes."""
    stream = sys.stdin.buffer
    start = b"" if stream.isatty() else stream.read(9)
    suffix = next((name for magic, name in _BEGINNINGS.items() if start.startswith(magic)), None)
    if start[8:] == b"{":
        suffix = ".safetensors"
    if suffix is None:
        problem = "standard input has an unknown format" if start else "standard input is empty"
        remedy = "pipe .npy, .npz, .safetensors, .parquet or a pickle into it, once"
        raise InputFileError(problem, f"-, which starts with {start!r}", remedy)
    copy = new_folder() / f"stdin{suffix}"
    try:
        with copy.open("wb") as file:
            file.write(start)
            shutil.copyfileobj(stream, file)
    except OSError as error:
        problem = "standard input cannot be copied to the disk"
        received = f"{copy.parent}: {error.strerror or error}"
        raise InputFileError(problem, received, "set TMPDIR to a folder with more space") from None
    return copy


def _fetched(address: str, kinds: Collection[str]) -> tuple[dict[str, str], bool]:
    """Return the copies with their addresses, and whether the address means several files."""
    fsspec = library("fsspec", Path(address))
    home, given = new_folder(), {}
    try:
        system, path = fsspec.core.url_to_fs(address)
        several = "*" in path or not PurePosixPath(urlsplit(address).path).suffix
        for remote in _listed(system, path, address, kinds) if several else [path]:
            inside = PurePosixPath(urlsplit(remote).path).parts
            copy = home.joinpath(*(part for part in inside if part not in ("/", ".", "..")))
            copy.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(remote, str(copy))
            given[str(copy)] = system.unstrip_protocol(remote) if several else address
    except EmclError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        remedy = "check the address, your access to it, and the space in TMPDIR"
        if isinstance(error, ImportError):
            remedy = "pip install what the error names"
        raise InputFileError("the file cannot be fetched", f"{address}: {text}", remedy) from None
    return given, several


def _listed(system: Any, path: str, address: str, kinds: Collection[str]) -> list[str]:
    """Return the files of a remote pattern or folder in natural order."""
    pattern = "*" in path
    found = system.glob(path) if pattern else system.ls(path, detail=False)
    names = {Path(name): name for name in found if not PurePosixPath(name).name.startswith(".")}
    parts = list(names) if pattern else numbered(list(names), address, kinds)
    return [names[file] for file in check_alike(parts, address, kinds)]
