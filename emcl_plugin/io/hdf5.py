"""HDF5: ``.h5``, ``.hdf5`` and MATLAB's files from version 7.3 on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import Matrix, check_claim, check_magic, library, parsing, pick

MAGIC = b"\x89HDF\r\n\x1a\n"


def read_hdf5(path: Path, key: str | None = None, *, at: int = 0) -> Matrix:
    """One data set, by its path in the file; memory-mapped where it lies in one piece. HDF5 begins
    ``at`` this byte.

    Data sets that point to other files are refused: a file of numbers must not read others.
    """
    check_magic(path, MAGIC, "an HDF5 file", at=at)
    h5py = library("h5py", path)
    with parsing(path, "HDF5"), h5py.File(path, "r") as file:
        sets = {}

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("#"):
                sets[name] = item

        file.visititems(visit)  # does not follow links to other files
        wanted = None if key is None else key.strip("/")
        data = sets[pick({name: len(x.shape or ()) for name, x in sets.items()}, wanted, path)]
        if data.external is not None or data.is_virtual:
            raise InputFileError(
                "the data set lies in another file",
                f"{path}: {data.name}",
                "copy it into one file: h5repack, or np.save",
            )
        if data.dtype.kind not in "fiub":
            raise ValueError(f"{data.name} is of {data.dtype}")
        start = data.id.get_offset()
        if start is not None and data.chunks is None and data.size:
            return np.memmap(path, data.dtype, "r", start, data.shape)
        check_claim(data.size * data.dtype.itemsize, data.id.get_storage_size(), path)
        array: Matrix = data[()]
        return array
