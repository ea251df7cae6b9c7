"""Sizes in bytes: parsing and formatting."""

from __future__ import annotations

import os
import re

from emcl_plugin.errors import InputValueError

DEFAULT_MEMORY = 4 << 30  # budget in bytes

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``4G``, ``512M``, ``1.5GiB`` or ``1000000``.

    >>> parse_size("1.5G")
    1610612736
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = float(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not 1 << 20 <= size < 1 << 63:
        raise InputValueError(
            "this is not a memory size of at least 1M", repr(text), "write for example 4G or 800M"
        )
    return int(size)


def physical_memory() -> int:
    """Return the physical memory of this machine in bytes.

    >>> physical_memory() > 1 << 20
    True
    """
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def format_size(size: float) -> str:
    """Format a number of bytes.

    >>> format_size(5 << 20)
    '5.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
