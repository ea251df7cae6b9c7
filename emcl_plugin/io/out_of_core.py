"""Concatenate row blocks in memory, or out of core in a temporary file if they are large."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from emcl_plugin._internal.sizes import physical_memory
from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import Matrix

BLOCK = 32 << 20
"""Bytes read and written at a time."""


def row_blocks(array: Matrix, chunk: int = 1) -> Iterator[Matrix]:
    """Yield blocks of rows of an array or HDF5 data set, in multiples of ``chunk`` rows.

    >>> [len(rows) for rows in row_blocks(np.ones((5, 1 << 21)))]
    [2, 2, 1]
    """
    row = max(array.nbytes // max(len(array), 1), 1)
    step = max(BLOCK // (row * chunk), 1) * chunk
    for start in range(0, len(array), step):
        yield array[start : start + step]


def gather(blocks: Iterable[Matrix], where: object) -> Matrix:
    """Concatenate (n, ...) blocks of rows of one dtype; errors name the source ``where``.

    Results above a quarter of the machine's memory are read-only in an unlinked temporary file,
    which the system removes however the process ends.

    >>> gather([np.zeros((1, 2)), np.ones((2, 2))], "here")[:, 0]
    array([0., 1., 1.])
    """
    kept: list[Matrix] = []
    size = 0
    with ExitStack() as files:
        file = None
        for block in blocks:
            size += block.nbytes
            kept.append(block)
            if file is None and size > physical_memory() // 4:
                file = files.enter_context(tempfile.TemporaryFile(buffering=0))
            if file is not None:
                for rows in kept:
                    _write(file, rows, where)
                kept = [block[:0]]
        if file is None:
            return kept[0] if len(kept) == 1 else np.concatenate(kept)
        pages: Any = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    dtype, (_, *shape) = kept[0].dtype, kept[0].shape
    return np.ndarray((size // (dtype.itemsize * math.prod(shape)), *shape), dtype, pages)


def _write(file: Any, rows: Matrix, where: object) -> None:
    try:
        left = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        problem = "the array fits neither into a quarter of the memory nor on the disk"
        received = f"{where}, {tempfile.gettempdir()}: {error.strerror or error}"
        raise InputFileError(problem, received, "set TMPDIR to a folder with more space") from None
