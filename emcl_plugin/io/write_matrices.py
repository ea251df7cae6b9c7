"""Score matrices as files, written in row blocks: one function per format.

Each validates what is known before the computation and returns the writer.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from emcl_plugin.errors import InputValueError
from emcl_plugin.io.members import Matrix, library
from emcl_plugin.io.npy import stream_npy

ScoresWriter: TypeAlias = Callable[[BinaryIO, Iterable[Matrix]], None]

_MOST_METADATA = 100_000_000  # bytes; the limit of the readers of safetensors and Parquet


@dataclass(frozen=True)
class Table:
    """A file of scores without its numbers; ids are None if unknown."""

    path: Path
    shape: tuple[int, int]  # texts, videos
    dtype: np.dtype[Any]
    text_ids: Sequence[str] | None
    video_ids: Sequence[str] | None

    @property
    def ids(self) -> dict[str, Sequence[str]]:
        """The known ids by name."""
        both = {"text_ids": self.text_ids, "video_ids": self.video_ids}
        return {name: ids for name, ids in both.items() if ids is not None}


def _npy(of: Table) -> ScoresWriter:
    return lambda file, blocks: stream_npy(file, of.shape, of.dtype, blocks)


def _npz(of: Table) -> ScoresWriter:
    ids = {name: np.array(known) for name, known in of.ids.items()}

    def write(file: BinaryIO, blocks: Iterable[Matrix]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(zipfile.ZipInfo("scores.npy"), "w", force_zip64=True) as member:
                stream_npy(member, of.shape, of.dtype, blocks)
            for name, array in ids.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    return write


def _safetensors(of: Table) -> ScoresWriter:
    """Length, JSON header, numbers; the library writes only complete tensors."""
    dtype = of.dtype.newbyteorder("<")
    size = of.shape[0] * of.shape[1] * dtype.itemsize
    tensor = {"dtype": f"F{8 * dtype.itemsize}", "shape": of.shape, "data_offsets": (0, size)}
    metadata = {name: _json(ids) for name, ids in of.ids.items()}
    header = _json({"__metadata__": metadata, "scores": tensor}).encode()
    header += b" " * (-len(header) % 8)
    _check_metadata(len(header), of.path)

    def write(file: BinaryIO, blocks: Iterable[Matrix]) -> None:
        file.write(len(header).to_bytes(8, "little") + header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).data)

    return write


def _parquet(of: Table) -> ScoresWriter:
    """One row per text: its id, if known, and its scores; video ids go into the metadata."""
    arrow, parquet = library("pyarrow", of.path), library("pyarrow.parquet", of.path)
    ids = None if of.text_ids is None else arrow.array(of.text_ids, arrow.string())
    vector = arrow.list_(arrow.from_numpy_dtype(of.dtype), of.shape[1])
    fields = [] if ids is None else [("id", ids.type)]
    metadata = {} if of.video_ids is None else {"video_ids": _json(of.video_ids)}
    _check_metadata(sum(2 * len(text.encode()) for text in metadata.values()), of.path)
    schema = arrow.schema([*fields, ("scores", vector)], metadata)

    def write(file: BinaryIO, blocks: Iterable[Matrix]) -> None:
        start, pool = 0, arrow.system_memory_pool()  # other pools keep freed memory
        options = {"use_dictionary": False, "memory_pool": pool}
        with parquet.ParquetWriter(file, schema, **options) as writer:
            for block in blocks:
                values = arrow.array(np.ascontiguousarray(block, dtype=of.dtype).ravel())
                columns = [] if ids is None else [ids.slice(start, len(block))]
                columns.append(arrow.FixedSizeListArray.from_arrays(values, of.shape[1]))
                writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
                start += len(block)

    return write


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _check_metadata(size: int, path: Path) -> None:
    if size > _MOST_METADATA:
        problem = "the ids are too many or too long for a file of this format"
        raise InputValueError(problem, f"{path}: {size} bytes", "name the output .npz")


SCORES: dict[str, Callable[[Table], ScoresWriter]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
