"""Python's search for cycles of objects that nobody needs any more, kept from walking through what stays."""

from __future__ import annotations

import gc

NEW_OBJECTS = 100_000
"""After so many the search begins while modules are imported, which are a million objects that stay."""
_USUAL = gc.get_threshold()


def collect_rarely() -> None:
    """Search seldom from now on: much is imported (``benchmarks choices: imports``)."""
    gc.set_threshold(NEW_OBJECTS, *_USUAL[1:])


def collect_as_usual() -> None:
    """Search as often as Python does by itself: from now on objects come and go."""
    gc.set_threshold(*_USUAL)
