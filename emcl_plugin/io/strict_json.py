"""JSON read strictly: into a dataclass, key by key, type by type, or an error that says where."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from io import BufferedReader
from pathlib import Path
from reprlib import repr as shown
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from emcl_plugin.errors import InputValueError, StateError


def bad(
    problem: str, received: str, remedy: str = "copy the folder again, or fit and save anew"
) -> StateError:
    """What is wrong with a saved folder, and usually what to do."""
    return StateError(problem, received, remedy)


_WORDS = {
    dict: "an object", list: "a list", str: "text", bool: "true or false",
    int: "a whole number", float: "a number", NoneType: "null",
}  # fmt: skip


def read_as(kind: Any, value: Any, where: str) -> Any:
    """A value from JSON as an object of this type.

    >>> read_as(tuple[float, ...], [1, 0.5], "here")
    (1.0, 0.5)
    """
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    fitting = [k for k in kinds if type(value) in _json_types(k)]
    if not fitting:
        words = " or ".join(_WORDS[_json_types(k)[0]] for k in kinds)
        raise bad("a value has another type", f"{where}: {shown(value)}, not {words}")
    kind, inner = fitting[0], get_args(fitting[0])
    if is_dataclass(kind):
        return _read_object(kind, value, where)
    if kind is float:
        if not abs(value) <= sys.float_info.max:
            raise bad("a number is not finite", f"{where}: {shown(value)}")
        return float(value)
    if isinstance(value, dict):
        return {key: read_as(inner[1], item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise bad("a list has another length", f"{where}: {len(value)}, not {len(kinds)}")
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(read_as(k, item, f"{where}[{i}]") for i, (k, item) in pairs)
    return value


def _json_types(kind: Any) -> tuple[type, ...]:
    """What may stand for this type in JSON."""
    origin = dict if is_dataclass(kind) else get_origin(kind) or kind
    return {tuple: (list,), float: (float, int)}.get(origin, (origin,))


def _read_object(kind: Any, value: dict[str, Any], where: str) -> Any:
    names, hints = saved_fields(kind), get_type_hints(kind)
    same_keys(value, names, where)
    found = {name: read_as(hints[name], value[name], f"{where}: {name}") for name in names}
    try:
        return kind(**found)
    except InputValueError as error:
        raise bad(error.problem, f"{where}: {error.received}") from None


def saved_fields(kind: Any) -> list[str]:
    """What is saved of a dataclass: all but NCL's marginals."""
    return [field.name for field in fields(kind) if not field.name.endswith("_marginal")]


def same_keys(found: Mapping[str, Any], wanted: Sequence[str], where: str) -> None:
    """Refuse what lacks a key, or has one too many."""
    missing, others = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        raise bad("something is missing", f"{where}: no {missing[0]}")
    if others:
        raise bad("something does not belong there", f"{where}: {shown(others[0])}")


def _parse(data: bytes, path: Path) -> Any:
    """JSON without its traps: NaN, keys that are there twice, a million brackets."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in pairs:
            if key in out:
                raise bad("a key is there twice", f"{path}: {shown(key)}")
            out[key] = value
        return out

    def constant(name: str) -> Any:
        raise bad("a number is not finite", f"{path}: {name}")

    try:
        return json.loads(data.decode(), object_pairs_hook=unique, parse_constant=constant)
    except RecursionError:
        raise bad("the JSON is nested too deeply", f"{path}") from None
    except ValueError as error:
        raise bad("the JSON is damaged or cut short", f"{path}: {error}") from None


def read_json(path: Path, largest: int) -> Any:
    """The JSON of a regular file of at most so many bytes."""
    with opened(path) as (file, size):
        check_size(path, size, largest)
        return _parse(file.read(size), path)


def check_size(path: Path, size: int, largest: int) -> None:
    """Refuse more than ``largest`` bytes."""
    if size > largest:
        received = f"{path}: {size} bytes, {largest} at most"
        raise bad("the file is too large", received, "keep long lists in a table of your own")


@contextmanager
def opened(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """A regular file and its size; no other is opened, since a pipe would wait for a writer."""
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
