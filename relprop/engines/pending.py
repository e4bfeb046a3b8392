"""What engines have in common: workers that take shards, and shards that are not done yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from relprop.engines.errors import EngineError
from relprop.engines.shards import ShardFolder
from relprop.engines.worker import Outcome, Shard

ATTEMPTS = 3
"""Times that a shard is begun before the run is given up."""
POLL = 0.2
"""Seconds between two looks at what workers tell."""

Tell = Callable[[int, float], None]
"""Called with the number of a shard and the samples of it that are worked off."""


class Workers(Protocol):
    """Those who work on a run."""

    @property
    def count(self) -> int:
        """How many they are."""

    def begin(self, obey: Callable[[], None]) -> Any:
        """Return what the work plans by, found by one worker; errors are those of `Work.load` and `Work.begin`."""

    def run(self, shards: Sequence[Shard], tell: Tell, obey: Callable[[], None]) -> Iterator[tuple[Shard, Outcome]]:
        """Do shards, and yield each as it is done.

        Parameters
        ----------
        shards : sequence of Shard
            In the order in which they are begun.
        tell : callable
            Called as they come on.
        obey : callable
            Raises KeyboardInterrupt where the run shall stop.

        Raises
        ------
        EngineError
            Workers died on one shard again and again.
        KeyboardInterrupt
            It was to stop; what was computed is committed.
        Exception
            What the work raised on a shard.
        """


class Engine(Protocol):
    """Where workers come from. What can be refused early is refused when an engine is made."""

    def open(self, folder: ShardFolder) -> AbstractContextManager[Workers]:
        """Start workers for a run; they end with the block."""


class Pending:
    """The shards that nobody has begun, or that have to be begun again.

    Parameters
    ----------
    shards : sequence of Shard
        In the order in which they are begun.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._left = list(reversed(shards))
        self._begun = dict.fromkeys((shard.part for shard in shards), 0)

    def __bool__(self) -> bool:
        return bool(self._left)

    def take(self) -> Shard:
        """Return the next shard, which is begun now."""
        shard = self._left.pop()
        self._begun[shard.part] += 1
        return shard

    def put_off(self, shard: Shard) -> None:
        """Take back a shard whose worker lacks something, which is no failure."""
        self._begun[shard.part] -= 1
        self._left.append(shard)

    def put_back(self, shard: Shard, error: Exception | None = None) -> None:
        """Take back a shard whose worker died, or failed.

        Parameters
        ----------
        shard : Shard
            It is the next one to be begun.
        error : Exception, optional
            What the worker raised; None where it died.

        Raises
        ------
        EngineError
            It was begun `ATTEMPTS` times, and the last worker died.
        Exception
            It was begun so many times, and the last worker raised this.
        """
        if self._begun[shard.part] < ATTEMPTS:
            self._left.append(shard)
            return
        if error is not None:
            raise error
        raise EngineError(
            f"workers ended {ATTEMPTS} times on shard {shard.part} of {shard.parts}: out of memory, or killed. What is "
            "committed stays: resume the run, with fewer processes"
        )
