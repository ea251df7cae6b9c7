"""Sharded arrays: the files of a folder or pattern, concatenated in natural order."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import Matrix
from emcl_plugin.io.out_of_core import gather, row_blocks
from emcl_plugin.io.vectors import Ids, Vectors, check_count

BESIDE = (".csv", ".tsv", ".jsonl", ".pkl", ".pickle")
"""Formats that often accompany arrays; shards of a folder only if it holds no other format."""


def parts_of(path: Path, kinds: Collection[str]) -> list[Path] | None:
    """Return a folder's or pattern's files in natural order; None for a file or a missing path."""
    if os.path.isdir(path):  # False for over-long names, where Path.is_dir raises
        return check_alike(numbered(_in_folder(path), path, kinds), path, kinds)
    if glob.has_magic(str(path)) and not os.path.exists(path):
        return check_alike([Path(name) for name in _matching(str(path))], path, kinds)
    return None


def _matching(pattern: str) -> set[str]:
    """Match as ``glob`` does, but without following links for ``**``, which may loop."""
    head, deep, rest = pattern.partition("**/")
    if not deep:
        return set(glob.glob(pattern))
    found = set()
    for top in glob.glob(head) if head else ["."]:
        for folder, below, _ in os.walk(top):
            below[:] = [name for name in below if not name.startswith(".")]
            found |= _matching(os.path.join(glob.escape(folder), rest))
    return found


def _in_folder(path: Path) -> list[Path]:
    try:
        inside = [file for file in path.iterdir() if not file.name.startswith(".")]
    except OSError as error:
        problem, received = "the folder cannot be read", f"{path}: {error.strerror}"
        raise InputFileError(problem, received, "check its permissions") from None
    for file in inside:
        check_link(file, path.resolve())
    return inside


def check_link(file: Path, home: Path) -> None:
    """Refuse a symbolic link that leads out of the folder ``home``."""
    target = Path(os.path.realpath(file))
    if file.is_symlink() and not target.is_relative_to(home):
        remedy = "copy that file into the folder, or name the files themselves"
        received = f"{file} -> {target}"
        raise InputFileError("the folder links to a file outside", received, remedy)


def numbered(inside: list[Path], where: object, kinds: Collection[str]) -> list[Path]:
    """Return a folder's files of known formats; refuse names that differ by more than numbers."""
    known = [file for file in inside if file.suffix.lower() in kinds]
    found = [file for file in known if file.suffix.lower() not in BESIDE] or known
    names = sorted({re.sub("[0-9]+", "#", file.stem) for file in found})
    if len(names) > 1:  # such as text.npy and video.npy
        problem = "the files of the folder are not numbered parts of one array"
        received = f"{where}: {', '.join(sorted(file.name for file in found)[:5])}"
        pattern = shlex.quote(f"{where}/*{found[0].suffix}")
        raise InputFileError(problem, received, f"name one of them, or concatenate all: {pattern}")
    return found


def check_alike(files: list[Path], where: object, kinds: Collection[str]) -> list[Path]:
    """Return the files in natural order; refuse an empty list and several formats."""
    if not files:
        remedy = f"use one of {', '.join(kinds)}"
        raise InputFileError("there are no files of a known kind", str(where), remedy)
    suffixes = sorted({file.suffix.lower() for file in files})
    if len(suffixes) > 1:
        received = f"{where}: {', '.join(suffixes)}"
        remedy = "name one kind: " + shlex.quote(f"{where}/*{suffixes[0]}")
        raise InputFileError("the files are of several kinds", received, remedy)
    return sorted(files, key=natural)


def natural(name: str | Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key for natural order, 2 before 10; equal numbers sort by their text.

    >>> sorted(["v10", "v9", "v09", "10", "9"], key=natural)
    ['9', '10', 'v09', 'v9', 'v10']
    """
    text = str(name)
    parts = re.split("([0-9]+)", text)
    digits = [part.lstrip("0") for part in parts]
    counted = [(len(digits[i]), digits[i]) if i % 2 else (0, parts[i]) for i in range(len(parts))]
    return counted, text


def stacked(files: list[Path], read: Callable[[Path], Vectors], where: object) -> Vectors:
    """Concatenate the arrays of the files, and their ids if all have them.

    Other dimensions or dtypes, NaN and infinity raise an error that names the file.
    """
    if len(files) == 1:
        only = read(files[0])
        return only if only.ids is not None else Vectors(only.array, ids_beside(files, only.array))
    labels: list[Vectors] = []

    def blocks() -> Iterator[Matrix]:
        first: Matrix | None = None
        for file in files:
            part = read(file)
            array = part.array
            first = array if first is None else first
            if array.ndim != 2 or array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
                received = f"{file}: {array.shape} {array.dtype}, "
                received += f"{files[0].name}: {first.shape} {first.dtype}"
                remedy = "save (n, D) vectors of one D and one dtype in each"
                raise InputFileError("the files cannot be concatenated", received, remedy)
            labels.append(Vectors(array[:0], part.ids, part.column_ids))
            row = 0
            for rows in row_blocks(array):
                _check_finite(rows, file, row)
                row += len(rows)
                yield rows.copy()  # a memory map would keep its file open

    whole = gather(blocks(), where)
    ids = _joined([label.ids for label in labels])
    columns = {label.column_ids for label in labels}
    return Vectors(
        whole,
        ids if ids is not None else ids_beside(files, whole),
        columns.pop() if len(columns) == 1 else None,
    )


def _joined(parts: list[Ids | None]) -> Ids | None:
    known = [part for part in parts if part is not None]
    return tuple(chain(*known)) if len(known) == len(parts) else None


def _check_finite(rows: Matrix, file: Path, first: int) -> None:
    """Refuse NaN and infinity here, where the name of the file is known."""
    if rows.dtype.kind != "f" or np.isfinite(rows).all():
        return
    row, column = (int(k) for k in np.argwhere(~np.isfinite(rows))[0])
    received = f"{file}: [{first + row}, {column}] = {rows[row, column]}"
    remedy = "find out where the retriever failed; drop padded entries instead of saving them"
    raise InputFileError("a part holds NaN or infinity", received, remedy)


def ids_beside(files: list[Path], array: Matrix) -> Ids | None:
    """Return the ids of clip-retrieval's folders: metadata_0.parquet holds those of img_emb_0.npy.

    None unless every part has such a file with a column of ids.
    """
    from emcl_plugin.io.parquet import read_ids

    tables = []
    for file in files:
        number = re.search("[0-9]+$", file.stem)
        if file.suffix.lower() != ".npy" or number is None:
            return None
        tables.append(file.parent.parent / "metadata" / f"metadata_{number[0]}.parquet")
    if not all(table.is_file() for table in tables):
        return None
    ids = _joined([read_ids(table) for table in tables])
    if ids is not None:
        check_count(ids, array, tables[0].parent)
    return ids
