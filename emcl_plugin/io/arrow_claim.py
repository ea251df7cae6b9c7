"""How large the compressed columns of an Arrow file say they are, before any is unpacked.

pyarrow unpacks a batch as it opens it, and does not say its size before. It stands in front of
each column's bytes, and where these begin is in the batch's own header, a flatbuffer, which is
why a few lines here read flatbuffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from

from emcl_plugin.io.members import check_memory, check_ratio, library

_END = 10
"""Bytes behind the footer: its length, and ARROW1."""


def check_arrow(data: memoryview, path: Path) -> None:
    """Refuse an Arrow file whose columns claim far more than there is.

    Parameters
    ----------
    data : memoryview
        The whole file.

    Raises
    ------
    InputFileError
        They do.
    ValueError, struct.error
        The file is damaged.
    """
    claims = list(_claims(data, path))
    check_ratio(sum(claims), len(data), path)
    check_memory(max(claims, default=0), path)


def _claims(data: memoryview, path: Path) -> Iterator[int]:
    """Unpacked bytes of each batch."""
    arrow, ipc = library("pyarrow", path), library("pyarrow.ipc", path)
    (length,) = unpack_from("<i", data, len(data) - _END)
    footer = data[len(data) - _END - length : len(data) - _END]
    root = _follow(footer, 0)
    for kind in (2, 3):  # dictionaries and batches
        for block in _items(footer, _field(footer, root, kind), 24):
            start, header, body = unpack_from("<qi4xq", footer, block)
            if min(start, header, body) < 0 or start + header + body > len(data):
                raise ValueError("a batch lies outside the file")
            message = ipc.read_message(arrow.py_buffer(data[start : start + header + body]))
            yield sum(_columns(memoryview(message.metadata), memoryview(message.body), kind == 2))


def _columns(header: memoryview, body: memoryview, dictionary: bool) -> Iterator[int]:
    """Unpacked bytes of the columns of a batch, or of a dictionary, which has one inside."""
    batch = _table(header, _follow(header, 0), 2)
    if dictionary and batch is not None:
        batch = _table(header, batch, 1)
    if batch is None or _table(header, batch, 3) is None:  # it is not compressed
        return
    for column in _items(header, _field(header, batch, 2), 16):
        start, length = unpack_from("<qq", header, column)
        if length:
            yield max(unpack_from("<q", body, start)[0], 0)


# --- flatbuffers: tables whose fields are found through a list of offsets -------------------------


def _follow(data: memoryview, at: int) -> int:
    """Where the offset at this place leads."""
    return at + int(unpack_from("<I", data, at)[0])


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Where a table's field is; None if it is not there."""
    about = table - unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= unpack_from("<H", data, about)[0]:
        return None
    (offset,) = unpack_from("<H", data, about + 4 + 2 * number)
    return table + offset if offset else None


def _table(data: memoryview, table: int, number: int) -> int | None:
    """Where the table begins that a field of a table leads to."""
    field = _field(data, table, number)
    return None if field is None else _follow(data, field)


def _items(data: memoryview, field: int | None, size: int) -> Iterator[int]:
    """Where the items of a list begin."""
    if field is None:
        return
    start = _follow(data, field)
    (count,) = unpack_from("<I", data, start)
    if start + 4 + count * size > len(data):
        raise ValueError("a list is longer than the file")
    yield from range(start + 4, start + 4 + count * size, size)
