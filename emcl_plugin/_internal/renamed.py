"""Deprecated names of arguments and fields: they work until 0.2, with a warning."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from emcl_plugin._internal import warn

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def keyword(old: str, new: str) -> Callable[[F], F]:
    """Accept the keyword ``old`` for ``new``; where both come, as from ``replace``, old wins."""

    def decorate(function: F) -> F:
        @wraps(function)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            if old in kwargs:
                warn.renamed(old, new)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return renamed  # type: ignore[return-value]

    return decorate


class OldAttribute:
    """Attribute ``old`` of a class or an object, which is now named ``new``."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def __get__(self, owner: object, kind: type) -> Any:
        warn.renamed(f"{kind.__name__}.{self.old}", self.new)
        return getattr(kind if owner is None else owner, self.new)


def field(old: str, new: str) -> Callable[[C], C]:
    """Let a dataclass take and give its field ``new`` under the name ``old``, too."""

    def decorate(kind: C) -> C:
        kind.__init__ = keyword(old, new)(kind.__init__)  # type: ignore[misc]
        setattr(kind, old, OldAttribute(old, new))
        return kind

    return decorate
