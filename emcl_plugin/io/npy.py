"""NumPy's ``.npy``, mapped and streamed, and ``.npz``, a zip archive of such files."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.atomic import atomic_writer
from emcl_plugin.io.members import Matrix, check_claim, check_magic, first_bytes, parsing, pick
from emcl_plugin.io.vectors import Vectors, with_ids

MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
"""Bytes; NumPy has the same limit but checks it after reading the whole header."""


def read_npy(path: Path) -> Matrix:
    """Open an ``.npy`` file memory-mapped; refuse pickles."""
    magic = first_bytes(path, len(MAGIC))
    if magic[:2] == b"PK":
        problem = "the file is an archive (.npz), not one array"
        raise InputFileError(problem, str(path), "rename it to end in .npz")
    check_magic(path, MAGIC, "an .npy file")
    with parsing(path, ".npy"):
        with path.open("rb") as file:
            shape, dtype = read_header(file)
        check_plain(dtype, str(path))
        # empty arrays cannot be memory-mapped
        return np.empty(shape, dtype) if 0 in shape else np.lib.format.open_memmap(path, mode="r")


def read_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an open ``.npy`` file, which is then positioned at its numbers."""
    try:
        shape, dtype = _header(file)
    except MemoryError:  # too deeply nested for Python's parser, or a member packed for gigabytes
        raise ValueError("its header does not describe an array") from None
    if min(shape, default=0) < 0 or not dtype.itemsize:  # NumPy would divide by zero
        raise ValueError(f"an array of shape {shape} and dtype {dtype}")
    return shape, dtype


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    formats = np.lib.format
    first = formats.read_magic(file) == (1, 0)
    read = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
    size = file.read(2 if first else 4)
    length = int.from_bytes(size, "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    shape, _, dtype = read(io.BytesIO(size + file.read(length)))
    return shape, dtype


def read_npz(path: Path, key: str | None = None) -> Vectors:
    """Return one array of the archive and its ids; pickled objects are never loaded."""
    check_magic(path, b"PK", "an .npz archive")
    with parsing(path, ".npz"), zipfile.ZipFile(path) as archive:
        headers = {}
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as file:
                    headers[info.filename[:-4]] = (info, *read_header(file), file.tell())

        def read(name: str) -> Matrix:
            info, shape, dtype, header = headers[name]
            check_plain(dtype, f"{path}: {name}")
            size = math.prod(shape) * dtype.itemsize
            check_claim(size, min(info.compress_size, path.stat().st_size), path)
            if size + header != info.file_size:  # before anything is allocated
                raise ValueError(f"{name}: {shape} of {dtype} in {info.file_size} bytes")
            with archive.open(info) as file:
                array: Matrix = np.lib.format.read_array(file, allow_pickle=False)
            return array

        def names(name: str) -> Matrix | None:
            """Return a one-dimensional array of ids, never a pickle."""
            found = headers.get(name)
            return read(name) if found and len(found[1]) == 1 and found[2].kind in "iuUS" else None

        name = pick({name: len(header[1]) for name, header in headers.items()}, key, path)
        return with_ids(read(name), name, names, path)


def check_plain(dtype: np.dtype[Any], where: str) -> None:
    """Refuse arrays of Python objects, which are pickles."""
    if dtype.hasobject:
        problem = "the file holds pickled Python objects, which could run any code"
        remedy = 'save plain numbers: np.save(path, np.stack(list(x)).astype("float32"))'
        raise InputFileError(problem, where, remedy)


def npy_size(shape: tuple[int, int], itemsize: int) -> int:
    """Return the size in bytes of an ``.npy`` file of this shape."""
    return 128 + shape[0] * shape[1] * itemsize


def write_npy(
    path: Path,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    blocks: Iterable[Matrix],
    *,
    force: bool = False,
) -> None:
    """Write row blocks to an ``.npy`` file, atomically and in bounded memory."""
    with atomic_writer(path, force=force) as file:
        stream_npy(file, shape, dtype, blocks)


def stream_npy(
    file: Any, shape: tuple[int, int], dtype: np.dtype[Any], blocks: Iterable[Matrix]
) -> None:
    """Write row blocks in ``.npy`` format to an open file or archive member."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype=dtype).data)
