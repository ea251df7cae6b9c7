"""The result of a reader: an array and the ids stored with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import Matrix

Ids: TypeAlias = tuple[str, ...]

ID_NAMES = ["id", "ids", "key", "name", "image_id", "video_id", "text_id", "image_path", "uid"]
"""Names of id columns in tables; the first that exists is used."""


@dataclass(frozen=True)
class Vectors:
    """An array from a file and the ids of its items.

    Attributes
    ----------
    array : (n, D) array
        With the dtype of the file.
    ids : tuple of n str, or None
        Of the rows; ids may repeat.
    column_ids : tuple of D str, or None
        Of the columns, if the array is a similarity matrix.
    """

    array: Matrix
    ids: Ids | None = None
    column_ids: Ids | None = None


Reader: TypeAlias = Callable[[Path, str | None], Vectors]
"""Reads one file, given its path and the name of the array in it or None."""


def as_ids(values: object) -> Ids | None:
    """Return a list or array of texts or integers as ids, anything else as None.

    >>> as_ids(np.array([7, 8])), as_ids([b"a", "b"]), as_ids([0.5])
    (('7', '8'), ('a', 'b'), None)
    """
    if isinstance(values, np.ndarray):
        values = values.tolist() if values.ndim == 1 and values.dtype.kind in "iuUSO" else None
    if not isinstance(values, list | tuple):
        return None
    ids = []
    for value in values:
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                return None
        if type(value) not in (str, int):
            return None
        ids.append(str(value))
    return tuple(ids)


def with_ids(
    array: Matrix, name: str, lists: Callable[[str], object], path: Path, mark: str = "."
) -> Vectors:
    """Find an array's ids: ``<name>_ids``, ``ids``, or ``text_ids`` and ``video_ids``.

    ``lists`` returns what the file holds under a name, whose parts ``mark`` separates. Raise if the
    number of ``<name>_ids`` differs from the rows; ``ids`` that do not fit are ignored.
    """
    before, point, last = name.rpartition(mark)
    own, shared, texts, videos = (
        as_ids(lists(before + point + beside))
        for beside in (f"{last}_ids", "ids", "text_ids", "video_ids")
    )
    if not array.ndim:
        return Vectors(array)
    if own is not None:
        check_count(own, array, path)
        return Vectors(array, own)
    if texts is not None and videos is not None and (len(texts), len(videos)) == array.shape:
        return Vectors(array, texts, videos)
    return Vectors(array, shared if shared is not None and len(shared) == len(array) else None)


def check_count(ids: Sequence[str], array: Matrix, path: Path) -> None:
    """Refuse ids whose number differs from the rows."""
    if not array.ndim or len(ids) != len(array):
        problem = "the number of ids is not that of the rows"
        received = f"{path}: {len(ids)} ids for {array.shape}"
        raise InputFileError(problem, received, "save one per row")


MOST_LEVELS = 16


def leaves(content: object) -> dict[str, Any]:
    """Flatten nested dictionaries, with keys joined by dots; any other object is named ''.

    Each dictionary is entered once, so cycles end.

    >>> leaves({"a": 1, "b": {"c": 2}})
    {'a': 1, 'b.c': 2}
    """
    found: dict[str, Any] = {}
    entered: set[int] = set()
    level = [("", content)]
    for _ in range(MOST_LEVELS):
        inside = []
        for name, value in level:
            if not isinstance(value, Mapping):
                found[name] = value
            elif id(value) not in entered:
                entered.add(id(value))
                before = f"{name}." if name else ""
                words = (k.decode(errors="replace") if isinstance(k, bytes) else k for k in value)
                inside += [(f"{before}{k}", x) for k, x in zip(words, value.values(), strict=True)]
        level = inside
    return found
