"""Which array of a file that holds several, and what may be wrong with one."""

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
    """The name that was asked for; without one, the only array, or the only one of two dimensions.

    >>> pick({"features": 2, "frames": 1}, None, Path("x.npz"))
    'features'
    """
    if key is not None:
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
    raise InputFileError(
        "the file holds several arrays",
        f"{path}: {_listed(dimensions)}",
        f"name one: {' or '.join(choices)}",
    )


def _listed(names: Mapping[str, int], most: int = 10) -> str:
    shown = ", ".join(list(names)[:most]) or "none, it is empty"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def only(key: str | None, path: Path) -> None:
    """Refuse a name for a format whose files hold one array."""
    if key is not None:
        raise InputFileError(
            "files of this format hold one array, without a name",
            f"{path}: {key!r}",
            f"leave the name out: {path}",
        )


MOST_PACKED = 1000
"""Times that an array may be larger than what the file stores of it: zip's own limit, for zeros."""


def check_claim(size: int, stored: int, path: Path) -> None:
    """Refuse an array of so many bytes from so few, or larger than the memory."""
    check_ratio(size, stored, path)
    check_memory(size, path)


def check_ratio(size: int, stored: int, path: Path) -> None:
    """Refuse an array of so many bytes from so few."""
    if size > MOST_PACKED * max(stored, 1):
        raise InputFileError(
            "the file claims to hold far more than there is in it",
            f"{path}: {format_size(size)} in {format_size(stored)}",
            "save or copy it again, and trust its source as little as that says",
        )


def check_memory(size: int, path: Path) -> None:
    """Refuse what claims to be larger than the memory of this machine."""
    if size > physical_memory():
        raise InputFileError(
            "the array does not fit into the memory",
            f"{path}: {format_size(size)}",
            "save it as .npy, which is read piece by piece",
        )


LARGE = 1 << 24
"""Bytes of a file that may well need more memory than there is; a smaller one only claims to."""


@contextmanager
def no_false_claims(path: Path) -> Iterator[None]:
    """A lack of memory while a small file is read, as what is wrong with the file."""
    try:
        yield
    except MemoryError:
        if path.stat().st_size >= LARGE:
            raise
        raise ValueError("it claims more than the memory holds") from None


def is_special(path: Path) -> bool:
    """Whether this is a device, or a pipe that has a name: they may never end, or never begin.

    A shell's ``<(...)`` is a pipe without one.
    """
    try:
        mode = os.stat(os.path.realpath(path)).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_regular(path: Path) -> None:
    """Refuse pipes and devices; what is not there is told when it is opened."""
    if is_special(path):
        raise InputFileError(
            "this is a pipe or a device, not a file",
            str(path),
            "save it as a file first; embeddings can come on standard input, as -",
        )


def first_bytes(path: Path, count: int) -> bytes:
    """How a file begins; refuse one that cannot be opened, pipes and devices."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise InputFileError(
            "the file does not exist" if missing else "the file cannot be read",
            str(path) if missing else f"{path}: {error.strerror}",
            "check the path" if missing else "name a readable file",
        ) from None


@contextmanager
def utf8_name(path: Path) -> Iterator[Path]:
    """A name of the file that is UTF-8, for libraries that know no others."""
    if str(path).encode(errors="ignore").decode() == str(path):
        yield path
        return
    with path.open("rb") as file:
        yield Path(f"/dev/fd/{file.fileno()}")


def check_magic(path: Path, magic: bytes, what: str, *, at: int = 0) -> None:
    """Refuse a file that cannot be opened, or does not begin as its kind does."""
    start = first_bytes(path, at + len(magic))
    if start[at:] != magic:
        pickled = start[:1] == b"\x80"
        raise InputFileError(
            "the file is a pickle, which could run any code" if pickled else f"not {what}",
            f"{path}, which starts with {start[:8]!r}",
            f"save it as its name says, or rename it; {what} starts otherwise",
        )


@contextmanager
def parsing(path: Path, what: str) -> Iterator[None]:
    """Whatever a library makes of a damaged file, as this project's error.

    Libraries that read files raise nearly anything for one that was tampered with, so all but
    this project's own errors are taken for it.
    """
    try:
        yield
    except (EmclError, MemoryError):
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise MemoryError(str(error)) from error
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputFileError(
            f"the {what} file is damaged or cut short, or does not hold numbers",
            f"{path}: {text}",
            "save or copy it again",
        ) from None


def library(module: str, path: Path, remedy: str = 'pip install "emcl-plugin[formats]"') -> Any:
    """The library that reads this format, or how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if ran_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise InputFileError(
            "reading this format needs a library that is not installed", f"{path}: {error}", remedy
        ) from None
