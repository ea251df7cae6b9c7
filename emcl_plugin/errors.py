"""Errors and warnings: each message says what is wrong, what was received, what to do."""

from __future__ import annotations

import errno
import warnings

# --- text on one line: here because every message uses it, and errors import nothing else ---

_LONGEST = 500  # characters on a terminal
_CAPTION = 240  # characters on a page


def escaped(given: object) -> str:
    r"""Return a text on one line that is safe to print on a terminal.

    File names and ids may hold escape sequences, line breaks, direction marks or invalid bytes.
    Unprintable characters become Python escapes; texts beyond 500 characters lose their middle.

    Parameters
    ----------
    given : object
        A text, or an object to convert with ``str``.

    Examples
    --------
    >>> print(escaped("\x1b[2Jred\n\udcff.npy"))
    \x1b[2Jred\n\udcff.npy
    >>> print(escaped("two words, déjà vu"))
    two words, déjà vu
    """
    text = str(given)
    if len(text) > 2 * _LONGEST:
        text = text[:_LONGEST] + text[-_LONGEST:]  # the rest is not shown
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


def one_line(text: str, longest: int | None = _CAPTION) -> str:
    r"""Return a text on one line without control characters, cut at ``longest``.

    >>> one_line("two\nlines"), one_line("too long for this", 9)
    ('two lines', 'too long…')
    """
    text = "".join(c if c.isprintable() or c in "\u200d\u200c" else " " for c in text)
    text = " ".join(text.split())
    if longest is None or len(text) <= longest:
        return text
    return text[: longest - 1].rstrip() + "…"


# --- errors ---


class EmclError(Exception):
    """Base class of all errors that this package raises.

    Parameters
    ----------
    problem : str
        What is wrong, in one sentence.
    received : str
        What was received: shape, dtype, first bad index or option.
    remedy : str
        What the caller can do about it.

    Examples
    --------
    >>> print(InputValueError("the scores hold a NaN", "sim[3, 7] = nan", "drop that row"))
    the scores hold a NaN
      received: sim[3, 7] = nan
      to do:    drop that row
    """

    told = False
    """True if another rank reports this error."""

    def __init__(self, problem: str, received: str, remedy: str) -> None:
        super().__init__(problem, received, remedy)
        self.problem = problem
        self.received = received
        self.remedy = remedy

    def __str__(self) -> str:
        problem, received, remedy = map(escaped, (self.problem, self.received, self.remedy))
        return f"{problem}\n  received: {received}\n  to do:    {remedy}"


class InputValueError(EmclError, ValueError):
    """An argument has the right type but an invalid value."""


class InputTypeError(EmclError, TypeError):
    """An argument has the wrong type."""


class InputFileError(EmclError, OSError):
    """A file cannot be read or written."""


class StateError(InputFileError):
    """A saved corrector is missing, damaged, of another version, or something else."""


class WorkerError(EmclError, RuntimeError):
    """Another process of the same job failed or ended."""


class MemoryBudgetError(EmclError, MemoryError):
    """A dense result exceeds the memory."""


class NotFittedError(EmclError, ValueError, AttributeError):
    """A fitted attribute or method was used before ``fit``."""


_OUT_OF_MEMORY = ("out of memory", "allocate memory", "failed to map segment")  # torch, ld.so


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of any library means that the memory is exhausted.

    >>> ran_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    True
    """
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(sign in words for sign in _OUT_OF_MEMORY)
    )


# --- warnings ---


class EmclWarning(UserWarning):
    """Base class of all warnings of this package.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", EmclWarning)  # turn them into errors
    """


class ConvergenceWarning(EmclWarning):
    """Sinkhorn-Knopp stopped before its marginals reached the tolerance."""


class ScaleWarning(EmclWarning):
    """A temperature does not suit the spread of the scores."""


class RepeatedItemsWarning(EmclWarning):
    """Some texts or videos are exact duplicates of others."""


class OverlapWarning(EmclWarning):
    """Some of the scored queries are in the bank that the correction was fitted on."""


class DriftWarning(EmclWarning):
    """The biases of an extended corrector differ from those of a new fit."""


def __getattr__(name: str) -> object:
    if name != "LeakWarning":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"{__name__}.LeakWarning is now OverlapWarning; the old name goes in 0.2"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return OverlapWarning
