"""PyTorch's ``.pt`` and ``.pth``, loaded without running anything in them."""

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
    only,
    parsing,
    pick,
)
from emcl_plugin.io.safetensor import as_numpy
from emcl_plugin.io.vectors import Vectors, leaves, with_ids


def read_torch(path: Path, key: str | None = None) -> Vectors:
    """A tensor, or one tensor of a dictionary; ``a.b`` names one in a dictionary inside."""
    import torch

    content = load_tensors(path)
    with parsing(path, "PyTorch"):
        found = leaves(content)
        tensors = {
            name: value
            for name, value in found.items()
            if isinstance(value, torch.Tensor) and value.layout == torch.strided
        }
        if "" in tensors:
            only(key, path)
        name = pick({name: tensor.ndim for name, tensor in tensors.items()}, key, path)

        def array(tensor: torch.Tensor) -> Matrix:
            check_ratio(tensor.numel() * tensor.itemsize, path.stat().st_size, path)
            return as_numpy(tensor)

        def ids(beside: str) -> object:
            value = found.get(beside)
            return array(value) if isinstance(value, torch.Tensor) else value

        return with_ids(array(tensors[name]), name, ids, path)


SAFE_TORCH = "2.10"
"""The first whose restricted reader cannot be talked into running code, as far as is known: before
2.6 it could (CVE-2025-32434), before 2.10 its memory could be overwritten (CVE-2026-24747)."""


def load_tensors(path: Path) -> Any:
    """What the file holds: tensors, containers, texts and numbers."""
    first_bytes(path, 1)
    import torch

    if torch.__version__ < SAFE_TORCH:
        raise InputFileError(
            "this release of torch reads .pt files in a way that could run any code",
            f"{path}, with torch {torch.__version__}",
            "install torch 2.10 or newer; or save the arrays as .npy or .safetensors",
        )
    with parsing(path, "PyTorch"), no_false_claims(path):
        try:
            _check(path)
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            text = str(error)
            if "weights_only" not in text.lower() or "corrupted" in text:
                raise
            asked = re.search(r"GLOBAL (\S+)", text)
            raise InputFileError(
                "the file holds Python objects, which could run any code",
                f"{path}: {asked[1][:200]}" if asked else str(path),
                "save the tensors alone: torch.save({'features': x}, path)",
            ) from None


_FOLDER = 0x10
"""A mark of archives: PyTorch reads nothing of such a member, and gives what was in memory."""


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
