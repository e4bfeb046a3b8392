"""Making text from outside safe for a terminal: names, labels, messages and paths."""

from __future__ import annotations

import unicodedata

_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows, so that a name reads as another one."""
_STEERING = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of control characters, halves of pairs, and other line ends."""


def printable(text: str) -> str:
    r"""Replace what a terminal would obey, or can't show, but line ends and tabs.

    Examples
    --------
    >>> printable("cat\x1b[2J\n")
    'cat\ufffd[2J\n'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _steers(c) else "\ufffd" for c in text)


def _steers(character: str) -> bool:
    return character in _TURNS or unicodedata.category(character) in _STEERING
