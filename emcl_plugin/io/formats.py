"""Read a matrix from a file of any supported format, chosen by suffix.

``features.npz:text`` is the array "text" of an archive, ``run.h5:group/data`` a data set. A folder
or a pattern such as ``'img_emb/*.npy'`` is the concatenation of its files in natural order (2
before 10); file names in a folder may differ by numbers only. ``-`` is standard input, and
``s3://bucket/features.npy`` an address that fsspec resolves.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.fvecs import read_fvecs
from emcl_plugin.io.hdf5 import read_hdf5, read_mat
from emcl_plugin.io.members import Matrix, first_bytes, only
from emcl_plugin.io.npy import MAGIC, read_npy, read_npz
from emcl_plugin.io.parquet import read_arrow, read_parquet
from emcl_plugin.io.parts import parts_of, stacked
from emcl_plugin.io.pickled import holds_pickle, read_pickle_array, refuse_pickle
from emcl_plugin.io.safetensor import read_safetensors
from emcl_plugin.io.seen import now_read
from emcl_plugin.io.sources import STDIN, copied, is_address
from emcl_plugin.io.text_table import read_csv, read_jsonl
from emcl_plugin.io.torch_file import read_torch
from emcl_plugin.io.vectors import Reader, Vectors

__all__ = ["READERS", "Vectors", "read_array", "read_vectors", "split"]


def _npy(path: Path, key: str | None = None) -> Vectors:
    array = read_npy(path)
    only(key, path)
    return Vectors(array)


READERS: dict[str, Reader] = {
    ".npy": _npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".pt": read_torch,
    ".pth": read_torch,
    ".parquet": read_parquet,
    ".feather": read_arrow,
    ".arrow": read_arrow,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".mat": read_mat,
    ".fvecs": read_fvecs,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".pkl": read_pickle_array,
    ".pickle": read_pickle_array,
}


def read_array(source: str | Path, *, trust_pickle: bool = False) -> Matrix:
    """Return the matrix of a source: :func:`read_vectors` without ids.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part in (2, 10, 1):
    ...         np.save(f"{folder}/{part}.npy", np.full((1, 2), float(part)))
    ...     read_array(folder)[:, 0]
    array([ 1.,  2., 10.])
    """
    return read_vectors(source, trust_pickle=trust_pickle).array


def read_vectors(source: str | Path, *, trust_pickle: bool = False) -> Vectors:
    """Return the matrix of a file, or of several files concatenated, and the ids stored with it.

    Parameters
    ----------
    source : str or Path
        A file, ``file:name``, a folder, a pattern, ``-`` for standard input, or an address.
        ``.npy``, ``.fvecs`` and contiguous HDF5 are memory-mapped. Everything else is read into
        memory; several files, chunked HDF5, Parquet and Arrow go to a temporary file if they exceed
        a quarter of it.
    trust_pickle : bool, default False
        Also read pickles, restricted to arrays, containers, texts and numbers.

    Raises
    ------
    InputFileError
        The source is missing, of an unknown format, damaged, ambiguous, or could run code.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/run.npz", text=np.ones((2, 3)), text_ids=["a", "b"])
    ...     read_vectors(f"{folder}/run.npz:text").ids
    ('a', 'b')
    """
    where, key = split(source)

    def read(path: Path) -> Vectors:
        return _one(path, key, trust_pickle=trust_pickle)

    if where == STDIN or is_address(where):
        with copied(where, READERS) as (files, several):
            return stacked(files, read, where) if several else read(files[0])
    path = Path(where)
    parts = parts_of(path, READERS)
    return read(path) if parts is None else stacked(parts, read, path)


def split(source: str | Path) -> tuple[str, str | None]:
    """Split a source into its file and the name of an array in it.

    >>> split("run.h5:group/data")
    ('run.h5', 'group/data')
    """
    text = str(source)
    if not is_address(text) and os.path.exists(text):
        return text, None
    ends = "|".join(map(re.escape, READERS))
    found = re.fullmatch(rf"(-|.*(?:{ends})):(.*)", text, re.I | re.S)
    return (found[1], found[2]) if found else (text, None)


def _one(path: Path, key: str | None, *, trust_pickle: bool) -> Vectors:
    now_read(path)
    suffix = path.suffix.lower()
    reader = READERS.get(suffix)
    if reader is None and first_bytes(path, len(MAGIC)) != MAGIC:
        remedy = f"use one of {', '.join(READERS)}"
        raise InputFileError("unknown file format", str(path), remedy)
    if reader is None or reader is _npy:
        reader = read_pickle_array if holds_pickle(path) else _npy
    if reader is read_pickle_array and not trust_pickle:
        refuse_pickle(path)
    return reader(path, key)
