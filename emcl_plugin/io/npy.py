"""NumPy's ``.npy``: memory-mapped reading, streaming writing."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.atomic import atomic_writer
from emcl_plugin.io.members import first_bytes, parsing

MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
"""Bytes, as NumPy's own limit, which it looks at only once it has read all of it."""


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """Open an ``.npy`` file memory-mapped; nothing in it is ever executed.

    Raises
    ------
    InputFileError
        Missing, a folder, unreadable, not ``.npy``, truncated, or a pickle.
    """
    magic = first_bytes(path, len(MAGIC))
    if magic[:2] == b"PK":
        raise InputFileError(
            "the file is an archive (.npz), not one array",
            str(path),
            "rename it to end in .npz",
        )
    if magic != MAGIC:
        pickled = magic[:1] == b"\x80"
        raise InputFileError(
            "the file is a pickle, which could run any code" if pickled else "not an .npy file",
            f"{path}, which starts with {magic!r}",
            "save the array with np.save in .npy form",
        )
    with parsing(path, ".npy"):
        with path.open("rb") as file:
            shape, dtype = read_header(file)
        check_plain(dtype, str(path))
        # an empty array cannot be memory-mapped
        return np.empty(shape, dtype) if 0 in shape else np.lib.format.open_memmap(path, mode="r")


def read_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an ``.npy`` file, or of one in an archive, read up to its numbers."""
    try:
        shape, dtype = _header(file)
    except MemoryError:  # brackets too deep for Python's parser, or a member packed for gigabytes
        raise ValueError("its header is no description of an array") from None
    if min(shape, default=0) < 0 or not dtype.itemsize:  # NumPy would divide by zero
        raise ValueError(f"an array of shape {shape} and dtype {dtype}")
    return shape, dtype


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    formats = np.lib.format
    read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
    size = file.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    shape, _, dtype = read(io.BytesIO(size + file.read(length)))
    return shape, dtype


def check_plain(dtype: np.dtype[Any], where: str) -> None:
    """Refuse arrays of Python objects, which are pickles."""
    if dtype.hasobject:
        raise InputFileError(
            "the file holds pickled Python objects, which could run any code",
            where,
            'save plain numbers: np.save(path, np.stack(list(x)).astype("float32"))',
        )


def npy_size(shape: tuple[int, int], itemsize: int) -> int:
    """Bytes of an ``.npy`` file of this shape."""
    return 128 + shape[0] * shape[1] * itemsize


def write_npy(
    path: Path,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    blocks: Iterable[np.ndarray[Any, Any]],
    *,
    force: bool = False,
) -> None:
    """Write row blocks to an ``.npy`` file, atomically and in bounded memory."""
    with atomic_writer(path, force=force) as file:
        stream_npy(file, shape, dtype, blocks)


def stream_npy(
    file: Any,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    blocks: Iterable[np.ndarray[Any, Any]],
) -> None:
    """Write row blocks as ``.npy`` to an open file, or to one in an archive."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype=dtype).data)
