"""PyTorch's ``.pt`` and ``.pth``, read with ``weights_only=True`` by safe versions of torch."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import (
    Matrix,
    check_claim,
    check_ratio,
    first_bytes,
    no_false_claims,
    parsing,
    pick,
)
from emcl_plugin.io.safetensor import as_numpy
from emcl_plugin.io.vectors import Vectors, leaves, with_ids


def read_torch(path: Path, key: str | None = None) -> Vectors:
    """Return a tensor, by name if it is in a dictionary (``a.b`` if nested)."""
    import torch

    content = load_tensors(path)
    with parsing(path, "PyTorch"):
        found = leaves(content)
        tensors = {
            name: value
            for name, value in found.items()
            if isinstance(value, torch.Tensor) and value.layout == torch.strided
        }
        name = pick({name: tensor.ndim for name, tensor in tensors.items()}, key, path)

        def array(tensor: torch.Tensor) -> Matrix:
            check_ratio(tensor.numel() * tensor.itemsize, path.stat().st_size, path)
            return as_numpy(tensor)

        def ids(beside: str) -> object:
            value = found.get(beside)
            return array(value) if isinstance(value, torch.Tensor) else value

        return with_ids(array(tensors[name]), name, ids, path)


SAFE_TORCH = "2.10"
"""First release whose restricted reader has no known hole: before 2.6 a file could run code
(CVE-2025-32434), before 2.10 it could overwrite memory (CVE-2026-24747)."""


def load_tensors(path: Path) -> Any:
    """Read a file of tensors, containers, texts and numbers."""
    first_bytes(path, 1)
    import torch

    if torch.__version__ < SAFE_TORCH:
        problem = "this release of torch reads .pt files in a way that could run any code"
        remedy = "install torch 2.10 or newer; or save the arrays as .npy or .safetensors"
        raise InputFileError(problem, f"{path}, with torch {torch.__version__}", remedy)
    with parsing(path, "PyTorch"), no_false_claims(path):
        try:
            _check(path)
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            text = str(error)
            if "weights_only" not in text.lower() or "corrupted" in text:
                raise
            asked = re.search(r"GLOBAL (\S+)", text)
            problem = "the file holds Python objects, which could run any code"
            received = f"{path}: {asked[1][:200]}" if asked else str(path)
            remedy = "save the tensors alone: torch.save({'features': x}, path)"
            raise InputFileError(problem, received, remedy) from None


_FOLDER = 0x10
"""Zip attribute of folders: PyTorch would return uninitialised memory for such a member."""


def _check(path: Path) -> None:
    """Refuse an archive that claims to unpack to far more than it stores."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    check_claim(sum(info.file_size for info in members), path.stat().st_size, path)
    for info in members:
        check_claim(info.file_size, info.compress_size, path)
        if info.file_size and (info.external_attr & _FOLDER or info.is_dir()):
            raise ValueError(f"{info.filename} is marked as a folder but has content")
