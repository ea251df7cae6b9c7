"""What the variables of a ``.mat`` file say about themselves, before SciPy reads them.

SciPy takes the kind of the numbers from the file and looks it up in a table; of one that is not
in there it follows a null pointer, which ends the process. Of a name it takes the length, as of the
numbers, and asks for as much memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from

from emcl_plugin.io.members import MOST_PACKED

_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}
_FLOATS = {6, 7}
_OPAQUE = 17
_PACKED, _MATRIX, _UNSIGNED, _SIGNED, _TEXT = 15, 14, 6, 5, 1
_COMPLEX = 1 << 11
_HEAD = 1 << 16
"""Bytes of a variable in which all stands that comes before its numbers."""


def check_kinds(path: Path) -> None:
    """Refuse a file of MATLAB 5 to 7.2 whose floating-point numbers are of no known kind.

    Raises
    ------
    ValueError, struct.error, zlib.error
        They are, or a variable is damaged otherwise.
    """
    with path.open("rb") as file:
        start = file.read(128)
        if 0 in start[:4]:  # MATLAB 4, where the kind is a digit
            return
        order = "<" if start[126:] == b"IM" else ">"
        while tag := file.read(8):
            kind, size = unpack_from(f"{order}II", tag)
            begin = file.tell()
            if kind == _PACKED:
                content = zlib.decompressobj().decompress(file.read(min(size, 2 * _HEAD)), _HEAD)
            else:
                content = tag + file.read(min(size, _HEAD))
            _check(content, order, MOST_PACKED * path.stat().st_size)
            file.seek(begin + size)


def _check(content: bytes, order: str, most: int) -> None:
    """A variable: what it is, its shape and its name, then its numbers, of ``most`` bytes."""
    if unpack_from(f"{order}I", content)[0] != _MATRIX:
        raise ValueError("it holds something that is no variable")
    elements = _elements(content, order)
    about, at, length = next(elements)
    if (about, length) != (_UNSIGNED, 8):
        raise ValueError("a variable does not say what it is")
    flags = unpack_from(f"{order}I", content, at)[0]
    if flags & 0xFF == _OPAQUE:  # which has no shape, and is not read
        return
    (shape, _, _), (name, at, length) = next(elements), next(elements)
    if (shape, name) != (_SIGNED, _TEXT) or at + length > len(content):
        raise ValueError("a variable has no shape or no name")
    if flags & 0xFF not in _FLOATS:  # it is not read either
        return
    if flags & _COMPLEX:
        raise ValueError("its numbers are complex")
    kind, _, length = next(elements)
    if kind not in _NUMBERS or length > most:
        raise ValueError("its numbers are of no known kind, or more than there can be")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, int, int]]:
    """Kind, place and length of the parts of a variable; one of up to 4 bytes has a short tag."""
    at = 8
    while True:
        kind, length = unpack_from(f"{order}II", content, at)
        if kind >> 16:
            yield kind & 0xFFFF, at + 4, kind >> 16
            at += 8
        else:
            yield kind, at + 8, length
            at += 8 + (length + 7) // 8 * 8
