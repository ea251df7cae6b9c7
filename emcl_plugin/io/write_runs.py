"""Runs (the top k of every query) as files, written in blocks: one function per format.

As in :mod:`emcl_plugin.io.write_matrices`, each validates early and returns the writer. Scores have
the fewest digits that restore the number, and so the order (float16 is written as float32).
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from emcl_plugin.errors import InputValueError
from emcl_plugin.io.members import library

if TYPE_CHECKING:
    from emcl_plugin.io.topk import Ranked

RunWriter: TypeAlias = "Callable[[BinaryIO, Iterable[Ranked]], None]"

SIDES = {"text -> video": ("text", "video"), "video -> text": ("video", "text")}
"""Queries and items, by direction."""


@dataclass(frozen=True)
class Run:
    """A run without its answers.

    ``sides`` are the queries and items, ("text", "video") or the reverse, and the rest their ids.
    """

    path: Path
    dtype: np.dtype[Any]
    sides: tuple[str, str]
    queries: Sequence[str]
    items: Sequence[str]

    def answers(self, found: Ranked) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield each query of a block, its top items, and their scores as text."""
        start, scores, columns = found
        digits = scores.astype(np.promote_types(scores.dtype, np.float32)).astype(str)
        for i, (row, texts) in enumerate(zip(columns.tolist(), digits.tolist(), strict=True)):
            yield self.queries[start + i], [self.items[column] for column in row], texts

    def rows(self, found: Ranked) -> Iterator[tuple[str, str, int, str]]:
        """Yield query, item, rank and score of every answer of a block."""
        for query, items, scores in self.answers(found):
            for rank, (item, score) in enumerate(zip(items, scores, strict=True), 1):
                yield query, item, rank, score


def _jsonl(run: Run) -> RunWriter:
    query_name, items_name = run.sides[0], f"{run.sides[1]}s"

    def write(file: BinaryIO, blocks: Iterable[Ranked]) -> None:
        for found in blocks:
            for query, items, scores in run.answers(found):
                line = {query_name: query, items_name: items, "scores": [*map(float, scores)]}
                file.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode())

    return write


def _check_unique(run: Run) -> None:
    """Refuse repeated ids, which a table cannot tell apart."""
    for side, ids in zip(run.sides, (run.queries, run.items), strict=True):
        if len(set(ids)) < len(ids):
            received = f"{run.path}: {Counter(ids).most_common(1)[0][0]!r}"
            remedy = "make them unique, or name the run .jsonl, which has one line per query"
            raise InputValueError(f"two {side}s have the same id", received, remedy)


def _csv(run: Run, dialect: str) -> RunWriter:
    _check_unique(run)

    def write(file: BinaryIO, blocks: Iterable[Ranked]) -> None:
        def add(rows: Iterable[Sequence[object]]) -> None:
            text = io.StringIO()
            csv.writer(text, dialect).writerows(rows)
            file.write(text.getvalue().encode())

        add([(*run.sides, "rank", "score")])
        for found in blocks:
            add(run.rows(found))

    return write


def _trec(run: Run) -> RunWriter:
    _check_unique(run)
    for name in (*run.queries, *run.items):
        if name.split() != [name]:
            problem = "TREC's columns end at white space, but an id is empty or contains some"
            remedy = "name the run .csv or .jsonl, or give other ids"
            raise InputValueError(problem, f"{run.path}: {name!r}", remedy)

    def write(file: BinaryIO, blocks: Iterable[Ranked]) -> None:
        for found in blocks:
            for query, item, rank, score in run.rows(found):
                file.write(f"{query} Q0 {item} {rank} {score} emcl_plugin\n".encode())

    return write


def _parquet(run: Run) -> RunWriter:
    _check_unique(run)
    arrow, parquet = library("pyarrow", run.path), library("pyarrow.parquet", run.path)
    queries, items = (arrow.array(ids, arrow.string()) for ids in (run.queries, run.items))
    ranks, score = arrow.int32(), arrow.from_numpy_dtype(run.dtype)
    names = [(name, arrow.string()) for name in run.sides]
    schema = arrow.schema([*names, ("rank", ranks), ("score", score)])

    def write(file: BinaryIO, blocks: Iterable[Ranked]) -> None:
        pool = arrow.system_memory_pool()
        with parquet.ParquetWriter(file, schema, memory_pool=pool) as writer:
            for start, scores, columns in blocks:
                row, rank = np.indices(scores.shape).reshape(2, -1)
                arrays = [
                    queries.take(arrow.array(start + row)),
                    items.take(arrow.array(columns.ravel())),
                    arrow.array(rank + 1, ranks),
                    arrow.array(scores.ravel()),
                ]
                writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))

    return write


RUNS: dict[str, Callable[[Run], RunWriter]] = {
    ".jsonl": _jsonl,
    ".csv": partial(_csv, dialect="excel"),
    ".tsv": partial(_csv, dialect="excel-tab"),
    ".parquet": _parquet,
    ".trec": _trec,
    ".run": _trec,
}
