"""Mutations that pass a format's own checks: correct lengths and CRCs, hostile content.

A mutation takes bytes, a random generator and ``inner``, which mutates blindly. If it does not find
the structure that it knows it raises, and the caller mutates blindly.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

Blind: TypeAlias = Callable[[bytes], bytes]
Change: TypeAlias = Callable[[bytes, Random, Blind], bytes]

WHOLE = [0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30]
WORDS = ["", "a" * 300, "\x1b[2J", "../../a", "/etc/passwd", "\ud800", "\0", "NaN", "__metadata__"]
KINDS = [
    "<f4", ">f8", "<f2", "<i8", "|b1", "|O", "|S0", "<U9", "|V8", "<c16", "<M8[s]", "(2,2)f4",
    "|V2147483647", "f4,f4",
]  # fmt: skip


def json_value(random: Random, depth: int = 0) -> Any:
    """Return a random JSON value, NaN and infinity included."""
    made: list[Callable[[], Any]] = [
        lambda: random.choice(WHOLE),
        lambda: random.choice(WORDS),
        lambda: random.choice([None, True, False, {}, [], 0.5, 1e308, -0.0]),
        lambda: random.choice([float("nan"), float("inf"), 1e-320]),
        lambda: [json_value(random, depth + 1) for _ in range(random.randrange(4))],
        lambda: {random.choice(WORDS): json_value(random, depth + 1)},
    ]
    return random.choice(made[: 4 if depth > 2 else 6])()


def change_json(data: bytes, random: Random, inner: Blind) -> bytes:
    """Replace, drop, repeat or rename one value."""
    content = json.loads(data)
    places = list(_places(content))
    if not places or random.random() < 0.05:
        return random.choice([b"[" * 2000, b"9" * 5000, inner(data), b'{"a":1,"a":2}'])
    holder, key = random.choice(places)
    kind = random.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice([*WORDS, *holder])] = holder.pop(key)
    elif kind == 2 and isinstance(holder[key], str):
        holder[key] = inner(holder[key].encode(errors="replace")).decode(errors="replace")
    elif kind == 3 and isinstance(holder[key], int | float):
        holder[key] = random.choice([*WHOLE, holder[key] + 1, -holder[key], holder[key] / 3])
    elif kind == 4:
        other, at = random.choice(places)
        holder[key] = json.loads(json.dumps(other.get(at) if isinstance(other, dict) else None))
    else:
        holder[key] = json_value(random)
    return json.dumps(content).encode()


def _places(content: Any) -> Any:
    pairs: Any = ()
    if isinstance(content, dict):
        pairs = list(content.items())
    elif isinstance(content, list):
        pairs = list(enumerate(content))
    for key, value in pairs:
        yield content, key
        yield from _places(value)


def change_npy(data: bytes, random: Random, inner: Blind) -> bytes:
    """Mutate the header, behind its correct length, or the numbers."""
    if data[:6] != b"\x93NUMPY":
        raise ValueError
    wide = data[6] > 1
    length = int.from_bytes(data[8 : 12 if wide else 10], "little")
    begin = 12 if wide else 10
    header, numbers = data[begin : begin + length], data[begin + length :]
    kind = random.randrange(6)
    if kind == 0:
        header = inner(header)
    elif kind == 1:
        header = _another(header, rb"\d+", random, [str(n).encode() for n in WHOLE])
    elif kind == 2:
        header = _another(header, rb"'[<>|=][^']*'", random, [f"'{k}'".encode() for k in KINDS])
    elif kind == 3:
        header = _another(header, rb"\([^)]*\)", random, [b"()", b"(1,)*9", b"(-1,)", b"(2,2,2)"])
    elif kind == 4:
        nested = random.choice([b"-", b"(", b"[", b"{1:", b"not ", b"1+"]) * random.randrange(9000)
        header = header.replace(b"'shape': ", b"'shape': " + nested)
    else:
        numbers = inner(numbers)
    version = random.choice([1, 1, 2, 3, 9]) if random.random() < 0.2 else data[6]
    if version == 1 and len(header) < 1 << 16:
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + numbers
    size = random.choice([len(header)] * 5 + [2**32 - 1])
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<I", size) + header + numbers


def _another(text: bytes, pattern: bytes, random: Random, others: list[bytes]) -> bytes:
    found = random.choice(list(re.finditer(pattern, text)))
    return text[: found.start()] + random.choice(others) + text[found.end() :]


def change_zip(member: Change | None = None) -> Change:
    """Mutate an archive's members with correct CRCs, or its directory."""

    def change(data: bytes, random: Random, inner: Blind) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(i.filename, archive.read(i), i.compress_type) for i in archive.infolist()]
        at = random.randrange(len(members))
        name, content, how = members[at]
        kind = random.randrange(10)
        if kind < 6:
            blind = member is None or random.random() < 0.2
            try:
                content = inner(content) if blind else member(content, random, inner)  # type: ignore[misc]
            except Exception:
                content = inner(content)
        elif kind == 6:
            name = random.choice([*WORDS, f"{name}.npy", "a.b.npy", "a/b.npy", "ids.npy", "x.npy"])
        elif kind == 7:
            content = content + bytes(random.choice([1, 1000, 3_000_000]))
            how = zipfile.ZIP_BZIP2
        elif kind == 8:
            how = random.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        members[at] = name.replace("\ud800", "?"), content, how
        if kind == 9:
            members.insert(random.randrange(len(members) + 1), members.pop(at))
            members += [members[0]] * random.randrange(3)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, content, how in members:
                archive.writestr(zipfile.ZipInfo(name), content, how)
        packed = bytearray(out.getvalue())
        if random.random() < 0.2:
            entries = [found.start() for found in re.finditer(b"PK\1\2", packed)]
            place = random.choice(entries) + random.choice([8, 10, 20, 24, 28, 30, 42])
            packed[place : place + 4] = struct.pack("<I", random.choice(WHOLE) % 2**32)
        return bytes(packed)

    return change


