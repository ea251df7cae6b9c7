"""A pickle's instructions, looked at before they are run."""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from typing import IO

MOST_TUPLES = 100
"""Tuples inside one another: Python hashes them by recursion, without a limit."""
MOST_AGAIN = 10
"""Things in tuples that come again, per byte, beyond a million: (x, x) is hashed as if it held two,
so that a few bytes could take forever."""

_NEVER = {"PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


def scan(
    file: IO[bytes],
    size: int,
    allowed: Collection[str] = (),
    forbidden: Collection[str] = (),
) -> None:
    """Refuse what a pickle of plain things never does, and what could bring Python down.

    Parameters
    ----------
    file : binary file
        At the pickle's beginning.
    size : int
        Bytes of the file; no pickle needs as many places to remember things in.
    allowed : collection of str, default ()
        Instructions that plain pickles do not have, and this one may.
    forbidden : collection of str, default ()
        Names, "module name", that whoever runs it would know, and must not.

    Raises
    ------
    ValueError, IndexError, KeyError
        It is damaged, cut short, or does such things.

    Examples
    --------
    >>> import io, pickle
    >>> scan(io.BytesIO(pickle.dumps([1, (2, 3)])), 100)
    """
    stack: list[tuple[int, int]] = []  # tuples that lie inside one another, and things in them
    marks: list[int] = []
    memo: dict[int, tuple[int, int]] = {}
    again = 0
    for opcode, given, _ in pickletools.genops(file):
        name = opcode.name
        if name in _NEVER and name not in allowed:
            raise ValueError(f"it uses {name}, which plain pickles do not")
        if name == "GLOBAL" and given in forbidden:
            raise ValueError(f"it uses {given}")
        if name == "MARK":
            marks.append(len(stack))
            continue
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(memo) if given is None else given
            if not 0 <= place <= size:
                raise ValueError(f"it remembers {place} things in {size} bytes")
            memo[place] = stack[-1]
            continue
        if name == "DUP" or name.endswith("GET"):
            stack.append(stack[-1] if name == "DUP" else memo[given or 0])
            again += stack[-1][1]
            if again > MOST_AGAIN * size + 1_000_000:
                raise ValueError("the same tuples come again and again")
            continue
        many, fixed, pushed = _EFFECTS[name]
        start = marks.pop() if many else len(stack)
        if start - fixed < (marks[-1] if marks else 0):
            raise ValueError(f"{name} takes more than there is")
        made = 0, 1
        if name in _TUPLES:
            inside = stack[start - fixed :]
            depth = max((depth for depth, _ in inside), default=0) + 1
            made = depth, sum(count for _, count in inside) + 1
        del stack[start - fixed :]
        if made[0] > MOST_TUPLES:
            raise ValueError(f"more than {MOST_TUPLES} tuples lie inside one another")
        stack += [made] * pushed


def _effect(opcode: pickletools.OpcodeInfo) -> tuple[bool, int, int]:
    """Whether it takes all things down to a mark, how many others, and how many it leaves."""
    taken = [kind.name for kind in opcode.stack_before]
    many = "mark" in taken
    return many, len(taken) - 2 * many, len(opcode.stack_after)


_EFFECTS = {opcode.name: _effect(opcode) for opcode in pickletools.opcodes}
