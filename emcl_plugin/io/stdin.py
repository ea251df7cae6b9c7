"""Standard input as a file: its format is recognised by its first bytes, then it is copied."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.scratch import new_folder, spoken_of

STDIN = "-"

_BEGINNINGS = {b"\x93NUMPY": ".npy", b"PK": ".npz", b"PAR1": ".parquet", b"\x80": ".pkl"}


@contextmanager
def spooled() -> Iterator[Path]:
    """Yield a copy of standard input with the suffix of its format.

    Raises
    ------
    InputFileError
        Standard input is empty or of an unknown format, or the temporary folder's disk is full.
    """
    stream = sys.stdin.buffer
    start = b"" if stream.isatty() else stream.read(9)
    suffix = next((name for magic, name in _BEGINNINGS.items() if start.startswith(magic)), None)
    if start[8:] == b"{":
        suffix = ".safetensors"
    if suffix is None:
        problem = "standard input has an unknown format" if start else "standard input is empty"
        remedy = "pipe .npy, .npz, .safetensors, .parquet or a pickle into it, once"
        raise InputFileError(problem, f"-, which starts with {start!r}", remedy)
    copy = new_folder() / f"stdin{suffix}"
    try:
        with copy.open("wb") as file:
            file.write(start)
            shutil.copyfileobj(stream, file)
    except OSError as error:
        problem = "standard input cannot be copied to the disk"
        received = f"{copy.parent}: {error.strerror or error}"
        raise InputFileError(problem, received, "set TMPDIR to a folder with more space") from None
    with spoken_of({str(copy): STDIN, copy.name: STDIN}):
        yield copy
