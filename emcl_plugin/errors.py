"""Errors and warnings: every message says what is wrong, what came in, and what to do."""

from __future__ import annotations

import errno

_LONGEST = 500  # characters on a terminal
_CAPTION = 240  # characters on a page


class EmclError(Exception):
    """Base of every error that this package raises on purpose.

    Parameters
    ----------
    problem : str
        What is wrong, in one sentence.
    received : str
        What came in: shape, dtype, the first offending index, the option's text.
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
    """Whether another process of the same job tells it."""

    def __init__(self, problem: str, received: str, remedy: str) -> None:
        super().__init__(problem, received, remedy)
        self.problem = problem
        self.received = received
        self.remedy = remedy

    def __str__(self) -> str:
        problem, received, remedy = map(escaped, (self.problem, self.received, self.remedy))
        return f"{problem}\n  received: {received}\n  to do:    {remedy}"


class InputValueError(EmclError, ValueError):
    """An argument has the right type and a value that cannot be used."""


class InputTypeError(EmclError, TypeError):
    """An argument is not the kind of object that is needed."""


class InputFileError(EmclError, OSError):
    """A file cannot be read or written as asked."""


class StateError(InputFileError):
    """A saved corrector is missing, damaged, of another version, or not one."""


class WorkerError(EmclError, RuntimeError):
    """Another process of the same job has failed or ended."""


class MemoryBudgetError(EmclError, MemoryError):
    """A dense result does not fit into memory."""


class NotFittedError(EmclError, ValueError, AttributeError):
    """A fitted attribute or method was used before ``fit``."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error means that there is no memory left.

    >>> ran_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    True
    """
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(sign in words for sign in _OUT_OF_MEMORY)
    )


_OUT_OF_MEMORY = ("out of memory", "allocate memory", "failed to map segment")  # torch, ld.so


class EmclWarning(UserWarning):
    """Base of every warning of this package.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", EmclWarning)  # none of them goes by unseen
    """


class ConvergenceWarning(EmclWarning):
    """Sinkhorn-Knopp stopped before its marginals were within the tolerance."""


class ScaleWarning(EmclWarning):
    """A temperature and the spread of the scores do not go together."""


class RepeatedItemsWarning(EmclWarning):
    """Some texts or videos are exact copies of others."""


class LeakWarning(EmclWarning):
    """Some of the queries that are scored are in the bank that made the correction."""


class DriftWarning(EmclWarning):
    """A grown corrector's biases are no longer what a fit would give."""


# --- escaping ---


def escaped(given: object) -> str:
    r"""One line of what was given, in which nothing acts on the terminal.

    Names of files and ids may hold anything: escape sequences that colour or erase, line breaks
    that would look like another message, marks that turn the direction of writing, bytes that are
    no text. All that is not printable becomes an escape as in Python; the middle of what is longer
    than 500 characters is left out.

    Parameters
    ----------
    given : object
        A text, or a path or number as its text.

    Examples
    --------
    >>> print(escaped("\x1b[2Jred\n\udcff.npy"))
    \x1b[2Jred\n\udcff.npy
    >>> print(escaped("two words, déjà vu"))
    two words, déjà vu
    """
    text = str(given)
    if len(text) > 2 * _LONGEST:
        text = text[:_LONGEST] + text[-_LONGEST:]  # more is not shown
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


def one_line(text: str, longest: int | None = _CAPTION) -> str:
    r"""One line without control characters, cut where it is longer than ``longest``.

    >>> one_line("two\nlines"), one_line("too long for this", 9)
    ('two lines', 'too long…')
    """
    text = "".join(c if c.isprintable() or c in "\u200d\u200c" else " " for c in text)
    text = " ".join(text.split())
    if longest is None or len(text) <= longest:
        return text
    return text[: longest - 1].rstrip() + "…"
