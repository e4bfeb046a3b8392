"""The file of a run: opened before the first unit, and reported on after the last one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from relprop.evaluation.pipeline.feeds import Feed
from relprop.evaluation.pipeline.runner import Run
from relprop.evaluation.report import Evaluation, Tally, tally_of
from relprop.evaluation.settings import versions
from relprop.gae import Flag
from relprop.store import EvaluationWriter, Extent, Layout, Method, State


@contextmanager
def open_run_file(
    path: Path,
    *,
    config: Mapping[str, Any],
    layout: Layout,
    feed: Feed,
    methods: Sequence[Method],
    device: torch.device,
    pictures: Path | None,
    resume: bool,
    overwrite: bool,
) -> Iterator[EvaluationWriter]:
    """Open the file of a run, or make it; one made here is removed if the run fails before anything of it is done.

    Parameters
    ----------
    path : Path
        Of the file.
    config, layout, methods
        As of `relprop.store.EvaluationWriter.create`.
    feed : Feed
        The samples.
    device : torch.device
        Where the run computes.
    pictures : Path, optional
        Folder of the pictures.
    resume, overwrite : bool
        Whether a file that is there is continued, or replaced.
    """
    if resume and path.exists():
        extent = None if feed.planned is None else Extent(feed.index, feed.planned)
        with EvaluationWriter.resume(path, config, layout, methods=methods, extent=extent) as writer:
            yield writer
        return
    software, something = versions(device), False
    writer = EvaluationWriter.create(
        path,
        config,
        layout,
        feed.index,
        planned=feed.planned,
        methods=methods,
        versions=software,
        pictures=pictures,
        overwrite=overwrite,
    )
    try:
        with writer:
            try:
                yield writer
            finally:
                something = bool((writer.sample_states() != State.ABSENT).any())
    except BaseException:
        if not something:  # it would only stand in the way of the next run
            path.unlink(missing_ok=True)
        raise


def report_of(path: Path, writer: EvaluationWriter, run: Run, seconds: float) -> Evaluation:
    """Return what became of a run, which is complete if no row of its file is left to be done."""
    states = writer.sample_states()
    tallies = {name: _tally(writer, name) for name in writer.methods}
    complete = not (states == State.ABSENT).any() and not any(tally.absent for tally in tallies.values())
    if complete:
        writer.finish()
    flags = writer.read_samples(np.arange(len(states)), ["flags"])["flags"]
    failed = np.flatnonzero(states == State.FAILED)
    phases = {phase: run.seconds[phase] for phase in ("loading", "masking", "explaining", "scoring", "writing")}
    return Evaluation(
        path=path,
        samples=len(states),
        evaluated=run.evaluated,
        unreadable=len(failed),
        failure=next(iter(writer.read_samples(failed[:1], ["message"])["message"]), ""),
        one_class=int(((flags & Flag.ONE_CLASS) != 0).sum()),
        methods=tallies,
        seconds=phases | {"total": seconds},
        explaining=dict(run.explaining),
        complete=complete,
    )


def _tally(writer: EvaluationWriter, name: str) -> Tally:
    def message(rows: NDArray[np.intp]) -> str:
        return next(iter(writer.read_method(name, rows, ["message"])["message"]), "")

    return tally_of(writer.method_states(name), writer.sample_states(), message)
