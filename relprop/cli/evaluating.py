"""The run of ``relprop evaluate``: model, pictures and methods are loaded here or in each worker process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from relprop.cli.app import INTERRUPTED, TERMINATED
from relprop.cli.subject import Subject
from relprop.files import OutputError

if TYPE_CHECKING:
    from relprop.evaluation import Evaluation, PictureFolder
    from relprop.evaluation.data.folders import Listing
    from relprop.models import Classifier


@dataclass(frozen=True)
class Loading:
    """What is loaded; it can be sent to other processes, which load it again.

    Parameters
    ----------
    subject : Subject
        The model.
    data : Path or Listing, optional
        A folder of pictures, or what was found there; the samples that foolbox carries without it.
    methods : tuple of str
        Their names.
    truth : Path or mapping, optional
        A table of labels, or what was read of it; or ``none``.
    labels_for : str
        Where pictures must have labels: what uses them, for the error.
    """

    subject: Subject
    data: Path | Listing | None
    methods: tuple[str, ...]
    truth: Path | Mapping[str, int] | None = None
    labels_for: str = ""

    def __call__(self, device: str | None) -> tuple[Classifier, PictureFolder, list[str]]:
        """Load model, pictures and methods; errors are those of `load_classifier` and `PictureFolder`."""
        from relprop.evaluation.data.folders import PictureFolder
        from relprop.evaluation.data.samples import DataError
        from relprop.models import sample_pictures

        places = sample_pictures() if self.data is None else self.data
        classifier = replace(self.subject, device=device).load().alone()  # what is scored returns one tensor
        pictures = PictureFolder(
            places, labels=False if str(self.truth) == "none" else self.truth, class_names=classifier.labels
        )
        if self.labels_for and pictures.labels is None:
            raise DataError(
                f"no picture has a label, which {self.labels_for}: give a table of labels with --truth CSV, or a "
                "folder for each class"
            )
        return classifier, pictures, list(self.methods)

    def listed(self, change: Callable[[Listing], Listing]) -> Loading:
        """Do `Load.listed`, and read the table of labels."""
        from relprop.evaluation.data.folders import Listing, list_pictures, read_label_table
        from relprop.models import sample_pictures

        places = sample_pictures() if self.data is None else self.data
        found = places if isinstance(places, Listing) else list_pictures(places)
        truth = self.truth
        if isinstance(truth, Path) and str(truth) != "none":
            truth = read_label_table(truth)
        return replace(self, data=change(found), truth=truth)


@dataclass(frozen=True)
class Spread:
    """How a run is divided: one part of it here, or all parts by workers of an engine.

    Parameters
    ----------
    shard : tuple of int, optional
        ``(i, n)``; None: the part that a batch system says.
    processes : int or {"gpus", "auto"}, optional
        Workers; None: this process alone.
    engine : str
        Where workers are, as `relprop.engines.evaluate` takes it.
    local : int, optional
        Which of this machine's tasks this one is, where a batch system gave it a part.
    """

    shard: tuple[int, int] | None = (0, 1)
    processes: Any = None
    engine: str = "processes"
    local: int | None = None

    def place(self, output: Path) -> tuple[Spread, Path]:
        """Return this with the part that is meant, and the file for it where ``output`` is that of the run.

        Raises
        ------
        EngineError, OutputError
            No batch system says which part is meant; the folder of shards can't be made.
        """
        if self.shard is not None:
            return self, output
        from relprop.engines.batch import find_task
        from relprop.store.shards import shard_file

        task = find_task(os.environ)
        file = shard_file(output, task.part, task.parts)
        try:
            file.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {file.parent}: {error.strerror}") from error
        return replace(self, shard=(task.part, task.parts), local=task.local), file

    def device(self, wanted: str | None) -> str | None:
        """Return where to compute: tasks of a batch system share the GPUs that they see."""
        if wanted is not None or self.local is None:
            return wanted
        from relprop.engines.machine import device_of_task

        return device_of_task(self.local)


def parse_spread(shard: str | None, processes: str | None, engine: str | None) -> Spread:
    """Read ``--shard``, ``--processes`` and ``--engine``; raise `BadParameter` where they can't be understood."""
    if processes is None and engine is None:
        return Spread(None if shard == "auto" else _shard(shard or "0/1"))
    if shard is not None:
        option = "--processes" if engine is None else "--engine"
        raise typer.BadParameter(f"--shard does one part of a run, {option} all of them: give one of the two")
    if engine not in (None, "ray") and not engine.startswith("ray://"):
        raise typer.BadParameter(f"--engine {engine}: it is ray, or ray://HOST:PORT")
    words = ("gpus", "auto")
    processes = processes or "auto"
    if processes not in words and (not processes.isdecimal() or int(processes) < 1):
        raise typer.BadParameter(f"--processes {processes}: it is a number from 1 on, or one of gpus and auto")
    return Spread(processes=processes if processes in words else int(processes), engine=engine or "processes")


def run_evaluation(
    loading: Loading,
    spread: Spread,
    path: Path,
    *,
    quiet: bool,
    resume: bool,
    overwrite: bool,
    progress: bool,
    log: Path | None,
    **options: Any,
) -> Evaluation:
    """Evaluate what is loaded, as it is to be divided; arguments and errors are those of `relprop.evaluate`."""
    if spread.processes is None:
        from relprop.evaluation import evaluate

        assert spread.shard is not None, "a part that a batch system says is found by Spread.place"
        return evaluate(
            *loading(spread.device(loading.subject.device)),
            path,
            shard=spread.shard,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            log=log,
            **options,
        )
    from relprop.engines.job import Job
    from relprop.engines.spread import make_engine
    from relprop.engines.spread import spread as spread_over

    job = Job(loading, options, quiet)
    engine = make_engine(spread.engine, job, spread.processes, loading.subject.device)
    return spread_over(job, path, engine, resume=resume, overwrite=overwrite, progress=progress, log=log)


def join_shards(shards: list[Path], output: Path, *, overwrite: bool) -> str:
    """Join shards, given as files and folders of them, and return words for what was made; errors are `merge`'s."""
    from relprop.store import merge, open_evaluation
    from relprop.store.shards import shard_files

    files = [file for place in shards for file in (shard_files(place) if place.is_dir() else [place])]
    merge(files, output, overwrite=overwrite)
    with open_evaluation(output) as file:
        count, methods = len(file["sample"]), ", ".join(file["methods"])
    return f"{output}: {count} samples of {len(files)} shards; methods {methods}"


def exit_code(stopped: KeyboardInterrupt) -> int:
    """Return the exit code of a run that a signal stopped: a batch system puts a job that was out of time in again."""
    from relprop.evaluation.pipeline.interrupts import Terminated

    return TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED


def is_begun(path: Path) -> bool:
    """Whether something of a run is there: its file, or shards of it."""
    from relprop.store.shards import shard_files, shard_folder

    return path.exists() or any(shard_files(shard_folder(path)))


def parse_colour(text: str) -> float | list[float]:
    """Read ``--baseline``; raise `BadParameter` where it is no colour."""
    try:
        values = [float(value) for value in text.split("/")]
    except ValueError:
        raise typer.BadParameter(f"--baseline {text}: it is a number, or one for each channel, as 0/0/0.5") from None
    return values if len(values) > 1 else values[0]


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise typer.BadParameter(f"--shard {text}: it is I/N, part I of N counted from 0, as 0/4")
    return int(part), int(parts)
