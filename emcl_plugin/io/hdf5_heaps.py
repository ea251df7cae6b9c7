"""Where an HDF5 file keeps texts of several lengths, looked at before HDF5 does.

Each entry of such a data set says in which heap of the file its text lies, as which object. HDF5
goes through a heap from object to object, by the size of each; where a size is 0 it stays at that
object for ever.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

import numpy as np

from emcl_plugin.io.members import check_ratio

_ENTRY = np.dtype([("length", "<u4"), ("heap", "<u8"), ("object", "<u4")])
_HEAD = Struct("<4sB3xQ")
_OBJECT = Struct("<HH4xQ")


def check_heaps(data: Any, path: Path) -> None:
    """Refuse texts that lie in a damaged heap, or nowhere.

    Parameters
    ----------
    data : h5py.Dataset
        Of texts of several lengths.

    Raises
    ------
    InputFileError
        They claim far more than there is in the file.
    ValueError, struct.error, zlib.error
        A heap is damaged, or the entries are packed in a way that cannot be looked into.
    """
    if data.file.id.get_create_plist().get_sizes() != (8, 8):
        raise ValueError("its addresses are not of 8 bytes")
    check_ratio(_ENTRY.itemsize * data.size, data.id.get_storage_size(), path)
    with path.open("rb") as file:
        for entries in _entries(data, file):
            for heap in np.unique(entries["heap"][entries["length"] > 0]).tolist():
                _check_heap(file, heap + data.file.userblock_size, path.stat().st_size)


def _entries(data: Any, file: BinaryIO) -> Iterator[np.ndarray[Any, Any]]:
    """The entries as they are in the file, all of them or chunk by chunk."""
    start = data.id.get_offset()
    if data.chunks is None:
        if start is None:
            raise ValueError("its texts are not where they can be looked at")
        file.seek(start)
        yield np.frombuffer(file.read(_ENTRY.itemsize * data.size), _ENTRY)
        return
    size = _ENTRY.itemsize * int(np.prod(data.chunks))
    for i in range(data.id.get_num_chunks()):
        skipped, content = data.id.read_direct_chunk(data.id.get_chunk_info(i).chunk_offset)
        yield np.frombuffer(_unpacked(data, content, skipped, size), _ENTRY)


def _unpacked(data: Any, content: bytes, skipped: int, size: int) -> bytes:
    """A chunk without its filters."""
    filters = data.id.get_create_plist()
    for i in reversed(range(filters.get_nfilters())):
        code, name = filters.get_filter(i)[0], filters.get_filter(i)[3]
        if skipped >> i & 1:
            continue
        if code == 1:  # deflate
            content = zlib.decompressobj().decompress(content, size)
        elif code == 2:  # shuffle
            content = np.frombuffer(content, np.uint8).reshape(_ENTRY.itemsize, -1).T.tobytes()
        else:
            raise ValueError(f"its texts are packed by {name.decode(errors='replace')}")
    return content


def _check_heap(file: BinaryIO, start: int, end: int) -> None:
    """Go through a heap as HDF5 does."""
    if start >= end:
        raise ValueError("a heap of texts lies outside of the file")
    file.seek(start)
    name, version, size = _HEAD.unpack(file.read(_HEAD.size))
    if (name, version) != (b"GCOL", 1) or size > end - start:
        raise ValueError("a heap of texts is none")
    heap = file.read(size - _HEAD.size)
    at = 0
    while at + _OBJECT.size <= len(heap):
        number, _, length = _OBJECT.unpack_from(heap, at)
        step = length if number == 0 else _OBJECT.size + (length + 7) // 8 * 8
        if step < _OBJECT.size or at + step > len(heap):
            raise ValueError("a heap of texts holds something of no size")
        at += step
