"""What runs in a worker process: it loads the job once, and evaluates one shard after the other."""

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
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from relprop.engines.job import Job, Loaded
from relprop.engines.machine import Place
from relprop.errors import RelpropWarning
from relprop.evaluation import DataError, Evaluation, evaluate
from relprop.evaluation.data.datasets import Stream, open_source
from relprop.models import Classifier

INTERVAL = 0.2
"""Seconds between two words about how far a shard is."""


@dataclass(frozen=True)
class Shard:
    """A part of a run: ``part`` of ``parts``, in a file of its own."""

    part: int
    parts: int
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a shard.

    Parameters
    ----------
    evaluation : Evaluation, optional
        None where a signal stopped it; what was computed is committed.
    warnings : tuple of str
        Remarks on it.
    """

    evaluation: Evaluation | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Word:
    """What a worker tells while it works: its process, and how far its shard is."""

    process: int
    part: int = -1
    done: float = 0.0


class Worker:
    """The job of this process.

    Parameters
    ----------
    job : bytes
        A pickled `Job`.
    place : Place
        Where it computes.
    interval : float
        Seconds between two words about how far a shard is.
    """

    def __init__(self, job: bytes, place: Place, interval: float = INTERVAL) -> None:
        self._job, self._place, self._interval = job, place, interval
        self._loaded: tuple[Job, Loaded] | None = None
        self._remarks: list[str] = []

    def load(self) -> tuple[Job, Loaded]:
        """Return the job and what is loaded for it, which is done once."""
        if self._loaded is None:
            torch.set_num_threads(self._place.threads)
            job: Job = pickle.loads(self._job)
            self._remarks = _gather_warnings(job.quiet)
            self._loaded = job, job.load(self._place.device)
            self._job = b""
        return self._loaded

    def order(self) -> NDArray[np.int64]:
        """Return the indices of the samples that are taken, in their order, ``(N,)``.

        Raises
        ------
        DataError
            The data set has no length.
        """
        job, (model, dataset, _) = self.load()
        options = job.options
        source = open_source(
            dataset,
            class_names=model.labels if isinstance(model, Classifier) else (),
            identity=options.get("data_name"),
            limit=options.get("limit"),
            per_class=options.get("per_class"),
        )
        if isinstance(source, Stream):
            raise DataError("a data set without a length can't be cut into shards: evaluate it in one process")
        return source.order(options.get("seed", 0))

    def run(self, shard: Shard, tell: Callable[[float], None]) -> Outcome:
        """Evaluate a shard, or what is left of it."""
        job, (model, dataset, methods) = self.load()
        try:
            found = evaluate(
                model,
                dataset,
                methods,
                shard.path,
                **job.options,
                resume=True,
                shard=(shard.part, shard.parts),
                progress=_not_too_often(tell, self._interval),
            )
        except KeyboardInterrupt:
            return Outcome(None, tuple(self._remarks))
        return Outcome(found, tuple(self._remarks))


_here: list[tuple[Worker, Connection]] = []
"""The worker of this process, and its way to the one that started it."""


def start(job: bytes, place: Place, way: Connection) -> None:
    """Make this process a worker. Ctrl-C, which a terminal sends to a group of processes, is left to its parent."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _here.append((Worker(job, place), way))
    way.send(Word(os.getpid()))


def order() -> NDArray[np.int64]:
    """Do `Worker.order` in this process: indices ``(N,)``."""
    return _here[0][0].order()


def run_shard(shard: Shard) -> Outcome:
    """Do `Worker.run` in this process."""
    worker, way = _here[0]
    return worker.run(shard, lambda done: way.send(Word(os.getpid(), shard.part, done)))


def _end_with_parent() -> None:
    """Stop, as by SIGTERM, once the process that started this one is gone: nobody would join its shards."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _not_too_often(tell: Callable[[float], None], interval: float) -> Callable[[float, int | None], None]:
    last = 0.0

    def report(done: float, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= interval or done == total:
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
