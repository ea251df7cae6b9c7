"""Warnings that point to the caller's line, and old names that warn."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

_SKIPPED = ("emcl_plugin", "torch", "contextlib", "importlib", "dataclasses", "copy")


def warn(message: str, category: type[Warning]) -> None:
    """Warn with the line of the first caller outside this package.

    Frames of torch's decorators and of the import system are skipped, too.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and _module(frame.f_globals).partition(".")[0] in _SKIPPED:
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=_module(frame.f_globals),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _module(names: Mapping[str, Any]) -> str:
    return str(names.get("__name__", "<string>"))


def renamed(old: str, new: str) -> None:
    """Warn that a name has changed."""
    warn(f"{old} is now {new}; the old name goes in 0.2", DeprecationWarning)


def old_name(old: str, new: str) -> Any:
    """Return a property that reads the attribute ``new`` and warns about the name ``old``."""

    def get(self: object) -> Any:
        renamed(f"{type(self).__name__}.{old}", new)
        return getattr(self, new)

    return property(get)


def old_names(module: str, new_names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module that keeps old names for one minor version."""

    def get(name: str) -> Any:
        if name not in new_names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = new_names[name]
        renamed(f"{module}.{name}", new)
        return getattr(sys.modules[module], new)

    return get
