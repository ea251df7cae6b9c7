"""Read JSON into typed objects with msgspec; every mismatch is a StateError with file and place."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from io import BufferedReader
from pathlib import Path
from reprlib import repr as shown
from typing import Any, TypeVar

import msgspec

from emcl_plugin.errors import InputValueError, StateError

T = TypeVar("T")


def bad(
    problem: str, received: str, remedy: str = "copy the folder again, or fit and save anew"
) -> StateError:
    """Return an error about a saved corrector, with the usual remedy."""
    return StateError(problem, received, remedy)


_FIELDS = {"rounds": "iterations"}
"""Keys of format 1 and the fields they are now."""


def read_as(kind: type[T], value: Any, where: str) -> T:
    """Return parsed JSON as an object of this type; ``where`` names the file in errors.

    >>> read_as(tuple[float, ...], [1, 0.5], "here")
    (1.0, 0.5)
    """
    try:
        return msgspec.convert(_by_field(value), kind)
    except (msgspec.ValidationError, RecursionError) as error:
        cause = error.__cause__
        if isinstance(cause, InputValueError):
            raise bad(cause.problem, f"{where}: {cause.received}") from None
        raise bad("a value is missing, or of another type or range", f"{where}: {error}") from None


def _by_field(value: Any) -> Any:
    """Return JSON with the keys of format 1 replaced by the names of the fields."""
    if isinstance(value, dict):
        return {_FIELDS.get(key, key): _by_field(item) for key, item in value.items()}
    return [_by_field(item) for item in value] if isinstance(value, list) else value


def saved_fields(kind: Any) -> dict[str, str]:
    """Return JSON keys and the fields that they hold: all but NCL's marginals."""
    names = [field.name for field in fields(kind) if not field.name.endswith("_marginal")]
    keys = {name: key for key, name in _FIELDS.items()}
    return {keys.get(name, name): name for name in names}


def same_keys(found: Mapping[str, Any], wanted: Sequence[str], where: str) -> None:
    """Refuse missing and unexpected keys."""
    missing, others = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        raise bad("something is missing", f"{where}: no {missing[0]}")
    if others:
        raise bad("something does not belong there", f"{where}: {shown(others[0])}")


def parse_json(data: bytes, where: object) -> Any:
    """Parse JSON; refuse NaN, infinity, numbers that overflow and excessive nesting."""
    try:
        return json.loads(data.decode(), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise bad("the JSON is damaged or cut short", f"{where}: {error}") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not finite")
    return number


def read_json(path: Path, largest: int) -> Any:
    """Return the JSON of a regular file of at most ``largest`` bytes."""
    with opened(path) as (file, size):
        check_size(path, size, largest)
        return parse_json(file.read(size), path)


def check_size(path: Path, size: int, largest: int) -> None:
    """Refuse a file of more than ``largest`` bytes."""
    if size > largest:
        received = f"{path}: {size} bytes, {largest} at most"
        raise bad("the file is too large", received, "keep long lists in a separate table")


@contextmanager
def opened(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file and yield it with its size; a pipe would block."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise bad("this is not a regular file", f"{path}")
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
            yield file, os.fstat(file.fileno()).st_size
    except StateError:
        raise
    except FileNotFoundError:
        raise bad("a file of the corrector is missing", f"{path}") from None
    except OSError as error:
        raise bad("a file cannot be read", f"{path}: {error.strerror}") from None
