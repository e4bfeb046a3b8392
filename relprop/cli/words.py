"""Splitting a list that is one word of the command line."""

from __future__ import annotations

import re


def split_words(text: str) -> list[str]:
    """Split a list at its commas, but not inside of brackets, which patterns of names have.

    Examples
    --------
    >>> split_words("blocks.[0,2], head")
    ['blocks.[0,2]', 'head']
    """
    return [word for part in re.split(r",(?![^\[]*\])", text) if (word := part.strip())]


def split_all(texts: list[str] | None) -> list[str]:
    """Split all values of an option that may be repeated, and lists several at commas, too."""
    return [word for text in texts or () for word in split_words(text)]
