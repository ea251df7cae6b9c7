"""Small matrices as text: ``.csv``, ``.tsv`` and ``.jsonl``, float32, with optional ids."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import Matrix, check_memory, first_bytes, only, parsing
from emcl_plugin.io.vectors import ID_NAMES, Vectors, as_ids

VECTOR_NAMES = ("embedding", "vector", "features", "scores")
_FIRST_COLUMN = (*ID_NAMES, "", "index", "text", "video", "query")
_AS_OBJECTS = 15  # memory of the cells as Python objects, in multiples of the file's size
_LARGEST = float(np.finfo(np.float32).max)


def read_csv(path: Path, key: str | None = None) -> Vectors:
    """Read rows of numbers with an optional header and first column of ids.

    The first column holds ids if the header names them or if none of its cells is a number.
    Ambiguous tables, rows of other lengths and cells that are not finite numbers are refused.
    """
    _check(path, key)
    mark = "\t" if path.suffix.lower() == ".tsv" else ","
    with parsing(path, "text"), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=mark, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
        header = _header(lines[0][1], path) if lines else None
        rows = lines if header is None else lines[1:]
        if not rows:
            raise ValueError("there are no rows")
        if header in _FIRST_COLUMN or _names_first(rows, path):
            ids = tuple(cells[0] for _, cells in rows)
            return Vectors(_matrix([(line, cells[1:]) for line, cells in rows], path), ids)
        return Vectors(_matrix(rows, path))


def read_jsonl(path: Path, key: str | None = None) -> Vectors:
    """Read a list of numbers per line, or an object of an id and such a list."""
    _check(path, key)
    rows: list[tuple[int, list[Any]]] = []
    ids = []
    with parsing(path, "text"), path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                name, numbers = _entry(text, path, line)
                rows.append((line, numbers))
                ids.append(name)
        if not rows:
            raise ValueError("there are no rows")
        if None not in ids:
            return Vectors(_matrix(rows, path), as_ids(ids))
        if any(name is not None for name in ids):
            _refuse("some rows have an id and some none", path, rows[ids.index(None)][0])
        return Vectors(_matrix(rows, path))


def _check(path: Path, key: str | None) -> None:
    """Refuse missing files, names of arrays, and text that does not fit into memory."""
    first_bytes(path, 1)
    only(key, path)
    check_memory(_AS_OBJECTS * path.stat().st_size, path)


def _header(cells: list[str], path: Path) -> str | None:
    """Return the name of the first column, or None if the first line is not a header."""
    first, rest = cells[0].strip().lower(), cells[1:]
    counted = [str(i) for i in range(len(cells))]
    if rest and cells == counted:  # pandas numbers unnamed columns like this
        _refuse("the first line may be column names or numbers", path, 1, *cells)
    numbered = bool(rest) and rest == counted[:-1] and first in _FIRST_COLUMN
    named = all(x.strip() and _number(x) is None for x in rest or cells)
    return first if numbered or named else None


def _names_first(rows: list[tuple[int, list[str]]], path: Path) -> bool:
    """Return whether the first column holds ids, that is, no numbers."""
    numbers = [_number(cells[0]) is not None for _, cells in rows]
    if any(numbers) and not all(numbers) and len(rows[0][1]) > 1:
        line, cells = rows[numbers.index(False)]
        _refuse("the first column mixes numbers and text", path, line, cells[0])
    return not any(numbers) and len(rows[0][1]) > 1


def _entry(text: str, path: Path, line: int) -> tuple[Any, list[Any]]:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        _refuse("a line is not JSON", path, line, text[:60])
    if isinstance(entry, list):
        return None, entry
    fields = entry if isinstance(entry, dict) and "videos" not in entry else {}
    vectors = [fields[name] for name in VECTOR_NAMES if isinstance(fields.get(name), list)]
    name = next((fields[name] for name in ID_NAMES if name in fields), None)
    if len(vectors) != 1 or (name is not None and as_ids([name]) is None):
        problem = "a line is neither a list of numbers nor an object of an id and one of "
        _refuse(problem + ", ".join(VECTOR_NAMES), path, line)
    return name, vectors[0]


def _matrix(rows: list[tuple[int, list[Any]]], path: Path) -> Matrix:
    width = len(rows[0][1])
    array = np.empty((len(rows), width), np.float32)
    for i, (line, cells) in enumerate(rows):
        if len(cells) != width:
            _refuse(f"the lines hold {width} and {len(cells)} numbers", path, line)
        numbers = [_number(cell) for cell in cells]
        for cell, number in zip(cells, numbers, strict=True):
            if number is None or not abs(number) <= _LARGEST:
                _refuse("a cell is not a finite float32 number", path, line, repr(cell)[:60])
        array[i] = numbers
    return array


def _number(cell: Any) -> float | None:
    """Parse a cell; None for text, an empty cell, 1_000, true."""
    if isinstance(cell, bool) or (isinstance(cell, str) and "_" in cell):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def _refuse(problem: str, path: Path, line: int, *found: str) -> NoReturn:
    received = f"{path}, line {line}" + (f": {', '.join(found)[:60]}" if found else "")
    remedy = "write rows of numbers of one length, with column names in the first line or none; "
    remedy += "name a column of ids 'id'"
    raise InputFileError(problem, received, remedy)
