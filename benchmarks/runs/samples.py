"""The file of an evaluation as samples grow: writing, memory, size, and joining shards beside copying as many bytes.

The maps are synthetic, so that nothing but the store is measured. This module imports no torch, nor do the processes
that it measures.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from benchmarks.records.ledger import Ledger
from benchmarks.records.tables import markdown_table
from benchmarks.workers import Worker, process_peak
from relprop.errors import InputError
from relprop.store import EvaluationWriter, Layout, Method, merge
from relprop.store.schema import METHOD_FIELDS

SIDE, CLASSES, UNIT = 32, 10, 64
"""Of pictures and model; samples in a commit."""
METHOD = Method("synthetic", {"rules": "none"}, "maps that mean nothing", maps="summed")
LAYOUT = Layout((SIDE, SIDE), CLASSES, name_length=16)
_SCORES = tuple(field.name for field in METHOD_FIELDS if field.direction is not None)


@dataclass(frozen=True)
class SamplesRow:
    """A run of so many samples of 32 x 32 with one map each, in so many files.

    Attributes
    ----------
    samples, shards
        What was written.
    write_seconds, write_cpu_seconds, write_mib
        Wall clock and processor time of writing all shards, and the peak memory of the process.
    bytes
        Of the joined file.
    merge_seconds, merge_cpu_seconds, merge_mib
        Of joining them, in a process of its own.
    copy_seconds
        Of copying the joined file, and having the system put it on the disk, as the join does.
    over_copy
        The join's seconds over those.
    """

    KEYS: ClassVar = ("samples", "shards")

    samples: int
    shards: int
    write_seconds: float
    write_cpu_seconds: float
    write_mib: float
    bytes: int
    merge_seconds: float
    merge_cpu_seconds: float
    merge_mib: float
    copy_seconds: float
    over_copy: float


def parse_case(text: str) -> tuple[int, int]:
    """Return samples and shards of ``SAMPLES`` or ``SAMPLES:SHARDS``.

    Raises
    ------
    InputError
        These are no such numbers.
    """
    samples, _, shards = text.partition(":")
    if not samples.isdecimal() or not (shards or "1").isdecimal() or not 1 <= int(shards or 1) <= int(samples):
        raise InputError(f"give SAMPLES:SHARDS, as 1000:4, with a sample for each shard, not {text}")
    return int(samples), int(shards or 1)


def measure_samples(cases: Iterable[tuple[int, int]], ledger: Ledger, folder: Path | None) -> None:
    """Measure samples in shards, each case in new files below ``folder``, and add a row of each to the ledger.

    A case takes room for three times its file, and 20 kB a sample are enough.

    Raises
    ------
    WorkerError
        A process fails.
    """
    for samples, shards in tqdm(list(cases), "samples", unit="case", disable=None):
        with TemporaryDirectory(dir=folder) as made:
            paths = [Path(made, f"{part}.h5") for part in range(shards)]
            joined = Path(made, "joined.h5")
            written = _in_own_process(partial(_write, samples), paths)
            os.sync()  # what is measured next does not wait for it
            merged = _in_own_process(partial(_join, joined), paths)
            os.sync()
            copying = _copy(joined, Path(made, "copy.h5"))
            size = joined.stat().st_size
        ledger.append(SamplesRow(samples, shards, *written, size, *merged, copying, merged[0] / copying))


def _in_own_process(job: Any, paths: Sequence[Path]) -> tuple[float, float, float]:
    worker: Worker[Sequence[Path], tuple[float, float, float]] = Worker(partial(_timed, job), preload=(__name__,))
    try:
        return worker(paths)
    finally:
        worker.stop()


def _timed(job: Any, paths: Sequence[Path]) -> tuple[float, float, float]:
    start, busy = time.perf_counter(), time.process_time()
    job(paths)
    return time.perf_counter() - start, time.process_time() - busy, process_peak()


def _write(samples: int, paths: Sequence[Path]) -> None:
    shared, own = _columns(np.random.default_rng(0))
    for part, path in enumerate(paths):
        config = {"samples": samples, "seed": 0, "shard": [part, len(paths)]}
        index = range(part, samples, len(paths))
        with EvaluationWriter.create(path, config, LAYOUT, index, methods=[METHOD]) as writer:
            for start in range(0, len(index), UNIT):
                rows = np.arange(start, min(start + UNIT, len(index)))
                names = [f"{number:08}.png" for number in index[start : start + UNIT]]
                writer.write_samples(rows, {**_first(shared, len(rows)), "name": names})
                writer.commit()
                writer.write_method(METHOD.name, rows, _first(own, len(rows)))
                writer.commit()
            writer.finish()


def _join(joined: Path, paths: Sequence[Path]) -> None:
    merge(paths, joined)


def _copy(source: Path, target: Path) -> float:
    start = time.perf_counter()
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written, 1 << 24)
        written.flush()
        os.fsync(written.fileno())
    return time.perf_counter() - start


def _columns(generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `UNIT` samples have, and their rows of a method; noise, which is the least compressible."""
    shared = {name: np.zeros(UNIT, np.int64) for name in ("label", "prediction", "target", "quadrant")}
    floats = {"quadrant_scores": (4,), "logit": (2, 10), "probability": (2, 10), "output": (CLASSES,)}
    values = {name: generator.random((UNIT, *shape), np.float32) for name, shape in floats.items()}
    members = np.zeros((UNIT, 4), np.int64)
    steps = generator.integers(1, 11, (UNIT, 2, SIDE, SIDE), np.uint8)
    impact = generator.integers(-1, 2, (UNIT, SIDE, SIDE), np.int8)
    own = {name: generator.random(UNIT, np.float32) for name in _SCORES}
    own["map_change"] = generator.random((UNIT, 2, 9), np.float32)
    own["relevance"] = generator.standard_normal((UNIT, SIDE, SIDE), np.float32)
    return {**shared, **values, "mosaic_members": members, "steps": steps, "impact": impact}, own


def _first(columns: Mapping[str, Any], count: int) -> dict[str, Any]:
    return {name: values[:count] for name, values in columns.items()}


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table of recorded rows."""
    header = [
        "samples", "shards", "written, s", "ms of a core a sample", "writing, MiB", "kB a sample", "joined, s",
        "of a core", "joining, MiB", "copied, s", "joined over copied",
    ]  # fmt: skip
    lines = [
        [
            f"{int(row['samples']):,}",
            row["shards"],
            f"{float(row['write_seconds']):.1f}",
            f"{1e3 * float(row['write_cpu_seconds']) / int(row['samples']):.2f}",
            f"{float(row['write_mib']):.0f}",
            f"{int(row['bytes']) / 1e3 / int(row['samples']):.1f}",
            f"{float(row['merge_seconds']):.1f}",
            f"{float(row['merge_cpu_seconds']):.1f}",
            f"{float(row['merge_mib']):.0f}",
            f"{float(row['copy_seconds']):.2f}",
            f"{float(row['over_copy']):.1f}",
        ]
        for row in sorted(rows, key=lambda row: (int(row["shards"]), int(row["samples"])))
    ]
    return markdown_table([header, *lines], len(header))
