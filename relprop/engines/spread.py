"""`evaluate`: the evaluation of `relprop.evaluate`, spread over workers as shards that are joined in the end."""

from __future__ import annotations

import inspect
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from relprop.engines.job import Given, Job
from relprop.engines.machine import Processes, places
from relprop.engines.outcome import add_shard, read_outcome
from relprop.engines.processes import open_processes
from relprop.engines.shards import ShardFolder
from relprop.engines.worker import Shard
from relprop.errors import InputError, RelpropWarning, near_names
from relprop.evaluation import Evaluation
from relprop.evaluation import evaluate as evaluate_here
from relprop.evaluation.pipeline.interrupts import delayed_interrupts
from relprop.evaluation.pipeline.progress import Progress, shown
from relprop.evaluation.pipeline.standing import Standing

OWN = ("shard", "resume", "overwrite", "progress", "device", "log")
"""Arguments of `relprop.evaluate` that are not handed to workers as they are."""


def evaluate(
    model: Any,
    dataset: Any,
    methods: Any,
    path: str | PathLike[str],
    *,
    processes: Processes = "auto",
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | bool = True,
    device: str | None = None,
    log: str | PathLike[str] | None = None,
    **options: Any,
) -> Evaluation:
    """Score attribution methods as `relprop.evaluate` does, in several processes of this machine.

    The run is cut into more shards than there are workers, in a folder ``FILE.shards`` beside the file; they are joined
    when all are done, and removed when the joined file was read back. Every data set but ``seconds`` has the bits of
    one process with as many threads as each worker. A worker that dies is replaced, and its shard goes on from what was
    committed.

    Parameters
    ----------
    model, dataset, methods, path
        As of `relprop.evaluate`; the data set has a length. They are sent to the workers: what can't be pickled is
        refused, and a script calls this under ``if __name__ == "__main__":``.
    processes : int or {"auto", "gpus"}
        Workers. Without a GPU the cores are shared evenly among them. ``"auto"``: one for each GPU, else for each group
        of cores.
    resume, overwrite, progress, log
        As of `relprop.evaluate`. A run is resumed with any number of processes. A mean GAE is that of finished
        shards.
    device : str, optional
        Where all workers compute; ``"cuda"`` shares all GPUs.
    **options
        Further arguments of `relprop.evaluate`, but ``shard``.

    Returns
    -------
    Evaluation
        Of the joined file; seconds are those of all workers together, but ``total``.

    Raises
    ------
    EngineError
        Something can't be sent to workers, or workers died again and again.
    RelpropError
        Whatever `relprop.evaluate` raises, in any worker.
    KeyboardInterrupt
        SIGINT or SIGTERM arrived; what was computed is committed, and ``resume=True`` goes on.
    """
    _check_options(options)
    if resume and overwrite:
        raise InputError("pass <resume> or <overwrite>, not both", resume="True", overwrite="True")
    job = Job(Given(model, dataset, methods), options)
    return spread(
        job, Path(path), processes, resume=resume, overwrite=overwrite, progress=progress, device=device, log=log
    )


def spread(
    job: Job,
    path: Path,
    processes: Processes,
    *,
    resume: bool,
    overwrite: bool,
    progress: Progress | bool,
    device: str | None,
    log: str | PathLike[str] | None = None,
) -> Evaluation:
    """Do a job in processes of this machine; the arguments, and errors, are those of `evaluate`."""
    start = time.perf_counter()
    seats, sent, folder = places(processes, device), job.pickled(), ShardFolder(path)
    with (
        folder.held(resume=resume, overwrite=overwrite),
        delayed_interrupts() as interruption,
        open_processes(sent, seats) as workers,
    ):
        order = workers.begin(interruption.obey)
        unit = job.options.get("unit", 2)
        if overwrite:
            folder.clear()
        parts = folder.plan(len(order), unit, len(seats))
        folder.cut(parts, order, unit)
        shards = [Shard(part, parts, folder.file(part, parts)) for part in range(parts)]
        found, remarks, done = [], Counter[str](), Counter[int]()
        standing = Standing()
        with shown(progress, standing, None if log is None else Path(log)) as report:

            def tell(part: int, count: float) -> None:
                done[part] = count  # type: ignore[assignment]
                report(sum(done.values()), len(order))

            for shard, outcome in workers.run(shards, tell, interruption.obey):
                found.append(outcome.result)
                add_shard(standing, shard.path)
                tell(shard.part, outcome.result.samples)
                for text in outcome.warnings:
                    remarks[text] += 1
        folder.join(parts, overwrite=resume or overwrite)
    for text in remarks:
        warnings.warn(text, RelpropWarning, stacklevel=3)
    return read_outcome(path, found, time.perf_counter() - start)


def _check_options(options: Iterable[str]) -> None:
    accepted = [name for name in inspect.signature(evaluate_here).parameters if name not in OWN]
    for name in options:
        if name == "shard":
            raise InputError("shard= is one part of a run, and processes= makes all of them: pass one of the two")
        if name not in accepted[4:]:
            raise InputError(f"relprop.evaluate has no argument {name}{near_names(name, accepted[4:])}")
