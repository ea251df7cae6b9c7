"""Standard streams as a job at night may find them: closed, full, or with nobody listening."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


def open_all() -> None:
    """Make standard input, output and error usable, whatever they are.

    One that is closed becomes the null device: a file that is opened later would otherwise take
    its number, and get what libraries print. What cannot be written to standard error is dropped,
    because a terminal that went away is no reason to give up a result.
    """
    for number, (name, kind) in enumerate((("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(os.fdopen(number, kind, closefd=False), "utf-8"))
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out is sys.__stdout__ and out.errors == "strict":
        out.reconfigure(errors="backslashreplace")  # a name may be in letters that it lacks
    if sys.stderr is sys.__stderr__:  # and no test's or notebook's
        words: Any = io.BufferedWriter(_Words(2, "w", closefd=False))
        encoding = sys.stderr.encoding if sys.stderr else "utf-8"
        sys.stderr = io.TextIOWrapper(words, encoding, "backslashreplace", line_buffering=True)


def drop_output() -> None:
    """What is left to print goes nowhere: nobody takes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Words(io.FileIO):
    """A file that takes whatever cannot be written for written."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)
