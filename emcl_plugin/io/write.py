"""Write score matrices or runs (the top k of every query) in the format of the suffix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, Kind, check_finite, check_matrix, compute_dtype
from emcl_plugin.errors import InputFileError, InputValueError
from emcl_plugin.io.atomic import atomic_writer, check_target
from emcl_plugin.io.npy import npy_size
from emcl_plugin.io.topk import ranked
from emcl_plugin.io.write_matrices import SCORES, ScoresWriter, Table
from emcl_plugin.io.write_runs import RUNS, SIDES, Run, RunWriter
from emcl_plugin.scores import Dense, Similarity

IdPair: TypeAlias = tuple[Sequence[str] | None, Sequence[str] | None]
"""Ids of texts and of videos, if known."""


def write_scores(
    path: str | Path,
    scores: Array | Similarity,
    *,
    text_ids: Sequence[str] | None = None,
    video_ids: Sequence[str] | None = None,
    force: bool = False,
) -> None:
    """Write a matrix of scores atomically.

    Parameters
    ----------
    path : str or Path
        ``.npy``, ``.npz``, ``.safetensors`` or ``.parquet``.
    scores : (n_text, n_video)
        Array, tensor or similarity source. Read and written block by block, in its own dtype;
        bfloat16 as float32.
    text_ids, video_ids : sequence of str, optional
        Stored with the scores in all formats but ``.npy``.
    force : bool, default False
        Replace an existing file.

    Raises
    ------
    InputFileError
        The format is unknown, the file exists, the disk is full or writing fails.
    InputValueError
        Scores hold NaN or infinity, or the number of ids is not that of the items.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_scores(f"{folder}/s.npz", np.float32([[0.9, 0.1]]), video_ids=["cat", "dog"])
    ...     with np.load(f"{folder}/s.npz") as file:
    ...         print(file["scores"], file["video_ids"])
    [[0.9 0.1]] ['cat' 'dog']
    """
    path = Path(path)
    source, kind = _source(scores)
    shape, dtype = source.shape, kind.numpy_dtype
    write = prepare_scores(path, shape, dtype, (text_ids, video_ids), force=force)
    with atomic_writer(path, force=force) as file:
        write(file, (block.numpy() for block in _blocks(source, kind)))


def write_run(
    path: str | Path,
    scores: Array | Similarity,
    k: int = 100,
    *,
    direction: str = "text -> video",
    text_ids: Sequence[str] | None = None,
    video_ids: Sequence[str] | None = None,
    force: bool = False,
) -> None:
    """Write the top ``k`` videos of every text, or texts of every video, atomically.

    Ties are ordered by index. Errors are those of :func:`write_scores`; also for ids that repeat or
    that TREC's format cannot hold.

    Parameters
    ----------
    path : str or Path
        ``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``, or ``.trec`` or ``.run`` for TREC's format.
    scores : (n_text, n_video)
        Array, tensor or similarity source, higher is better. Read block by block.
    k : int, default 100
        Maximum number of answers per query.
    direction : {"text -> video", "video -> text"}
        Which side are the queries.
    text_ids, video_ids : sequence of str, optional
        Default: the indices from 0.
    force : bool, default False
        Replace an existing file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_run(f"{folder}/r.trec", np.float32([[0.1, 0.9], [0.7, 0.2]]), k=1)
    ...     print(Path(folder, "r.trec").read_text(), end="")
    0 Q0 1 1 0.9 emcl_plugin
    1 Q0 0 1 0.7 emcl_plugin
    """
    path = Path(path)
    if k < 1:
        raise InputValueError("a run has at least one answer per query", f"k = {k}", "k = 100")
    source, kind = _source(scores)
    shape, dtype = source.shape, kind.numpy_dtype
    ids = (text_ids, video_ids)
    write = prepare_run(path, shape, dtype, ids, direction=direction, k=k, force=force)
    source = source if SIDES[direction][0] == "text" else source.T
    with atomic_writer(path, force=force) as file:
        write(file, ranked(_blocks(source, kind), min(k, source.shape[1])))


def prepare_scores(
    path: Path, shape: tuple[int, int], dtype: np.dtype[Any], ids: IdPair, *, force: bool
) -> ScoresWriter:
    """Validate everything, then return the writer of row blocks to an open file."""
    check_target(path, npy_size(shape, dtype.itemsize), force=force)
    prepare = _by_suffix(path, SCORES)
    held = map(checked_ids, ids, shape, ("text", "video"))
    return prepare(Table(path, shape, dtype, *held))


def prepare_run(
    path: Path, shape: tuple[int, int], dtype: np.dtype[Any], ids: IdPair, *, direction: str,
    k: int, force: bool,
) -> RunWriter:  # fmt: skip
    """Validate everything, then return the writer of top-k blocks to an open file.

    ``shape`` is (texts, videos) in both directions.
    """
    if direction not in SIDES:
        raise InputValueError("unknown direction", repr(direction), " or ".join(map(repr, SIDES)))
    sides = SIDES[direction]
    turn = 1 if sides[0] == "text" else -1
    counts = shape[::turn]
    check_target(path, counts[0] * min(k, counts[1]) * dtype.itemsize, force=force)  # scores alone
    prepare = _by_suffix(path, RUNS)
    queries, items = (
        checked_ids(own, count, side) or list(map(str, range(count)))
        for own, count, side in zip(ids[::turn], counts, sides, strict=True)
    )
    return prepare(Run(path, dtype, sides, queries, items))


T = TypeVar("T")


def _by_suffix(path: Path, formats: Mapping[str, T]) -> T:
    suffix = path.suffix.lower()
    if suffix not in formats:
        remedy = f"use one of {', '.join(formats)}"
        raise InputFileError("files of this format cannot be written", str(path), remedy)
    return formats[suffix]


def checked_ids(ids: Sequence[str] | None, count: int, side: str) -> list[str] | None:
    """Return ids as strings that any format can hold, one per item."""
    if ids is None:
        return None
    names = [str(name) for name in ids]
    if len(names) != count:
        problem = f"the number of {side} ids is not that of the {side}s"
        received = f"{len(names)} ids for {count} {side}s"
        raise InputValueError(problem, received, "give one id per item, in the order of the scores")
    for name in names:
        if "\0" in name or name.encode(errors="ignore").decode() != name:
            problem = f"a {side} id is not text that a file can hold"
            raise InputValueError(problem, repr(name), "give another id")
    return names


def _source(scores: Array | Similarity) -> tuple[Similarity, Kind]:
    """Return the scores as a source and the kind of array to write."""
    if isinstance(scores, Similarity):
        return scores, Kind(True, scores.dtype, torch.device("cpu"))
    kind = Kind.of(check_matrix(scores, "scores"))
    dtype = torch.float32 if kind.dtype == torch.bfloat16 else kind.dtype
    source = Dense(scores, dtype=compute_dtype(scores), device=kind.device)
    return source, replace(kind, dtype=dtype, device=torch.device("cpu"))


def _blocks(source: Similarity, kind: Kind) -> Iterator[torch.Tensor]:
    for start, _, block in source.blocks():
        check_finite(block, "scores", start)
        yield kind.narrow(block)
