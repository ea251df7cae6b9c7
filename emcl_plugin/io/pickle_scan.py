"""A pickle's instructions, looked at before they are run."""

from __future__ import annotations

import pickletools
from typing import BinaryIO

MOST_TUPLES = 100
"""Tuples inside one another: Python hashes them by recursion, without a limit."""

_NEVER = {"PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


def scan(file: BinaryIO, size: int) -> None:
    """Refuse what a pickle of plain things never does, and what could bring Python down.

    Parameters
    ----------
    file : binary file
        At the pickle's beginning.
    size : int
        Bytes of the file; no pickle needs as many places to remember things in.

    Raises
    ------
    ValueError, IndexError, KeyError
        It is damaged, cut short, or does such things.

    Examples
    --------
    >>> import io, pickle
    >>> scan(io.BytesIO(pickle.dumps([1, (2, 3)])), 100)
    """
    depths: list[int] = []  # of the things on the stack: how many tuples lie inside one another
    marks: list[int] = []
    memo: dict[int, int] = {}
    for opcode, given, _ in pickletools.genops(file):
        name = opcode.name
        if name in _NEVER:
            raise ValueError(f"it uses {name}, which plain pickles do not")
        if name == "MARK":
            marks.append(len(depths))
            continue
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(memo) if given is None else given
            if not 0 <= place <= size:
                raise ValueError(f"it remembers {place} things in {size} bytes")
            memo[place] = depths[-1]
            continue
        many, fixed, pushed = _EFFECTS[name]
        start = marks.pop() if many else len(depths)
        if start - fixed < (marks[-1] if marks else 0):
            raise ValueError(f"{name} takes more than there is")
        deepest = max(depths[start - fixed :], default=0) + 1 if name in _TUPLES else 0
        del depths[start - fixed :]
        if deepest > MOST_TUPLES:
            raise ValueError(f"more than {MOST_TUPLES} tuples lie inside one another")
        if name.endswith("GET"):
            deepest = memo[given or 0]
        depths += [deepest] * pushed


def _effect(opcode: pickletools.OpcodeInfo) -> tuple[bool, int, int]:
    """Whether it takes all things down to a mark, how many others, and how many it leaves."""
    taken = [kind.name for kind in opcode.stack_before]
    many = "mark" in taken
    return many, len(taken) - 2 * many, len(opcode.stack_after)


_EFFECTS = {opcode.name: _effect(opcode) for opcode in pickletools.opcodes}
