"""MATLAB's ``.mat``: SciPy reads versions up to 7.2, h5py reads 7.3 (HDF5)."""

from __future__ import annotations

import math
from pathlib import Path

from emcl_plugin.io.hdf5 import MAGIC, read_hdf5
from emcl_plugin.io.members import Matrix, check_claim, first_bytes, no_false_claims, parsing, pick
from emcl_plugin.io.vectors import Vectors

_NUMBERS = ("double", "single")


def read_mat(path: Path, key: str | None = None) -> Vectors:
    """Return one variable with the rows and columns that MATLAB shows."""
    start = first_bytes(path, 512 + len(MAGIC))
    if MAGIC in (start[: len(MAGIC)], start[512:]):
        # MATLAB stores columns first, so HDF5 sees transposed arrays
        return Vectors(read_hdf5(path, key, at=512 if start[512:] == MAGIC else 0).array.T)
    from scipy.io import loadmat, whosmat

    with parsing(path, ".mat"), no_false_claims(path):
        shapes = {name: shape for name, shape, kind in whosmat(path) if kind in _NUMBERS}
        name = pick({name: len(shape) for name, shape in shapes.items()}, key, path)
        check_claim(8 * math.prod(shapes[name]), path.stat().st_size, path)
        array: Matrix = loadmat(path, variable_names=[name])[name]
        if array.dtype.kind != "f":
            raise ValueError(f"variable {name} holds {array.dtype}")
        return Vectors(array)
