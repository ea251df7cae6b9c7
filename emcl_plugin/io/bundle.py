"""All arrays of a file or folder by name, for the adapters of known retrievers."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.formats import READERS, read_vectors
from emcl_plugin.io.hdf5 import data_sets
from emcl_plugin.io.members import check_magic, check_ratio, parsing
from emcl_plugin.io.parts import check_link
from emcl_plugin.io.pickled import holds_pickle, refuse_pickle, unpickle
from emcl_plugin.io.safetensor import as_numpy, opened
from emcl_plugin.io.sources import STDIN, copied, is_address

KINDS = (".npz", ".npy", ".safetensors", ".pt", ".pth", ".h5", ".hdf5", ".pkl", ".pickle")

ORDERED = (".npz", ".npy", ".pt", ".pth", ".pkl", ".pickle")
"""Formats that keep the order in which arrays were written; the others sort them by name."""


def read_bundle(source: str | Path, *, trust_pickle: bool = False) -> dict[str, Any]:
    """Return all arrays by name; those called ``a.b`` or ``a/b`` are in a dictionary ``a``.

    The source is an archive, a file of one array (whose name is ``""``), a folder whose files name
    the arrays, ``-`` for standard input, or an address. Arrays, lists, numbers and texts come in
    the order of the file, which for :data:`ORDERED` formats is the writer's.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/run.npz", **{"sims": np.ones(2), "text_embds.rgb": np.ones(3)})
    ...     read_bundle(f"{folder}/run.npz")
    {'sims': array([1., 1.]), 'text_embds': {'rgb': array([1., 1., 1.])}}
    """
    where = str(source)
    if where == STDIN or is_address(where):
        with copied(where, KINDS) as (files, several):
            if several:
                problem = "an address of several files gives no arrays by name"
                raise InputFileError(problem, where, "name one file")
            return _read(files[0], trust_pickle)
    return _read(Path(source), trust_pickle)


def _read(path: Path, trust_pickle: bool) -> dict[str, Any]:
    if os.path.isdir(path):
        return _of_folder(path, trust_pickle, home=path.resolve())
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle") or (suffix == ".npy" and holds_pickle(path)):
        if not trust_pickle:
            refuse_pickle(path)
        return _named(unpickle(path), path)
    if suffix in (".pt", ".pth"):
        from emcl_plugin.io.torch_file import load_tensors

        return _named(load_tensors(path), path)
    if suffix == ".npy":
        return {"": read_vectors(path).array}
    if suffix not in KINDS:
        remedy = f"use one of {', '.join(KINDS)}"
        raise InputFileError("files of this kind hold no arrays by name", str(path), remedy)
    return _nested({name: READERS[suffix](path, name).array for name in _names(path, suffix)})


def _of_folder(folder: Path, trust_pickle: bool, home: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        check_link(path, home)
        if path.is_symlink() and path.is_dir():
            problem = "the folder links to a folder inside, which may contain the link itself"
            received = f"{path} -> {path.resolve()}"
            raise InputFileError(problem, received, "copy that folder, or remove the link")
        if path.is_dir():
            found[path.name] = _of_folder(path, trust_pickle, home)
        elif path.suffix.lower() in KINDS or path.suffix.lower() in READERS:
            found[path.stem] = _one(path, trust_pickle)
    if not found:
        remedy = f"use one of {', '.join(KINDS)}"
        raise InputFileError("there are no files of a known kind", str(folder), remedy)
    return found


def _one(path: Path, trust_pickle: bool) -> Any:
    """Return the array of a file in a folder, or all of its arrays by name."""
    if path.suffix.lower() not in KINDS:
        return read_vectors(path, trust_pickle=trust_pickle).array
    found = _read(path, trust_pickle)
    return found[""] if list(found) == [""] else found


def _names(path: Path, suffix: str) -> list[str]:
    if suffix == ".npz":
        check_magic(path, b"PK", "an .npz archive")
        with parsing(path, ".npz"), zipfile.ZipFile(path) as archive:
            return [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
    with opened(path) if suffix == ".safetensors" else data_sets(path) as held:
        return list(held.keys())


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Put ``a.b`` and ``a/b`` as b into a dictionary a."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.replace("/", ".").split(".")
        place = found
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                break
        if not isinstance(place, dict) or isinstance(place.get(last), dict):
            problem = "a name stands for both an array and a group of arrays"
            raise InputFileError(problem, name, "rename one of them")
        place[last] = value
    return found


def _named(content: Any, path: Path) -> dict[str, Any]:
    with parsing(path, "pickled"):
        plain, _ = _Plain(path).count(content)
    return _nested(plain) if isinstance(plain, dict) else {"": plain}


class _Plain:
    """Converts tensors and unpickled arrays to NumPy, also inside dictionaries and lists.

    An object that occurs repeatedly is converted once and counted each time: a pickle can refer to
    one array a million times.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._most = path, path.stat().st_size
        self._made: dict[int, tuple[Any, Any, int]] = {}  # by id, with what must keep that id

    def count(self, content: Any) -> tuple[Any, int]:
        """Return the converted content and the bytes of all arrays in it."""
        if id(content) not in self._made:
            made, size = self._make(content)
            check_ratio(size, self._most, self._path)
            self._made[id(content)] = content, made, size
        return self._made[id(content)][1:]

    def _make(self, content: Any) -> tuple[Any, int]:
        import torch

        if isinstance(content, torch.Tensor):
            size = content.numel() * content.itemsize
            check_ratio(size, self._most, self._path)
            return as_numpy(content) if content.ndim else content.item(), size
        if isinstance(content, np.ndarray):
            if content.dtype == object:
                return self.count(content.item() if content.ndim == 0 else content.tolist())
            return content.view(np.ndarray), content.nbytes
        if isinstance(content, Mapping):
            names = (k.decode() if isinstance(k, bytes) else str(k) for k in content)
            made, size = self._make(list(content.values()))
            return dict(zip(names, made, strict=True)), size
        if isinstance(content, list | tuple):
            parts = [self.count(x) for x in content]
            return type(content)(part for part, _ in parts), sum(size for _, size in parts)
        return content, 8
