"""Standard input as a file: told apart by how it begins, and copied to where it can be read."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.scratch import new_folder, spoken_of

STDIN = "-"

_BEGINNINGS = {
    b"\x93NUMPY": ".npy",
    b"PK": ".npz",
    b"PAR1": ".parquet",
    b"\x80": ".pkl",
}


@contextmanager
def spooled() -> Iterator[Path]:
    """A copy of standard input, with the suffix of what it is.

    Raises
    ------
    InputFileError
        Nothing comes, it is of no known kind, or the disk of temporary files is full.
    """
    stream = sys.stdin.buffer
    start = b"" if stream.isatty() else stream.read(9)
    suffix = next((name for magic, name in _BEGINNINGS.items() if start.startswith(magic)), None)
    if start[8:] == b"{":
        suffix = ".safetensors"
    if suffix is None:
        raise InputFileError(
            "standard input is of no known kind" if start else "nothing comes on standard input",
            f"-, which starts with {start!r}",
            "pipe .npy, .npz, .safetensors, .parquet or a pickle into it, once",
        )
    copy = new_folder() / f"stdin{suffix}"
    try:
        with copy.open("wb") as file:
            file.write(start)
            shutil.copyfileobj(stream, file)
    except OSError as error:
        raise InputFileError(
            "standard input cannot be copied to the disk",
            f"{copy.parent}: {error.strerror or error}",
            "set TMPDIR to a folder with more room",
        ) from None
    with spoken_of({str(copy): STDIN, copy.name: STDIN}):
        yield copy
