"""Restricted unpickling: arrays, containers, texts and numbers only.

A pickle is a program. It runs in an unpickler that knows a handful of names. Behind each name
stands a function of this module that checks its arguments. NumPy's own functions would trust the
sizes and dtypes in the pickle: a dtype that declares bytes to be objects can take over the process.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.members import (
    Matrix,
    check_ratio,
    first_bytes,
    no_false_claims,
    parsing,
    pick,
)
from emcl_plugin.io.npy import MAGIC, read_header
from emcl_plugin.io.vectors import Vectors, leaves, with_ids


def holds_pickle(path: Path) -> bool:
    """Return whether a file that may be ``.npy`` holds Python objects instead of numbers."""
    start = first_bytes(path, len(MAGIC))
    if start != MAGIC:
        return start[:1] == b"\x80"
    with parsing(path, ".npy"), path.open("rb") as file:
        return read_header(file)[1].hasobject


def refuse_pickle(path: Path) -> NoReturn:
    """Explain the danger of pickles and how to read a trusted one."""
    first_bytes(path, 1)
    remedy = (
        "save plain numbers with np.save; or give --trust-pickle (trust_pickle=True), which reads "
        "arrays, containers, texts and numbers, runs nothing, and refuses all else"
    )
    problem = "the file holds pickled Python objects, which could run any code"
    raise InputFileError(problem, str(path), remedy)


def unpickle(path: Path) -> Any:
    """Read a pickle (protocol 0 to 5, or ``.npy`` of objects) without running any of its names.

    It may hold arrays of numbers, texts and objects, which become :class:`PickledArray`; dict,
    OrderedDict, list, tuple, set, frozenset; str, bytes, int, float, bool, None. Texts of Python 2
    become bytes. Any other name, damage and false sizes raise InputFileError.
    """
    start = first_bytes(path, len(MAGIC))
    with parsing(path, "pickle"), no_false_claims(path), path.open("rb") as file:
        if start == MAGIC and not read_header(file)[1].hasobject:
            raise ValueError("it is an array of numbers, not a pickle")
        return _Unpickler(file, path).load()


def read_pickle_array(path: Path, key: str | None = None) -> Vectors:
    """Return the array of a pickle, by name if it is in a dictionary (``a.b`` if nested).

    A list of equally long vectors counts as a matrix.
    """
    content = unpickle(path)
    if isinstance(content, np.ndarray) and content.dtype == object and content.ndim == 0:
        content = content.item()
    with parsing(path, "pickle"):
        found = leaves(content)
        check_ratio(sum(map(_claim, found.values())), path.stat().st_size, path)
        arrays = {name: x for name, value in found.items() if (x := _matrix(value)) is not None}
        name = pick({name: x.ndim for name, x in arrays.items()}, key, path)
        return with_ids(arrays[name], name, found.get, path)


def _claim(value: object) -> int:
    """Return the bytes of a list of vectors as an array; it may repeat one vector many times."""
    rows = value.tolist() if isinstance(value, np.ndarray) and value.dtype == object else value
    if not isinstance(rows, list | tuple) or not rows:
        return 0
    return 8 * len(rows) * (len(rows[0]) if isinstance(rows[0], list) else np.size(rows[0]))


def _matrix(value: object) -> Matrix | None:
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.view(np.ndarray) if value.dtype.kind in "fiub" and value.ndim else None
    rows = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
    if not (isinstance(rows, list | tuple) and rows):
        return None
    if not all(isinstance(row, list | np.ndarray) for row in rows):
        return None
    if len({row.shape if isinstance(row, np.ndarray) else (len(row),) for row in rows}) > 1:
        return None
    if any(type(x) not in (int, float) for row in rows if isinstance(row, list) for x in row):
        return None
    array = np.asarray(rows)
    return array if array.ndim == 2 and array.dtype.kind in "fiub" else None


# --- names that a pickle may use ------------------------------------------------------------------


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _NAMES:
            problem = "the pickle holds objects other than arrays, containers, texts and numbers, "
            problem += "which could run any code"
            remedy = "save NumPy arrays: np.savez(path, text=text, video=video)"
            if module.split(".")[0] == "torch":
                remedy = "save NumPy arrays: np.save(path, x.numpy()), or torch.save for a .pt file"
            raise InputFileError(problem, f"{self._path}: {full}"[:300], remedy)
        return _NAMES[full]


class _Name:
    """A callable that a pickle cannot modify."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *given: Any) -> Any:
        return self.function(*given)

    def __setstate__(self, state: object) -> NoReturn:
        _refuse("a name that is changed")


