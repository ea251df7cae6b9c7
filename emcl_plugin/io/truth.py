"""Ground truth, ids and query masks from files: index arrays, pairs, tables, TREC qrels."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emcl_plugin.errors import InputFileError, InputTypeError, InputValueError
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.io.members import check_regular
from emcl_plugin.io.npy import read_npy

FORMATS = (
    ".npy (index per text, or pairs), .csv, .tsv, .jsonl, .parquet (columns text and video), "
    ".qrels or .txt (TREC)"
)


def read_truth(
    path: Path,
    shape: tuple[int, int],
    text_ids: Sequence[str] | None = None,
    video_ids: Sequence[str] | None = None,
) -> GroundTruth:
    """Read the ground truth of (texts, videos) from a file.

    Entries are indices from 0, or ids if ids are given; an unknown id raises.
    """
    try:
        return _read_truth(path, shape, text_ids, video_ids)
    except (InputValueError, InputTypeError) as error:
        if str(path) in error.received:
            raise
        raise type(error)(error.problem, f"{path}: {error.received}", error.remedy) from None


def _read_truth(
    path: Path,
    shape: tuple[int, int],
    text_ids: Sequence[str] | None,
    video_ids: Sequence[str] | None,
) -> GroundTruth:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        table = read_npy(path)
        if table.ndim == 1:
            if len(table) != shape[0]:
                problem = "the ground truth has another number of texts"
                received = f"{path}: {len(table)} entries for {shape[0]} texts"
                raise InputValueError(problem, received, "give one video index per text")
            return GroundTruth.from_index(table, shape[1])
        return GroundTruth.from_pairs(table, shape)
    if suffix not in _TABLES:
        remedy = f"give diagonal, ids, or one of {FORMATS}"
        raise InputFileError("unknown ground-truth format", str(path), remedy)
    rows = _rows(path)
    texts = _look_up([row[0] for row in rows], text_ids, shape[0], "text", path)
    videos = _look_up([row[1] for row in rows], video_ids, shape[1], "video", path)
    try:
        grades = [_grade(row[2]) for row in rows]
    except ValueError as error:
        problem, remedy = "a relevance grade is not a number", "use numbers; 1 means relevant"
        raise InputFileError(problem, f"{path}: {error}", remedy) from None
    return GroundTruth.from_pairs(np.stack([texts, videos], axis=1), shape, grades)


def _grade(text: str) -> float:
    grade = float(text)
    if not math.isfinite(grade):
        raise ValueError(f"{text!r} is not finite")
    return grade


def same_ids(text_ids: Sequence[str] | None, video_ids: Sequence[str] | None) -> GroundTruth:
    """Match each text to the video of the same id; several texts may share one.

    >>> same_ids(["b", "a", "b"], ["a", "b"]).item.tolist()
    [1, 0, 1]
    """
    if text_ids is None or video_ids is None:
        problem = "the ground truth by ids needs the ids of both sides"
        received = "none of the " + ("texts" if text_ids is None else "videos")
        remedy = "save them with the vectors, or give --text-ids and --video-ids"
        raise InputValueError(problem, received, remedy)
    place = _unique(video_ids, "video")
    unknown = [name for name in text_ids if name not in place]
    if unknown:
        received = f"{unknown[0]!r}, {len(unknown)} of {len(text_ids)} texts"
        remedy = "give each text the id of its video, or --gt a table of texts and videos"
        raise InputValueError("some texts have an id that no video has", received, remedy)
    return GroundTruth.from_index([place[name] for name in text_ids], len(video_ids))


def _unique(ids: Sequence[str], side: str) -> dict[str, int]:
    place = {name: index for index, name in enumerate(ids)}
    if len(place) != len(ids):
        twice = next(name for index, name in enumerate(ids) if place[name] != index)
        received = f"{twice!r}; {len(place)} ids for {len(ids)} items"
        raise InputValueError(f"two {side}s have the same id", received, "make them unique")
    return place


def read_lines(path: Path, count: int, what: str) -> list[str]:
    """Read one id or name per line, ``count`` of them."""
    lines = _lines(path)
    if len(lines) != count:
        problem = f"the number of {what} is not that of the items"
        received = f"{path}: {len(lines)} lines for {count} items"
        raise InputValueError(problem, received, "write one per line, in the order of the rows")
    return lines


def read_mask(path: Path, count: int) -> np.ndarray[Any, Any]:
    """Read a query mask: true (or not 0) for queries to evaluate."""
    mask = np.asarray(read_npy(path)).ravel()
    if len(mask) != count or mask.dtype.kind not in "buif" or np.isnan(mask).any():
        received = f"{path}: {len(mask)} entries of {mask.dtype} for {count} texts"
        if mask.dtype.kind == "f" and np.isnan(mask).any():
            received += ", some NaN"
        remedy = "give one number per text, 0 for those to leave out"
        raise InputValueError("the query mask does not fit the texts", received, remedy)
    return np.asarray(mask != 0)


def _text(path: Path) -> str:
    check_regular(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        problem, remedy = "the file cannot be read", "check the path and the encoding"
        raise InputFileError(problem, f"{path}: {reason}", remedy) from None


def _lines(path: Path) -> list[str]:
    """Split at line feeds only: captions may contain other Unicode line separators."""
    text = _text(path)
    return text.removesuffix("\n").split("\n") if text else []


# --- tables: (line, text, video, grade) of every entry -------------------------------------------

Entries: TypeAlias = Iterable[tuple[int, Any, Any, Any]]


def _csv(path: Path) -> Entries:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(_text(path)), delimiter=delimiter)
    try:
        fields = list(reader.fieldnames or [])
        lines = list(reader)
    except csv.Error as error:
        received = f"{path}, line {reader.reader.line_num}: {error}"
        remedy = "follow RFC 4180, and write ids rather than whole texts"
        raise InputFileError("the table cannot be read", received, remedy) from None
    counts = [fields.count(name) for name in ("text", "video", "grade")]
    if 0 in counts[:2] or max(counts) > 1:
        problem = "has no columns text and video" if 0 in counts[:2] else "repeats a column"
        received = f"{path}: columns {', '.join(fields) or 'none'}"
        remedy = "name them in its first line; a third one, grade, is optional"
        raise InputFileError(f"the table {problem}", received, remedy)
    for number, line in enumerate(lines, 2):
        yield number, line.get("text"), line.get("video"), line.get("grade") or 1


def _jsonl(path: Path) -> Entries:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            fields = entry if isinstance(entry, dict) else {}
            yield number, fields.get("text"), fields.get("video"), fields.get("grade", 1)


def _parquet(path: Path) -> Entries:
    from emcl_plugin.io.parquet import read_columns

    columns = read_columns(path, ("text", "video", "grade"))
    if not {"text", "video"} <= set(columns):
        problem, received = "the table has no columns text and video", ", ".join(columns)
        raise InputFileError(problem, f"{path}: {received}", "name them")
    grades = columns.get("grade", [1] * len(columns["text"]))
    entries = zip(columns["text"], columns["video"], grades, strict=True)
    return ((number, *entry) for number, entry in enumerate(entries))


def _qrels(path: Path) -> Entries:
    for number, line in enumerate(_lines(path), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 4:
            received = f"{path}, line {number}: {line[:60]!r}"
            remedy = "write four columns: query, iteration, document, relevance; "
            remedy += "or one video index per text into an .npy"
            raise InputFileError("this is not TREC qrels", received, remedy)
        yield number, parts[0], parts[2], parts[3]


_TABLES: dict[str, Callable[[Path], Entries]] = {
    **dict.fromkeys((".csv", ".tsv"), _csv),
    **dict.fromkeys((".qrels", ".qrel", ".txt"), _qrels),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _rows(path: Path) -> list[tuple[str, str, str]]:
    rows = []
    for number, text, video, grade in _TABLES[path.suffix.lower()](path):
        if any(x is None or isinstance(x, dict | list) for x in (text, video)):
            problem = "an entry of the ground truth has no text or no video"
            remedy = "name a text and a video in each entry"
            raise InputFileError(problem, f"{path}, line {number}", remedy)
        rows.append((str(text), str(video), str(grade)))
    return rows


def _look_up(
    names: list[str], ids: Sequence[str] | None, count: int, side: str, path: Path
) -> np.ndarray[Any, Any]:
    known = None if ids is None else _unique(ids, side)
    if known is not None and len(known) != count:
        problem = f"the number of ids is not that of the {side}s"
        raise InputValueError(problem, f"{len(known)} ids for {count} {side}s", "give one per row")
    out = np.empty(len(names), dtype=np.int64)
    for position, name in enumerate(names):
        if known is not None:
            index = known.get(name)
        else:
            index = int(name) if name.isdecimal() and len(name) < 19 else None  # fits into 64 bits
        if index is None:
            remedy = f"check the ids, which --{side}-ids can replace"
            remedy = f"give the ids with --{side}-ids" if known is None else remedy
            problem = f"the ground truth names an unknown {side}"
            raise InputValueError(problem, f"{path}: {name!r}", remedy)
        out[position] = index
    return out
