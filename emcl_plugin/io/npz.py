"""NumPy's ``.npz``: a zip archive of ``.npy`` files."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import Matrix, check_claim, check_magic, parsing, pick


def read_npz(path: Path, key: str | None = None) -> Matrix:
    """One array of the archive; pickled objects in it are never loaded."""
    check_magic(path, b"PK", "an .npz archive")
    with parsing(path, ".npz"), zipfile.ZipFile(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        dimensions = {}
        for name, info in members.items():
            with archive.open(info) as file:
                dimensions[name] = len(_header(file)[0])
        info = members[pick(dimensions, key, path)]
        with archive.open(info) as file:
            shape, dtype = _header(file)
            if dtype.hasobject:
                raise InputFileError(
                    "the array holds pickled Python objects, which could run any code",
                    f"{path}: {info.filename}",
                    'save plain numbers: np.stack(list(x)).astype("float32")',
                )
            size = math.prod(shape) * dtype.itemsize
            check_claim(size, info.compress_size, path)
            if size + file.tell() != info.file_size:  # before anything is allocated
                raise ValueError(f"{info.filename}: {shape} of {dtype} is not {info.file_size}")
        with archive.open(info) as file:
            array: Matrix = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    formats = np.lib.format
    read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype
