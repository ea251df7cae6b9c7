"""NumPy's ``.npz``: a zip archive of ``.npy`` files."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from emcl_plugin.io.members import Matrix, check_claim, check_magic, parsing, pick
from emcl_plugin.io.npy import check_plain, read_header


def read_npz(path: Path, key: str | None = None) -> Matrix:
    """One array of the archive; pickled objects in it are never loaded."""
    check_magic(path, b"PK", "an .npz archive")
    with parsing(path, ".npz"), zipfile.ZipFile(path) as archive:
        members = {}
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as file:
                    members[info.filename[:-4]] = (info, *read_header(file), file.tell())
        name = pick({name: len(member[1]) for name, member in members.items()}, key, path)
        info, shape, dtype, header = members[name]
        check_plain(dtype, f"{path}: {name}")
        size = math.prod(shape) * dtype.itemsize
        check_claim(size, info.compress_size, path)
        if size + header != info.file_size:  # before anything is allocated
            raise ValueError(f"{name}: {shape} of {dtype} in {info.file_size} bytes")
        with archive.open(info) as file:
            array: Matrix = np.lib.format.read_array(file, allow_pickle=False)
    return array
