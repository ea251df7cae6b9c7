"""Input checks, and conversion between input arrays and torch tensors.

Inside the package everything is a torch tensor. Results have the library, dtype and device of
the input.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from emcl_plugin.errors import InputFileError, InputTypeError, InputValueError

Array: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor"
Arr = TypeVar("Arr", np.ndarray[Any, Any], torch.Tensor, Array)
"""The kind of array that comes in, and goes out."""

_NUMPY_FLOATS = (np.float16, np.float32, np.float64)
_TORCH_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NATIVE: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}


def describe(x: object) -> str:
    """Describe an object for an error message: library, shape, dtype.

    >>> describe(np.zeros((2, 3), np.int64))
    'NumPy array of shape (2, 3), int64'
    """
    if isinstance(x, np.ndarray):
        return f"NumPy array of shape {x.shape}, {x.dtype}"
    if isinstance(x, torch.Tensor):
        return f"torch tensor of shape {tuple(x.shape)}, {str(x.dtype)[6:]}, {x.device}"
    return f"{type(x).__module__}.{type(x).__qualname__}"


def check_matrix(x: object, name: str) -> Array:
    """Return ``x`` if it is a non-empty 2-D floating-point array or tensor, else raise.

    Entries are checked by :func:`check_finite`.
    """
    if not isinstance(x, np.ndarray | torch.Tensor):
        remedy = "pass a NumPy array or a torch tensor (a DataFrame has .to_numpy())"
        raise InputTypeError(f"{name} is not an array", describe(x), remedy)
    if isinstance(x, torch.Tensor) and x.layout != torch.strided:
        raise InputTypeError(f"{name} is sparse", f"{describe(x)}, {x.layout}", "pass x.to_dense()")
    if isinstance(x, torch.Tensor) and x.is_meta:
        raise InputTypeError(f"{name} holds no numbers", describe(x), "compute it on a real device")
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise InputValueError(
            f"{name} has masked entries, and there is no score without a number",
            f"{describe(x)}, {int(np.ma.getmaskarray(x).sum())} masked",
            "drop their rows or columns, or pass x.filled(value)",
        )
    if x.ndim != 2:
        raise InputValueError(
            f"{name} must have two dimensions",
            describe(x),
            "scores are (texts, videos) and features are (items, dimensions); "
            "pool frame or token features to one vector per item first",
        )
    if 0 in x.shape:
        raise InputValueError(f"{name} is empty", describe(x), "pass at least one item per side")
    floats = _NUMPY_FLOATS if isinstance(x, np.ndarray) else _TORCH_FLOATS
    kind = x.dtype.type if isinstance(x, np.ndarray) else x.dtype
    if kind not in floats:
        remedy = 'if these really are scores or features, pass x.astype("float32")'
        raise InputTypeError(f"{name} does not hold floating-point numbers", describe(x), remedy)
    return x


def check_finite(block: torch.Tensor, name: str, first_row: int) -> None:
    """Raise at the first NaN or infinity; ``first_row`` is the block's position."""
    if bool(torch.isfinite(block.sum())):  # NaN and infinity survive a sum
        return
    finite = torch.isfinite(block)
    if bool(finite.all()):  # finite entries, but the sum overflowed
        return
    row, column = (int(k) for k in (~finite).nonzero()[0])
    bad = int((~finite).sum())
    raise InputValueError(
        f"{name} holds NaN or infinity",
        f"{name}[{first_row + row}, {column}] = {float(block[row, column])}, "
        f"{bad} such entries in rows {first_row} to {first_row + len(block) - 1}",
        "find out where the retriever failed; padded or masked entries must be dropped, not passed",
    )


def compute_dtype(*arrays: Array) -> torch.dtype:
    """Return float64 if any input is float64, otherwise float32."""
    double = any(_torch_dtype(x) == torch.float64 for x in arrays)
    return torch.float64 if double else torch.float32


