"""A private temporary folder for copies of remote files, removed when the process ends."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from emcl_plugin.errors import EmclError


@cache
def _folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="emcl-rerank-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def new_folder() -> Path:
    """Return a new empty folder for one source."""
    return Path(tempfile.mkdtemp(dir=_folder()))


@contextmanager
def spoken_of(names: Mapping[str, str]) -> Iterator[None]:
    """Replace the copies' names in errors by the names that the user gave.

    >>> with spoken_of({"/tmp/x/a.npy": "s3://b/a.npy"}):
    ...     raise EmclError("not an .npy file", "/tmp/x/a.npy", "save it as .npy")
    Traceback (most recent call last):
        ...
    emcl_plugin.errors.EmclError: not an .npy file
      received: s3://b/a.npy
      to do:    save it as .npy
    """
    try:
        yield
    except EmclError as error:
        received, remedy = error.received, error.remedy
        for copy, name in names.items():
            received, remedy = received.replace(copy, name), remedy.replace(copy, name)
        raise type(error)(error.problem, received, remedy) from None
