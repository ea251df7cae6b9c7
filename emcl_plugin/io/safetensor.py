"""``.safetensors``: named tensors without code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emcl_plugin.io.members import Matrix, check_magic, parsing, pick, utf8_name
from emcl_plugin.io.vectors import Vectors, with_ids

if TYPE_CHECKING:
    import torch


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file of tensors."""
    from safetensors import safe_open

    check_magic(path, b"{", "a .safetensors file", at=8)
    with parsing(path, ".safetensors"), utf8_name(path) as named, safe_open(named, "pt") as file:
        yield file


def read_safetensors(path: Path, key: str | None = None) -> Vectors:
    """Return one tensor and its ids, which are JSON lists in the file's metadata."""
    with opened(path) as file:
        shapes = {name: len(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        name = pick(shapes, key, path)
        notes = file.metadata() or {}
        return with_ids(as_numpy(file.get_tensor(name)), name, lambda x: json_list(notes, x), path)


def json_list(notes: Mapping[str, str], name: str) -> object:
    """Return a metadata entry that is a JSON list, else None.

    >>> json_list({"ids": '["a", "b"]', "model": "CLIP"}, "ids")
    ['a', 'b']
    """
    text = notes.get(name, "")
    return json.loads(text) if text.startswith("[") else None


def as_numpy(tensor: torch.Tensor) -> Matrix:
    """Return a tensor as an array; bfloat16, which NumPy lacks, as float32.

    >>> import torch
    >>> as_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    tensor = tensor.detach()
    array: Matrix = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return array
