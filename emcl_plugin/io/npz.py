"""NumPy's ``.npz``: a zip archive of ``.npy`` files."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from emcl_plugin.io.members import Matrix, check_claim, check_magic, parsing, pick
from emcl_plugin.io.npy import check_plain, read_header
from emcl_plugin.io.vectors import Vectors, with_ids


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
