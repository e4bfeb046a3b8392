"""`evaluate`: the evaluation of `relprop.evaluate`, spread over workers as shards that are joined in the end."""

from __future__ import annotations

import inspect
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from relprop.engines.cluster.engine import OnCluster
from relprop.engines.job import Given, Job
from relprop.engines.machine import Processes
from relprop.engines.outcome import add_shard, read_outcome
from relprop.engines.pending import Engine
from relprop.engines.processes import OnThisMachine
from relprop.engines.shards import ShardFolder
from relprop.engines.stopping import work_until
from relprop.engines.worker import Shard
from relprop.errors import InputError, RelpropWarning, near_names
from relprop.evaluation import Evaluation
from relprop.evaluation import evaluate as evaluate_here
from relprop.evaluation.pipeline.interrupts import delayed_interrupts
from relprop.evaluation.pipeline.progress import Progress, shown
from relprop.evaluation.pipeline.standing import Standing
from relprop.evaluation.stopping import Judge, check_stop, evaluate_until

OWN = ("shard", "resume", "overwrite", "progress", "device", "log", "stop_when")
"""Arguments of `relprop.evaluate` that are not handed to workers as they are."""
RAY = "ray"
"""The engine of clusters, perhaps with an address behind it."""


def evaluate(
    model: Any,
    dataset: Any,
    methods: Any,
    path: str | PathLike[str],
    *,
    processes: Processes = "auto",
    engine: str = "processes",
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | bool = True,
    device: str | None = None,
    log: str | PathLike[str] | None = None,
    stop_when: str | None = None,
    **options: Any,
) -> Evaluation:
    """Score attribution methods as `relprop.evaluate` does, in several processes of this machine or of a cluster.

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
        of cores. On a cluster it is how many shards are worked on at once.
    engine : str
        ``"processes"`` of this machine; ``"ray"``: tasks on the cluster of Ray that this process or machine belongs to,
        or on this machine alone; ``"ray://HOST:PORT"``: on the cluster whose server of clients is there.
    resume, overwrite, progress, log
        As of `relprop.evaluate`. A run is resumed with any number of processes. A mean GAE is that of finished
        shards.
    device : str, optional
        Where all workers compute; ``"cuda"`` shares all GPUs.
    stop_when : str, optional
        As of `relprop.evaluate`: it stops at the same sample, having worked on up to twice as many.
    **options
        Further arguments of `relprop.evaluate`, but ``shard``.

    Returns
    -------
    Evaluation
        Of the joined file; seconds are those of all workers together, but ``total``.

    Raises
    ------
    EngineError
        Something can't be sent to workers, or workers died again and again; or there is no such cluster.
    MissingExtraError
        Ray is not installed.
    RelpropError
        Whatever `relprop.evaluate` raises, in any worker.
    KeyboardInterrupt
        SIGINT or SIGTERM arrived; what was computed is committed, and ``resume=True`` goes on.
    """
    _check_options(options)
    if resume and overwrite:
        raise InputError("pass <resume> or <overwrite>, not both", resume="True", overwrite="True")
    job = Job(Given(model, dataset, methods), options)
    make = partial(make_engine, engine, processes=processes, device=device)
    how: dict[str, Any] = {"progress": progress, "log": log}
    return spread_until(stop_when, job, Path(path), make, resume=resume, overwrite=overwrite, **how)


def spread_until(
    stop_when: str | None,
    job: Job,
    path: Path,
    make: Callable[[Job], Engine],
    *,
    resume: bool,
    overwrite: bool,
    **how: Any,
) -> Evaluation:
    """Do a job with an engine that is made for it until a rule is met, if there is one; errors are `evaluate`'s."""
    if stop_when is None:
        return spread(job, path, make(job), resume=resume, overwrite=overwrite, **how)
    rule = check_stop(stop_when, job.options)

    def run(judge: Judge) -> Evaluation:
        again = judge.after > 0
        workers = make(job)
        return spread(job, path, workers, resume=resume or again, overwrite=overwrite and not again, judge=judge, **how)

    def finish(count: int) -> Evaluation:
        whole = replace(job, options={**job.options, "limit": count})
        return spread(whole, path, make(whole), resume=True, overwrite=False, **how)

    return evaluate_until(rule, path, resume and not ShardFolder(path).files(), run, finish)


def make_engine(name: str, job: Job, processes: Processes, device: str | None) -> Engine:
    """Return the engine of this name; arguments, and errors, are those of `evaluate`."""
    if name == "processes":
        return OnThisMachine(job, processes, device)
    if name == RAY or name.startswith(f"{RAY}://"):
        return OnCluster(job, processes, device, None if name == RAY else name)
    raise InputError(f"there is no engine {name}: give processes, ray or ray://HOST:PORT")


def spread(
    job: Job,
    path: Path,
    engine: Engine,
    *,
    resume: bool,
    overwrite: bool,
    progress: Progress | bool,
    log: str | PathLike[str] | None = None,
    judge: Judge | None = None,
) -> Evaluation:
    """Do a job with an engine that was made for it; the arguments, and errors, are those of `evaluate`."""
    start, folder = time.perf_counter(), ShardFolder(path)
    with (
        folder.held(resume=resume, overwrite=overwrite),
        delayed_interrupts() as interruption,
        engine.open(folder) as workers,
    ):
        order = workers.begin(interruption.obey)
        unit = job.options.get("unit", 2)
        if overwrite:
            folder.clear()
        parts = folder.plan(len(order), unit, workers.count)
        folder.cut(parts, order, unit)
        shards = [Shard(part, parts, folder.file(part, parts)) for part in range(parts)]
        found, remarks, done = [], Counter[str](), Counter[int]()
        standing = Standing()
        with shown(progress, standing, None if log is None else Path(log)) as report:

            def tell(part: int, count: float) -> None:
                done[part] = count  # type: ignore[assignment]
                report(sum(done.values()), len(order))

            def work(shards: Sequence[Shard]) -> None:
                standing.clear()
                for shard, outcome in workers.run(shards, tell, interruption.obey):
                    found.append(outcome.result)
                    add_shard(standing, shard.path)
                    tell(shard.part, outcome.result.samples)
                    for text in outcome.warnings:
                        remarks[text] += 1

            if judge is None:
                work(shards)
            else:
                work_until(judge, shards, order, unit, work)
        change = None
        if judge is not None and judge.met not in (None, judge.covered):
            change = partial(judge.cut, unit=unit)
        folder.join(parts, overwrite=resume or overwrite, change=change)
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
