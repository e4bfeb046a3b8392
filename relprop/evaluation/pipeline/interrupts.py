"""Ctrl-C and SIGTERM, obeyed when what is being computed has been committed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived, as batch systems send it before the time of a job is over; what was computed is committed."""


@dataclass
class Interruption:
    """Whether to stop, and which signal said so."""

    requested: bool = False
    number: int = 0

    def obey(self) -> None:
        """Stop where a signal asked to.

        Raises
        ------
        Terminated, KeyboardInterrupt
            It was SIGTERM; it was Ctrl-C.
        """
        if self.requested:
            raise Terminated if self.number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def delayed_interrupts() -> Iterator[Interruption]:
    """Note the first signal that asks to stop; the second one stops at once, by KeyboardInterrupt.

    Only the main thread gets signals: in others nothing is changed.
    """
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def note(number: int, frame: FrameType | None) -> None:
        if found.requested:
            raise KeyboardInterrupt
        found.requested, found.number = True, number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
