"""NumPy's ``.npy``: memory-mapped reading, streaming writing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.atomic import atomic_writer


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """Open an ``.npy`` file memory-mapped; nothing in it is ever executed.

    Raises
    ------
    InputFileError
        Missing, a folder, unreadable, not ``.npy``, truncated, or a pickle.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(6)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise InputFileError(
            "the file does not exist" if missing else "the file cannot be read",
            str(path) if missing else f"{path}: {error.strerror}",
            "check the path" if missing else "name a readable .npy file",
        ) from None
    if magic[:2] == b"PK":
        raise InputFileError(
            "the file is an archive (.npz), not one array",
            str(path),
            "save the array alone: np.save('text.npy', np.load('file.npz')['text'])",
        )
    if magic != b"\x93NUMPY":
        pickled = magic[:1] == b"\x80"
        raise InputFileError(
            "the file is a pickle, which could run any code" if pickled else "not an .npy file",
            f"{path}, which starts with {magic!r}",
            "save the array with np.save in .npy form",
        )
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a header is Python's syntax: NumPy raises nearly anything
        text = " ".join(str(error).split())[:200]
        if "object" in text.lower():
            raise InputFileError(
                "the file holds pickled Python objects, which could run any code",
                str(path),
                'save plain numbers: np.save(path, np.stack(list(x)).astype("float32"))',
            ) from None
        with path.open("rb") as file:
            empty = _is_empty(file)
        if empty is not None:
            return empty
        raise InputFileError(
            "the .npy file is damaged or cut short", f"{path}: {text}", "save or copy it again"
        ) from None
    return array


def _is_empty(file: Any) -> np.ndarray[Any, Any] | None:
    """An empty array, which cannot be memory-mapped, or None."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
        shape, _, dtype = (read or np.lib.format.read_array_header_2_0)(file)
        return np.empty(shape, dtype) if 0 in shape else None
    except Exception:
        return None


def npy_size(shape: tuple[int, int], itemsize: int) -> int:
    """Bytes of an ``.npy`` file of this shape."""
    return 128 + shape[0] * shape[1] * itemsize


def write_npy(
    path: Path,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    blocks: Iterable[np.ndarray[Any, Any]],
    *,
    force: bool = False,
) -> None:
    """Write row blocks to an ``.npy`` file, atomically and in bounded memory."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with atomic_writer(path, force=force) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).data)