def read_rows(
    x: Array, start: int, stop: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return rows ``start:stop`` of an array, which may be memory-mapped, as a tensor.

    Pages of a memory-mapped file are released at once, so reading a large file block by block
    does not fill the memory.
    """
    return _read(x, slice(start, stop), dtype, device)


def take_rows(
    x: Array, indices: torch.Tensor, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return rows by index, as :func:`read_rows`."""
    if isinstance(x, torch.Tensor):
        return _read(x, indices.to(x.device), dtype, device)
    return _read(x, indices.cpu().numpy(), dtype, device)


def read_tile(
    x: Array,
    start: int,
    stop: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Return rows padded with zeros to ``shape``, as :func:`read_rows`."""
    if isinstance(x, torch.Tensor):
        rows = read_rows(x, start, stop, dtype, device)
        more = (0, shape[1] - rows.shape[1], 0, shape[0] - len(rows))
        return torch.nn.functional.pad(rows, more)
    check_whole(x)
    tile = np.zeros(shape, _NATIVE[dtype])
    tile[: stop - start, : x.shape[1]] = x[start:stop]
    _give_back(x)
    return torch.from_numpy(tile).to(device)


def _read(x: Array, which: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if isinstance(x, torch.Tensor):
        return x[which].detach().resolve_neg().to(device=device, dtype=dtype)
    check_whole(x)
    rows = np.ascontiguousarray(x[which], dtype=_NATIVE[dtype])
    # torch rejects negative strides, warns about read-only memory, and must not fault pages in
    if _mapped(x) or not rows.flags.writeable or min(rows.strides) < 0:
        rows = rows.copy()
    _give_back(x)
    return torch.from_numpy(rows).to(device)


def check_whole(x: np.ndarray[Any, Any]) -> None:
    """Raise if a memory-mapped file was truncated; reading on would be a bus error."""
    pages: Any = x
    while isinstance(pages, np.ndarray):
        owner, pages = pages, pages.base
    if not isinstance(pages, mmap.mmap):
        return
    unit = mmap.ALLOCATIONGRANULARITY
    needed = getattr(owner, "offset", 0) // unit * unit + len(pages)
    try:
        size = pages.size()
    except OSError:  # anonymous memory
        return
    if size < needed:
        problem = "an input was cut short while it was read; nothing was written"
        received = f"{getattr(owner, 'filename', None)}: {size} bytes, {needed} before"
        raise InputFileError(problem, received, "run again when nothing writes to it")


def _mapped(x: np.ndarray[Any, Any]) -> bool:
    return isinstance(x.base, mmap.mmap) and not x.flags.writeable


def _give_back(x: np.ndarray[Any, Any]) -> None:
    if _mapped(x) and hasattr(mmap, "MADV_DONTNEED"):
        pages: Any = x.base
        pages.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Kind:
    """Library, dtype and device of the input, which the result shares."""

    numpy: bool
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, *arrays: Array) -> Kind:
        """Return the kind of the first array, with the widest dtype of all."""
        dtypes = [_torch_dtype(x) for x in arrays]
        widest = dtypes[0]
        for dtype in dtypes[1:]:
            widest = torch.promote_types(widest, dtype)
        first = arrays[0]
        if isinstance(first, torch.Tensor):
            return cls(False, widest, first.device)
        return cls(True, widest, torch.device("cpu"))

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The NumPy dtype; bfloat16 has none."""
        return np.dtype(str(self.dtype)[6:])

    def narrow(self, block: torch.Tensor) -> torch.Tensor:
        """Return ``block`` in this dtype on this device; raise on overflow."""
        out = block.to(device=self.device, dtype=self.dtype)
        if bool(torch.isfinite(out.sum())) or bool(torch.isfinite(out).all()):
            return out
        wider = "float32" if self.dtype.itemsize < 4 else "float64"
        raise InputValueError(
            f"the re-scored values do not fit into {str(self.dtype)[6:]}",
            f"a largest magnitude of {float(block.abs().max()):.4g}",
            f"pass the scores as {wider}, or divided by their logit scale",
        )


def _torch_dtype(x: Array) -> torch.dtype:
    if isinstance(x, torch.Tensor):
        return x.dtype
    dtype = getattr(torch, str(np.dtype(x.dtype.type)))
    assert isinstance(dtype, torch.dtype)
    return dtype
