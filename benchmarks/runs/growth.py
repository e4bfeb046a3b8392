"""Growth of an evaluation's memory with the number of pictures: runs in processes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from tqdm import tqdm

import relprop
from benchmarks.conditions import Conditions, under
from benchmarks.runs.synthetic import preparation, write_pictures
from benchmarks.speed.trials import Trial
from benchmarks.workers import Worker, process_peak

SIDE = 64
"""Of the pictures, which are small so that there can be many."""


@dataclass(frozen=True)
class GrowthRow:
    """A run in a process of its own, over small pictures.

    Attributes
    ----------
    model, methods, samples
        What was evaluated.
    seconds
        Of the run.
    process_mib
        Peak memory of the process.
    over_fewest
        Its ratio to the run over the fewest pictures.
    bytes_per_sample
        The file's size over the samples.
    """

    KEYS: ClassVar = ("model", "methods", "samples")

    model: str
    methods: str
    samples: int
    seconds: float
    process_mib: float
    over_fewest: float
    bytes_per_sample: float


def measure_memory(
    model: str, methods: Sequence[str], counts: Sequence[int], conditions: Conditions
) -> list[GrowthRow]:
    """Evaluate more and more small pictures, each time in a new process.

    Parameters
    ----------
    model
        A timm model that takes pictures of 64 pixels.
    methods
        As `relprop.evaluate` takes them.
    counts
        How many pictures.
    conditions
        In force in these processes.

    Raises
    ------
    WorkerError
        A process fails.
    """
    rows: list[GrowthRow] = []
    with TemporaryDirectory() as folder:
        pictures = write_pictures(Path(folder, "pictures"), max(counts), SIDE)
        for count in tqdm(sorted(counts), "memory", unit="run", disable=None):
            run = partial(_in_own_process, model, tuple(methods), Path(folder, f"{count}.h5"), conditions)
            worker = Worker(partial(under, conditions, run), preload=(__name__,))
            try:
                seconds, peak, size = worker(pictures[:count])
            finally:
                worker.stop()
            fewest = rows[0].process_mib if rows else peak
            rows.append(GrowthRow(model, " ".join(methods), count, seconds, peak, peak / fewest, size / count))
    return rows


def _in_own_process(
    name: str, methods: Sequence[str], file: Path, conditions: Conditions, pictures: Sequence[Path]
) -> tuple[float, float, int]:
    model, _ = Trial(name, 8, SIDE).make(conditions)
    found = relprop.evaluate(model, pictures, list(methods), file, transform=preparation(SIDE))
    return found.seconds["total"], process_peak(), file.stat().st_size
