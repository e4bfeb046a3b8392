"""Python's garbage collector, which waits while a graph is made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Let no cycles be searched for inside of the block.

    A capture makes some hundred thousand objects that live until its end. The collector would walk through them, and
    through all that torch has imported, again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
