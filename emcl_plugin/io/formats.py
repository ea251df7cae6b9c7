"""A matrix from whatever file holds it: by suffix, with the name of an array behind a colon.

``features.npz:text`` is the array "text" of an archive, ``run.h5:group/data`` a data set; a folder
or a pattern such as ``'img_emb/*.npy'`` is its files one after another, in natural order (2 before
10); the names in a folder may differ by numbers only.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.fvecs import read_fvecs
from emcl_plugin.io.hdf5 import read_hdf5
from emcl_plugin.io.matlab import read_mat
from emcl_plugin.io.members import Matrix, Reader, check_memory, first_bytes, only
from emcl_plugin.io.npy import MAGIC, read_npy
from emcl_plugin.io.npz import read_npz
from emcl_plugin.io.parquet import read_arrow, read_parquet
from emcl_plugin.io.safetensor import read_safetensors
from emcl_plugin.io.torch_file import read_torch


def _npy(path: Path, key: str | None = None) -> Matrix:
    array = read_npy(path)
    only(key, path)
    return array


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
}


def read_array(source: str | Path) -> Matrix:
    """The matrix of a file, or of several, one below the other.

    Parameters
    ----------
    source : str or Path
        A file, ``file:name``, a folder, or a pattern. ``.npy``, ``.fvecs`` and HDF5 in one piece
        are memory-mapped, everything else, and several files, are read into memory.

    Returns
    -------
    (n, D) array

    Raises
    ------
    InputFileError
        Nothing there, of no known kind, damaged, ambiguous, or something that could run code.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part in (2, 10, 1):
    ...         np.save(f"{folder}/{part}.npy", np.full((1, 2), float(part)))
    ...     read_array(folder)[:, 0]
    array([ 1.,  2., 10.])
    """
    path, key = split(source)
    if not path.exists():
        return _stacked(_matching(path), key, path) if _is_pattern(path) else _one(path, key)
    return _stacked(_in_folder(path), key, path) if path.is_dir() else _one(path, key)


def split(source: str | Path) -> tuple[Path, str | None]:
    """A path, and the name of an array in it.

    >>> split("run.h5:group/data")
    (PosixPath('run.h5'), 'group/data')
    """
    text = str(source)
    if Path(text).exists():
        return Path(text), None
    found = re.fullmatch(rf"(.*(?:{'|'.join(map(re.escape, READERS))})):(.*)", text, re.I | re.S)
    return (Path(found[1]), found[2]) if found else (Path(text), None)


def _one(path: Path, key: str | None) -> Matrix:
    reader = READERS.get(path.suffix.lower())
    if reader is None and first_bytes(path, len(MAGIC)) != MAGIC:
        raise InputFileError(
            "files of this kind are not known", str(path), f"one of {', '.join(READERS)}"
        )
    return (reader or _npy)(path, key)


# --- several files ------------------------------------------------------------------------------


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path))


def _matching(path: Path) -> list[Path]:
    return [Path(name) for name in glob.glob(str(path), recursive=True)]


def _in_folder(path: Path) -> list[Path]:
    try:
        inside = [file for file in path.iterdir() if not file.name.startswith(".")]
    except OSError as error:
        raise InputFileError(
            "the folder cannot be read", f"{path}: {error.strerror}", "check its permissions"
        ) from None
    home = path.resolve()
    for file in inside:
        if file.is_symlink() and not file.resolve().is_relative_to(home):
            raise InputFileError(
                "the folder links to a file outside",
                f"{file} -> {file.resolve()}",
                "copy that file into the folder, or name the files themselves",
            )
    found = [file for file in inside if file.suffix.lower() in READERS]
    names = sorted({re.sub("[0-9]+", "#", file.stem) for file in found})
    if len(names) > 1:  # such as text.npy and video.npy
        raise InputFileError(
            "the files of the folder are not numbered parts of one",
            f"{path}: {', '.join(sorted(file.name for file in found)[:5])}",
            f"name one of them, or say that they are: '{path}/*{found[0].suffix}'",
        )
    return found


def natural(path: Path) -> list[tuple[int, str]]:
    """Sorts names as people count: 2 before 10.

    >>> sorted(map(Path, ("b10", "b2", "a")), key=natural)
    [PosixPath('a'), PosixPath('b2'), PosixPath('b10')]
    """
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]


def _stacked(files: list[Path], key: str | None, where: Path) -> Matrix:
    if not files:
        raise InputFileError(
            "there are no files of a known kind", str(where), f"one of {', '.join(READERS)}"
        )
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) > 1:
        raise InputFileError(
            "the files are of several kinds",
            f"{where}: {', '.join(kinds)}",
            f"name one kind: '{where}/*{kinds[0]}'",
        )
    files.sort(key=natural)
    parts = [_one(file, key) for file in files]
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        if part.ndim != 2 or part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
            raise InputFileError(
                "the files do not fit below one another",
                f"{file}: {part.shape} {part.dtype}, {files[0].name}: {first.shape} {first.dtype}",
                "each holds (n, D) vectors of one D and one dtype",
            )
    if len(parts) == 1:
        return first
    check_memory(sum(part.nbytes for part in parts), where)
    whole: Matrix = np.concatenate(parts)
    return whole
