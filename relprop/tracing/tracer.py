"""One thread traces at a time: torch keeps the state of its tracers for the whole process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # another thread of the parent may have held it
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def only_tracer() -> Iterator[None]:
    """Wait until no other thread traces, and let none do so.

    While one thread exports a model, arithmetic on the symbolic sizes of any graph, in whatever thread, is recorded as
    the model's own: both threads fail. So whoever captures, assigns or rewrites does it here; runs need not.
    """
    with _lock:
        yield
