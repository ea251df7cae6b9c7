"""Constraints on parameters as data."""

from __future__ import annotations

from emcl_plugin.errors import InputValueError


def require(*rules: tuple[bool, str, str, str]) -> None:
    """Raise for the first rule that does not hold: (holds, problem, received, remedy)."""
    for holds, *parts in rules:
        if not holds:
            raise InputValueError(*parts)
