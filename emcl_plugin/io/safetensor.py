"""``.safetensors``: tensors by name, and nothing that could run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emcl_plugin.io.members import Matrix, check_magic, parsing, pick

if TYPE_CHECKING:
    import torch


def read_safetensors(path: Path, key: str | None = None) -> Matrix:
    """One tensor of the file; bfloat16, which NumPy does not know, as float32."""
    from safetensors import safe_open

    check_magic(path, b"{", "a .safetensors file", at=8)
    with parsing(path, ".safetensors"), safe_open(path, framework="pt") as file:
        shapes = {name: len(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        tensor = file.get_tensor(pick(shapes, key, path))
        return as_numpy(tensor)


def as_numpy(tensor: torch.Tensor) -> Matrix:
    """The array of a tensor; bfloat16 as float32.

    >>> import torch
    >>> as_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    tensor = tensor.detach()
    array: Matrix = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return array
