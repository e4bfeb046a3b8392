"""What runs in a worker process: it loads the job once, and does one shard after the other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch

from relprop.engines.machine import Place
from relprop.errors import RelpropWarning

INTERVAL = 0.2
"""Seconds between two words about how far a shard is."""


@dataclass(frozen=True)
class Shard:
    """A part of a run, or of its first ``limit`` samples: ``part`` of ``parts``, in a file of its own."""

    part: int
    parts: int
    path: Path
    limit: int | None = field(default=None, kw_only=True)  # behind what other kinds of shards add


class Work(Protocol):
    """What all workers of a run do, each on its shards; it can be pickled."""

    @property
    def quiet(self) -> bool:
        """Whether libraries are kept from talking on standard error."""

    @property
    def load(self) -> Callable[[str | None], Any]:
        """Return what is called once in each worker, with its device, for what shards need."""

    def begin(self, loaded: Any) -> Any:
        """Return what the run is planned by, before it begins; one worker is asked."""

    def run(self, loaded: Any, shard: Any, tell: Callable[[float], None]) -> Any:
        """Do what is left of a shard, and return what became of it.

        Raises
        ------
        KeyboardInterrupt
            A signal stopped it; what was computed is committed.
        """


@dataclass(frozen=True)
class Outcome:
    """What became of a shard.

    Parameters
    ----------
    result : object
        What the work says of it; None where a signal stopped it, what was computed is committed.
    warnings : tuple of str
        Remarks on it.
    """

    result: Any
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Word:
    """What a worker tells while it works: its process, and how far its shard is."""

    process: int
    part: int = -1
    done: float = 0.0


class Worker:
    """The work of this process.

    Parameters
    ----------
    work : bytes
        A pickled `Work`.
    place : Place
        Where it computes.
    interval : float
        Seconds between two words about how far a shard is.
    """

    def __init__(self, work: bytes, place: Place, interval: float = INTERVAL) -> None:
        self._work, self._place, self._interval = work, place, interval
        self._loaded: tuple[Work, Any] | None = None
        self._remarks: list[str] = []

    def load(self) -> tuple[Work, Any]:
        """Return the work and what is loaded for it, which is done once."""
        if self._loaded is None:
            torch.set_num_threads(self._place.threads)
            work: Work = pickle.loads(self._work)
            self._remarks = _gather_warnings(work.quiet)
            self._loaded = work, work.load(self._place.device)
            self._work = b""
        return self._loaded

    def begin(self) -> Any:
        """Return what the work plans by."""
        work, loaded = self.load()
        return work.begin(loaded)

    def run(self, shard: Shard, tell: Callable[[float], None]) -> Outcome:
        """Do a shard, or what is left of it."""
        work, loaded = self.load()
        try:
            found = work.run(loaded, shard, _not_too_often(tell, self._interval))
        except KeyboardInterrupt:
            return Outcome(None, tuple(self._remarks))
        return Outcome(found, tuple(self._remarks))


_here: list[tuple[Worker, Connection]] = []
"""The worker of this process, and its way to the one that started it."""
_at_work = threading.Lock()
"""Held while this process works on a shard."""


def start(work: bytes, place: Place, way: Connection) -> None:
    """Make this process a worker. Ctrl-C, which a terminal sends to a group of processes, is left to its parent."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _here.append((Worker(work, place), way))
    way.send(Word(os.getpid()))


def load() -> None:
    """Do `Worker.load` in this process."""
    _here[0][0].load()


def begin() -> Any:
    """Do `Worker.begin` in this process."""
    return _here[0][0].begin()


def run_shard(shard: Shard) -> Outcome:
    """Do `Worker.run` in this process."""
    worker, way = _here[0]
    with _at_work:
        return worker.run(shard, lambda done: way.send(Word(os.getpid(), shard.part, done)))


def _end_with_parent() -> None:
    """Stop, as by SIGTERM, once the process that started this one is gone: nobody would join its shards.

    A shard at work takes the signal for itself, commits and returns. Then there is no further one.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        with _at_work:
            os._exit(1)


def _not_too_often(tell: Callable[[float], None], interval: float) -> Callable[[float], None]:
    last = 0.0

    def report(done: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= interval:
            last = now
            tell(done)

    return report


def _gather_warnings(quiet: bool) -> list[str]:
    """Keep remarks on results, from now on, for the process that started this one, which tells each once."""
    found: list[str] = []
    if quiet:
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
    warnings.simplefilter("always", RelpropWarning)
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, RelpropWarning):
            others(message, category, *where, **more)
        elif str(message) not in found:
            found.append(str(message))

    warnings.showwarning = show
    return found
