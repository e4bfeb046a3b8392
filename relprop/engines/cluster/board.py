"""A board on which tasks write how far they are, for the one that sent them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LISTEN = 2.0
"""Seconds between two looks at the board."""


class Board:
    """The board, and what is being read of it; made by `opened_board`.

    Without it, as when its node died, the run goes on, and finished shards alone show how far it is.
    """

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self.actor = ray, actor
        self._answer: Any = None
        self._last = 0.0

    def news(self) -> list[tuple[int, float]]:
        """Return the parts of which something was written since, with the samples that are worked off."""
        if self._answer is None:
            if time.monotonic() - self._last >= LISTEN:
                self._last, self._answer = time.monotonic(), self.actor.read.remote()
            return []
        if not self._ray.wait([self._answer], timeout=0)[0]:
            return []
        answer, self._answer = self._answer, None
        try:
            return list(self._ray.get(answer).items())
        except self._ray.exceptions.RayError:
            return []


@contextmanager
def opened_board(ray: Any) -> Iterator[Board]:
    """Put a board up somewhere in the cluster for the time of the block."""

    class Written:
        """What is written: by part, samples worked off. Defined here, its process has to import nothing of relprop."""

        def __init__(self) -> None:
            self.words: dict[int, float] = {}

        def tell(self, part: int, done: float) -> None:
            self.words[part] = done

        def read(self) -> dict[int, float]:
            words, self.words = self.words, {}
            return words

    actor = ray.remote(num_cpus=0, max_restarts=-1)(Written).remote()
    try:
        yield Board(ray, actor)
    finally:
        ray.kill(actor)
