"""Ground truth from files: index arrays, pairs, tables of ids, TREC qrels, ids and masks."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    """Ground truth of (texts, videos) from a file.

    Without ids, entries are indices that count from 0. With ids, entries are looked up among
    them; an id that is not there is an error.
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
                raise InputValueError(
                    "the ground truth has another number of texts",
                    f"{path}: {len(table)} entries for {shape[0]} texts",
                    "give one video index per text",
                )
            return GroundTruth.from_index(table, shape[1])
        return GroundTruth.from_pairs(table, shape)
    if suffix in (".csv", ".tsv"):
        rows = _csv(path, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".jsonl":
        rows = _jsonl(path)
    elif suffix == ".parquet":
        rows = _parquet(path)
    elif suffix in (".qrels", ".txt", ".qrel"):
        rows = _qrels(path)
    else:
        raise InputFileError(
            "this ground-truth format is not known",
            str(path),
            f"give diagonal, ids, or one of {FORMATS}",
        )
    texts = _look_up([row[0] for row in rows], text_ids, shape[0], "text", path)
    videos = _look_up([row[1] for row in rows], video_ids, shape[1], "video", path)
    try:
        grades = [_grade(row[2]) for row in rows]
    except ValueError as error:
        raise InputFileError(
            "a relevance grade is not a number",
            f"{path}: {error}",
            "grades are numbers, 1 is right",
        ) from None
    return GroundTruth.from_pairs(np.stack([texts, videos], axis=1), shape, grades)


def _grade(text: str) -> float:
    grade = float(text)
    if not math.isfinite(grade):
        raise ValueError(f"{text!r} is not finite")
    return grade


def same_ids(text_ids: Sequence[str] | None, video_ids: Sequence[str] | None) -> GroundTruth:
    """A text belongs to the video of the same id; several texts may have one.

    >>> same_ids(["b", "a", "b"], ["a", "b"]).item.tolist()
    [1, 0, 1]
    """
    if text_ids is None or video_ids is None:
        raise InputValueError(
            "the ground truth by ids needs the ids of both sides",
            "none of the " + ("texts" if text_ids is None else "videos"),
            "save them beside the vectors, or give --text-ids and --video-ids",
        )
    place = _unique(video_ids, "video")
    unknown = [name for name in text_ids if name not in place]
    if unknown:
        raise InputValueError(
            "some texts have an id that no video has",
            f"{unknown[0]!r}, {len(unknown)} of {len(text_ids)} texts",
            "give each text the id of its video, or --gt a table of texts and videos",
        )
    return GroundTruth.from_index([place[name] for name in text_ids], len(video_ids))


def _unique(ids: Sequence[str], side: str) -> dict[str, int]:
    """The place of every id."""
    place = {name: index for index, name in enumerate(ids)}
    if len(place) != len(ids):
        twice = next(name for index, name in enumerate(ids) if place[name] != index)
        raise InputValueError(
            f"two {side}s have the same id",
            f"{twice!r}; {len(place)} ids for {len(ids)} items",
            "make them unique",
        )
    return place


def read_lines(path: Path, count: int, what: str) -> list[str]:
    """One id or name per line, as many as there are items."""
    lines = _lines(path)
    if len(lines) != count:
        raise InputValueError(
            f"the {what} are not as many as the items",
            f"{path}: {len(lines)} lines for {count} items",
            "write one per line, in the order of the rows",
        )
    return lines


def read_mask(path: Path, count: int) -> np.ndarray[Any, Any]:
    """A query mask: true (or not 0) for queries that count."""
    mask = np.asarray(read_npy(path)).ravel()
    if len(mask) != count or mask.dtype.kind not in "buif" or np.isnan(mask).any():
        raise InputValueError(
            "the query mask does not fit the texts",
            f"{path}: {len(mask)} entries of {mask.dtype} for {count} texts"
            + (", some NaN" if mask.dtype.kind == "f" and np.isnan(mask).any() else ""),
            "give one number per text, 0 for those to leave out",
        )
    return np.asarray(mask != 0)


Row = tuple[str, str, str]


def _text(path: Path) -> str:
    check_regular(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InputFileError(
            "the file cannot be read", f"{path}: {reason}", "check the path and the encoding"
        ) from None


def _lines(path: Path) -> list[str]:
    """Lines as editors count them: a caption may hold other separators that Unicode knows."""
    text = _text(path)
    return text.removesuffix("\n").split("\n") if text else []


def _csv(path: Path, delimiter: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(_text(path)), delimiter=delimiter)
    try:
        fields = list(reader.fieldnames or [])
        lines = list(reader)
    except csv.Error as error:
        raise InputFileError(
            "the table cannot be read",
            f"{path}, line {reader.reader.line_num}: {error}",
            "write it as RFC 4180 says, and ids rather than whole texts",
        ) from None
    counts = [fields.count(name) for name in ("text", "video", "grade")]
    if 0 in counts[:2] or max(counts) > 1:
        raise InputFileError(
            "the table has no columns text and video"
            if 0 in counts[:2]
            else "the table has two columns of one name",
            f"{path}: columns {', '.join(fields) or 'none'}",
            "name them in its first line; a third one, grade, is optional",
        )
    return [
        _row(line.get("text"), line.get("video"), line.get("grade") or "1", path, number)
        for number, line in enumerate(lines, 2)
    ]


def _jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            row = (entry.get("text"), entry.get("video"), entry.get("grade", 1))
        except (ValueError, AttributeError, RecursionError):
            row = (None, None, 1)
        rows.append(_row(*row, path, number))
    return rows


def _parquet(path: Path) -> list[Row]:
    from emcl_plugin.io.parquet import read_columns

    columns = read_columns(path, ("text", "video", "grade"))
    if not {"text", "video"} <= set(columns):
        raise InputFileError(
            "the table has no columns text and video", f"{path}: {', '.join(columns)}", "name them"
        )
    grades = columns.get("grade", [1] * len(columns["text"]))
    entries = zip(columns["text"], columns["video"], grades, strict=True)
    return [_row(t, v, g, path, number) for number, (t, v, g) in enumerate(entries)]


def _qrels(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(_lines(path), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 4:
            raise InputFileError(
                "this is not TREC qrels",
                f"{path}, line {number}: {line[:60]!r}",
                "four columns: query, iteration, document, relevance; "
                "one video's index per text goes into an .npy",
            )
        rows.append((parts[0], parts[2], parts[3]))
    return rows


def _row(text: Any, video: Any, grade: Any, path: Path, number: int) -> Row:
    if any(x is None or isinstance(x, dict | list) for x in (text, video)):
        raise InputFileError(
            "an entry of the ground truth has no text or no video",
            f"{path}, line {number}",
            "each entry names a text and a video",
        )
    return str(text), str(video), str(grade)


def _look_up(
    names: list[str], ids: Sequence[str] | None, count: int, side: str, path: Path
) -> np.ndarray[Any, Any]:
    known = None if ids is None else _unique(ids, side)
    if known is not None and len(known) != count:
        raise InputValueError(
            f"the ids are not as many as the {side}s",
            f"{len(known)} ids for {count} {side}s",
            "give one per row",
        )
    out = np.empty(len(names), dtype=np.int64)
    for position, name in enumerate(names):
        index = _index(name) if known is None else known.get(name)
        if index is None:
            raise InputValueError(
                f"the ground truth names a {side} that is not known",
                f"{path}: {name!r}",
                f"give the ids with --{side}-ids"
                if known is None
                else f"check the ids, which --{side}-ids can replace",
            )
        out[position] = index
    return out


def _index(name: str) -> int | None:
    return int(name) if name.isdecimal() and len(name) < 19 else None  # 64 bits hold no more
