"""Names and texts from elsewhere, as a terminal or a page can show them."""

from __future__ import annotations

_LONGEST = 500  # characters on a terminal
_CAPTION = 240  # characters on a page


def printable(given: object) -> str:
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
    >>> print(printable("\x1b[2Jred\n\udcff.npy"))
    \x1b[2Jred\n\udcff.npy
    >>> print(printable("two words, déjà vu"))
    two words, déjà vu
    """
    text = str(given)
    if len(text) > 2 * _LONGEST:
        text = text[:_LONGEST] + text[-_LONGEST:]  # more is not shown
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


def clean(text: str, longest: int | None = _CAPTION) -> str:
    r"""One line without control characters, cut where it is longer than ``longest``.

    >>> clean("two\nlines"), clean("too long for this", 9)
    ('two lines', 'too long…')
    """
    text = "".join(c if c.isprintable() or c in "\u200d\u200c" else " " for c in text)
    text = " ".join(text.split())
    if longest is None or len(text) <= longest:
        return text
    return text[: longest - 1].rstrip() + "…"
