"""HDF5 and MATLAB's ``.mat``, which is HDF5 from version 7.3 on; SciPy reads older ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import (
    Matrix,
    check_claim,
    check_magic,
    check_memory,
    check_ratio,
    first_bytes,
    library,
    no_false_claims,
    parsing,
    pick,
)
from emcl_plugin.io.out_of_core import gather, row_blocks
from emcl_plugin.io.vectors import Vectors, with_ids

_FLOATS = ("double", "single")  # of MATLAB
MAGIC = b"\x89HDF\r\n\x1a\n"


@contextmanager
def data_sets(path: Path, at: int = 0) -> Iterator[dict[str, Any]]:
    """Open a file, which may begin at byte ``at``, and yield its data sets by path."""
    check_magic(path, MAGIC, "an HDF5 file", at=at)
    h5py = library("h5py", path)
    with parsing(path, "HDF5"), h5py.File(path, "r") as file:
        sets = {}

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("#"):
                sets[name] = item

        file.visititems(visit)  # follows no links to other files
        yield sets


def read_hdf5(path: Path, key: str | None = None, *, at: int = 0) -> Vectors:
    """Return one data set, by its path in the file, and its ids; contiguous ones memory-mapped.

    Data sets that point to other files are refused: a file of numbers must not read others.
    """
    with data_sets(path, at) as sets:

        def ids(name: str) -> object:
            data = sets.get(name)
            return _names(data, path) if data is not None and data.ndim == 1 else None

        wanted = None if key is None else key.strip("/")
        name = pick({name: len(x.shape or ()) for name, x in sets.items()}, wanted, path)
        return with_ids(_numbers(sets[name], path), name, ids, path, "/")


def _numbers(data: Any, path: Path) -> Matrix:
    _check_inside(data, path)
    if data.dtype.kind not in "fiub":
        raise ValueError(f"{data.name} is of {data.dtype}")
    start = data.id.get_offset()
    if start is not None and data.chunks is None and data.size:
        return np.memmap(path, data.dtype, "r", start, data.shape)
    check_ratio(data.nbytes, data.id.get_storage_size(), path)
    if not data.size or not data.shape:
        array: Matrix = data[()]
        return array
    chunk = data.chunks or (1,)
    check_memory(int(np.prod(chunk)) * data.dtype.itemsize, path)
    return gather(row_blocks(data, chunk[0]), path)


def _names(data: Any, path: Path) -> Matrix | None:
    """Return ids, texts or integers; counted as they are read: all may refer to one long text."""
    _check_inside(data, path)
    if data.dtype.kind not in "iuSO":
        return None
    check_ratio(data.nbytes, data.id.get_storage_size(), path)
    if data.dtype.kind != "O":
        array: Matrix = data[()]
        return array
    found: list[object] = []
    size = 0
    for start in range(0, len(data), 256):
        block = data[start : start + 256].tolist()
        if not all(isinstance(name, bytes | str) for name in block):
            return None
        size += sum(map(len, block))
        check_ratio(size, path.stat().st_size, path)
        found += block
    return np.array(found, object)


def _check_inside(data: Any, path: Path) -> None:
    if data.external is not None or data.is_virtual:
        problem, remedy = "the data set lies in another file", "copy it into one file: h5repack"
        raise InputFileError(problem, f"{path}: {data.name}", remedy)


def read_mat(path: Path, key: str | None = None) -> Vectors:
    """Return one variable with the rows and columns that MATLAB shows."""
    start = first_bytes(path, 512 + len(MAGIC))
    if MAGIC in (start[: len(MAGIC)], start[512:]):
        # MATLAB stores columns first, so HDF5 sees transposed arrays
        return Vectors(read_hdf5(path, key, at=512 if start[512:] == MAGIC else 0).array.T)
    from scipy.io import loadmat, whosmat

    with parsing(path, ".mat"), no_false_claims(path):
        shapes = {name: shape for name, shape, kind in whosmat(path) if kind in _FLOATS}
        name = pick({name: len(shape) for name, shape in shapes.items()}, key, path)
        check_claim(8 * math.prod(shapes[name]), path.stat().st_size, path)
        array: Matrix = loadmat(path, variable_names=[name])[name]
        if array.dtype.kind != "f":
            raise ValueError(f"variable {name} holds {array.dtype}")
        return Vectors(array)