def change_safetensors(data: bytes, random: Random, inner: Blind) -> bytes:
    """Mutate the JSON header, behind its correct length."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data):
        raise ValueError
    header = change_json(data[8 : 8 + length], random, inner)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def change_parquet(data: bytes, random: Random, inner: Blind) -> bytes:
    """Mutate the metadata in front of its correct length."""
    end = len(data) - 8
    length, magic = int.from_bytes(data[end : end + 4], "little"), data[end + 4 :]
    start = end - length
    if magic != b"PAR1" or start < 0:
        raise ValueError
    footer = bytearray(data[start:end])
    at = random.randrange(len(footer))
    kind = random.randrange(3)
    if kind == 0:
        footer = bytearray(inner(bytes(footer)))
    elif kind == 1:
        footer[at] = random.choice([0, 1, 2, 127, 128, 255, random.randrange(256)])
    else:
        footer[at : at + 4] = struct.pack("<I", random.choice(WHOLE) % 2**32)
    return data[:start] + bytes(footer) + struct.pack("<I", len(footer)) + magic


def change_lines(data: bytes, random: Random, inner: Blind) -> bytes:
    """Replace, drop or repeat a line or a cell."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    mark = random.choice([b",", b"\t", b" "])
    cells = lines[at].split(mark)
    cell = random.randrange(len(cells))
    kind = random.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(random.randrange(len(lines)), lines[at])
    elif kind == 2:
        cells[cell] = random.choice(_CELLS)
        lines[at] = mark.join(cells)
    elif kind == 3:
        cells[cell : cell + 1] = [cells[cell]] * random.choice([0, 2, 3])
        lines[at] = mark.join(cells)
    else:
        lines[at] = inner(lines[at])
    return b"\n".join(lines)


_CELLS = [
    b"", b"0", b"-1", b"1e400", b"nan", b"inf", b"-inf", b"9" * 30, b"9" * 5000, b"1_0", b'"',
    b'"a', b"\0", b"\r", b"\xff", b"\xef\xbb\xbf", "٣".encode(), "²".encode(), b"0x10",
    b"1e-400",
    b"a" * 140_000, b"true", b"null", b"[[1]]", b'{"a":1}', b"\xe2\x80\xa8", b"1e5",
    b"18446744073709551616",
]  # fmt: skip


def change_json_lines(data: bytes, random: Random, inner: Blind) -> bytes:
    """Mutate a value in a line of JSON, or the line."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    if random.random() < 0.3:
        return change_lines(data, random, inner)
    lines[at] = change_json(lines[at], random, inner)
    return b"\n".join(lines)


def behind(count: int, change: Callable[[bytes], Change]) -> Change:
    """Mutate what follows the first ``count`` bytes, which choose the mutation."""

    def changed(data: bytes, random: Random, inner: Blind) -> bytes:
        start, rest = data[:count], data[count:]
        if random.random() < 0.05:
            start = random.randbytes(count)
        return start + change(start)(rest, random, inner)

    return changed


CHANGES: dict[str, Change] = {
    ".npy": change_npy,
    ".npz": change_zip(change_npy),
    ".safetensors": change_safetensors,
    ".parquet": change_parquet,
    ".csv": change_lines,
    ".tsv": change_lines,
    ".txt": change_lines,
    ".qrels": change_lines,
    ".jsonl": change_json_lines,
    ".json": change_json,
}
