"""Checks that all readers share: which array of a file, its claimed size, damage, libraries."""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emcl_plugin._internal.sizes import format_size, physical_memory
from emcl_plugin.errors import EmclError, InputFileError, ran_out_of_memory

Matrix: TypeAlias = "np.ndarray[Any, Any]"


def pick(dimensions: Mapping[str, int], key: str | None, path: Path) -> str:
    """Return the requested name; by default the only array, or the only two-dimensional one.

    >>> pick({"features": 2, "frames": 1}, None, Path("x.npz"))
    'features'
    """
    if key is not None:
        if "" in dimensions:
            only(key, path)
        if key in dimensions:
            return key
        problem = "the file holds no array of this name"
        raise InputFileError(problem, f"{path}: {key!r}", f"name one of {_listed(dimensions)}")
    tables = [name for name, count in dimensions.items() if count == 2]
    for names in (list(dimensions), tables):
        if len(names) == 1:
            return names[0]
    if not dimensions:
        raise InputFileError("the file holds no array", str(path), "save one in it")
    choices = [f"{path.name}:{name}" for name in (tables or list(dimensions))[:2]]
    received, remedy = f"{path}: {_listed(dimensions)}", f"name one: {' or '.join(choices)}"
    raise InputFileError("the file holds several arrays", received, remedy)


def _listed(names: Mapping[str, int], most: int = 10) -> str:
    shown = ", ".join(list(names)[:most]) or "none, it is empty"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def only(key: str | None, path: Path) -> None:
    """Refuse a name for a format whose files hold one array."""
    if key is not None:
        problem = "files of this format hold one array, without a name"
        raise InputFileError(problem, f"{path}: {key!r}", f"omit the name: {path}")


MOST_PACKED = 1000
"""Maximum ratio of an array's size to its stored size; zip reaches it for zeros."""


def check_claim(size: int, stored: int, path: Path) -> None:
    """Refuse a claimed size that the stored bytes cannot hold or that exceeds the memory."""
    check_ratio(size, stored, path)
    check_memory(size, path)


def check_ratio(size: int, stored: int, path: Path) -> None:
    """Refuse a claimed size that exceeds :data:`MOST_PACKED` times the stored bytes."""
    if size > MOST_PACKED * max(stored, 1):
        problem = "the file claims to hold far more than there is in it"
        received = f"{path}: {format_size(size)} in {format_size(stored)}"
        raise InputFileError(problem, received, "save or copy it again, or do not trust its source")


def check_memory(size: int, path: Path) -> None:
    """Refuse a claimed size that exceeds the memory of this machine."""
    if size > physical_memory():
        problem, received = "the array does not fit into the memory", f"{path}: {format_size(size)}"
        raise InputFileError(problem, received, "save it as .npy, which is memory-mapped")


LARGE = 1 << 24
"""Size of a file, in bytes, from which a lack of memory is not blamed on a false claim."""


@contextmanager
def no_false_claims(path: Path) -> Iterator[None]:
    """Report a lack of memory while reading a small file as damage of the file."""
    try:
        yield
    except MemoryError:
        if path.stat().st_size >= LARGE:
            raise
        raise ValueError("it claims more than the memory holds") from None


def is_special(path: Path) -> bool:
    """Return whether this is a device or named pipe; a shell's ``<(...)`` is an unnamed one."""
    try:
        mode = os.stat(os.path.realpath(path)).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_regular(path: Path) -> None:
    """Refuse pipes and devices; a missing file raises when it is opened."""
    if is_special(path):
        remedy = "save it as a file first; embeddings can come on standard input, as -"
        raise InputFileError("this is a pipe or a device, not a file", str(path), remedy)


def first_bytes(path: Path, count: int) -> bytes:
    """Return a file's first bytes; refuse pipes, devices and files that cannot be opened."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(count)
    except FileNotFoundError:
        raise InputFileError("the file does not exist", str(path), "check the path") from None
    except OSError as error:
        received = f"{path}: {error.strerror}"
        raise InputFileError("the file cannot be read", received, "name a readable file") from None


@contextmanager
def utf8_name(path: Path) -> Iterator[Path]:
    """Yield a UTF-8 name of the file, for libraries that require one."""
    if str(path).encode(errors="ignore").decode() == str(path):
        yield path
        return
    with path.open("rb") as file:
        yield Path(f"/dev/fd/{file.fileno()}")


def check_magic(path: Path, magic: bytes, what: str, *, at: int = 0) -> None:
    """Refuse a file that cannot be opened or lacks the magic bytes of its format."""
    start = first_bytes(path, at + len(magic))
    if start[at:] != magic:
        pickled = start[:1] == b"\x80"
        problem = "the file is a pickle, which could run any code" if pickled else f"not {what}"
        received = f"{path}, which starts with {start[:8]!r}"
        raise InputFileError(problem, received, "save it in the format of its suffix, or rename it")


@contextmanager
def parsing(path: Path, what: str) -> Iterator[None]:
    """Turn any exception of a library, all of which damage can cause, into this project's error."""
    try:
        yield
    except (EmclError, MemoryError):
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise MemoryError(str(error)) from error
        text = " ".join(str(error).split())[:200] or type(error).__name__
        problem = f"the {what} file is damaged or cut short, or does not hold numbers"
        raise InputFileError(problem, f"{path}: {text}", "save or copy it again") from None


def library(module: str, path: Path, remedy: str = 'pip install "emcl-plugin[formats]"') -> Any:
    """Import the library that reads this format, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if ran_out_of_memory(error):
            raise MemoryError(str(error)) from error
        problem = "reading this format needs a library that is not installed"
        raise InputFileError(problem, f"{path}: {error}", remedy) from None
