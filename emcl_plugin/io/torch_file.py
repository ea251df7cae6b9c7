"""PyTorch's ``.pt`` and ``.pth``, loaded without running anything in them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import Matrix, check_claim, first_bytes, only, parsing, pick
from emcl_plugin.io.safetensor import as_numpy

if TYPE_CHECKING:
    import torch


def read_torch(path: Path, key: str | None = None) -> Matrix:
    """A tensor, or one tensor of a dictionary; ``a.b`` names one in a dictionary inside."""
    first_bytes(path, 1)
    import torch

    with parsing(path, "PyTorch"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    check_claim(info.file_size, info.compress_size, path)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            if "weights_only" not in str(error).lower():
                raise
            raise InputFileError(
                "the file holds Python objects, which could run any code",
                f"{path}: {str(error).splitlines()[0][:200]}",
                "save the tensors alone: torch.save({'features': x}, path)",
            ) from None
        tensors = dict(_tensors(content))
        dimensions = {name: tensor.ndim for name, tensor in tensors.items()}
        if "" in tensors:
            only(key, path)
        return as_numpy(tensors[pick(dimensions, key, path)])


def _tensors(content: Any, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    """All dense tensors by name; a tensor alone has the name ''."""
    import torch

    if isinstance(content, torch.Tensor):
        return [(prefix, content)] if content.layout == torch.strided else []
    if not isinstance(content, Mapping):
        return []
    found = []
    for name, value in content.items():
        found += _tensors(value, f"{prefix}.{name}" if prefix else str(name))
    return found
