"""Remote files: addresses that fsspec resolves are copied, then read as local files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from emcl_plugin.errors import EmclError, InputFileError
from emcl_plugin.io.members import library
from emcl_plugin.io.parts import check_alike, numbered
from emcl_plugin.io.scratch import new_folder, spoken_of


def is_address(text: str) -> bool:
    """Return whether a text is an address rather than a path.

    >>> is_address("s3://bucket/features.npy"), is_address("features.npz:text")
    (True, False)
    """
    return re.match(r"[a-z0-9+.-]+://", text) is not None


@contextmanager
def fetched(address: str, kinds: Collection[str]) -> Iterator[tuple[list[Path], bool]]:
    """Copy the file at an address, or the files of a pattern or folder there.

    Yields
    ------
    (list of Path, bool)
        The copies, and whether the address has a ``*`` or no suffix and so means several files.

    Raises
    ------
    InputFileError
        fsspec or its backend for this protocol is missing, or the file cannot be fetched.
    """
    fsspec = library("fsspec", Path(address))
    home = new_folder()
    names = {}
    try:
        system, path = fsspec.core.url_to_fs(address)
        several = "*" in path or not PurePosixPath(urlsplit(address).path).suffix
        for remote in _listed(system, path, address, kinds) if several else [path]:
            inside = PurePosixPath(urlsplit(remote).path).parts
            copy = home.joinpath(*(part for part in inside if part not in ("/", ".", "..")))
            copy.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(remote, str(copy))
            names[str(copy)] = system.unstrip_protocol(remote) if several else address
    except EmclError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        remedy = "check the address, your access to it, and the space in TMPDIR"
        if isinstance(error, ImportError):
            remedy = "pip install what the error names"
        raise InputFileError("the file cannot be fetched", f"{address}: {text}", remedy) from None
    with spoken_of(names):
        yield [Path(copy) for copy in names], several


def _listed(system: Any, path: str, address: str, kinds: Collection[str]) -> list[str]:
    """Return the files of a remote pattern or folder in natural order."""
    pattern = "*" in path
    found = system.glob(path) if pattern else system.ls(path, detail=False)
    names = {Path(name): name for name in found if not PurePosixPath(name).name.startswith(".")}
    parts = list(names) if pattern else numbered(list(names), address, kinds)
    return [names[file] for file in check_alike(parts, address, kinds)]
