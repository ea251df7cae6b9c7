"""``.fvecs``, the format of nearest-neighbour benchmarks: each vector preceded by its dimension."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emcl_plugin.io.members import first_bytes, only, parsing
from emcl_plugin.io.vectors import Vectors


def read_fvecs(path: Path, key: str | None = None) -> Vectors:
    """Return all vectors, memory-mapped, (n, D) float32."""
    first_bytes(path, 1)
    only(key, path)
    with parsing(path, ".fvecs"):
        words = np.memmap(path, "<i4", "r")
        dimension = int(words[0])
        if dimension < 1 or len(words) % (dimension + 1):
            raise ValueError(f"{4 * len(words)} bytes are no vectors of dimension {dimension}")
        rows = words.reshape(-1, dimension + 1)
        if not (rows[:, 0] == dimension).all():
            row = int((rows[:, 0] != dimension).argmax())
            raise ValueError(f"vector {row} has dimension {rows[row, 0]}, the first {dimension}")
        return Vectors(rows.view("<f4")[:, 1:])