def _refuse(what: str) -> NoReturn:
    raise pickle.UnpicklingError(f"{what} is not as NumPy writes it")


class _Kind:
    """A dtype under construction: numbers, texts or objects."""

    __slots__ = ("code", "order")

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code
        self.order = "="
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,8}|O[48]", self.code):
            _refuse(f"the dtype {self.code[:20]!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *inner = state
        self.order = order.decode() if isinstance(order, bytes) else order
        if self.order not in ("<", ">", "=", "|") or inner[:3] != [None, None, None]:
            _refuse("a dtype")

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("O" if self.code[0] == "O" else self.order + self.code)


class PickledArray(np.ndarray[Any, Any]):
    """An array that checks the state in a pickle before it takes it over."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        checked: Any = (1, shape, _fitting(shape, kind, data), bool(fortran), data)
        super().__setstate__(checked)


def _fitting(shape: object, kind: object, data: Any) -> np.dtype[Any]:
    """Return the dtype if the data have the size of the shape."""
    if not isinstance(kind, _Kind) or not isinstance(shape, tuple):
        _refuse("an array")
    if any(type(length) is not int or not 0 <= length < 1 << 48 for length in shape):
        _refuse("a shape")
    objects = kind.dtype.hasobject
    if not isinstance(data, list if objects else bytes | bytearray):
        _refuse("an array")
    if math.prod(shape) * (1 if objects else kind.dtype.itemsize) != len(data):
        _refuse(f"an array of {shape} in {len(data)} {'objects' if objects else 'bytes'}")
    return kind.dtype


def _empty(kind: object, shape: object, code: object) -> PickledArray:
    """Return the empty array that NumPy's pickles start with."""
    if kind is not _ARRAY or shape != (0,) or code not in (b"b", "b"):
        _refuse("an array")
    return PickledArray((0,), np.int8)


def _scalar(kind: object, data: object) -> Any:
    dtype = _fitting((), kind, data)
    return np.frombuffer(data, dtype)[0]  # type: ignore[call-overload]


def _from_buffer(data: object, kind: object, shape: Any, order: object, *_: object) -> PickledArray:
    dtype = _fitting(shape, kind, data)
    flat = np.frombuffer(data, dtype)  # type: ignore[call-overload]
    array: PickledArray = flat.reshape(shape, order="F" if order == "F" else "C").view(PickledArray)
    return array


def _bytes(*given: object) -> bytes:
    """Decode the bytes of protocols 0 to 2: ``bytes()`` or a Latin-1 text."""
    if not given:
        return b""
    text, encoding = given
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        _refuse("a text")
    return text.encode("latin1")


_ARRAY = _Name(_empty)  # numpy.ndarray: pickles refer to it without a call
_NAMES = {
    "numpy.ndarray": _ARRAY,
    "numpy.dtype": _Name(_Kind),
    "_codecs.encode": _Name(_bytes),
    "collections.OrderedDict": _Name(OrderedDict),
}
for _module in ("builtins", "__builtin__"):
    for _name, _known in (("set", set), ("frozenset", frozenset), ("bytes", _bytes)):
        _NAMES[f"{_module}.{_name}"] = _Name(_known)
for _core in ("numpy.core", "numpy._core"):
    _NAMES[f"{_core}.multiarray._reconstruct"] = _Name(_empty)
    _NAMES[f"{_core}.multiarray.scalar"] = _Name(_scalar)
    _NAMES[f"{_core}.numeric._frombuffer"] = _Name(_from_buffer)
