"""Explaining a folder from the command line: pictures a second, beside plain inference, and peak memory.

Each run is a process of its own, once over a few pictures and once over all. Start-up, capture and checks are in
both, so the difference of the two says what one more picture costs; and if memory grew with the number of pictures,
the second peak would be higher.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch

from relprop.models import PictureError, find_pictures, load_classifier, read_picture

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class StreamRow:
    """One job over all pictures.

    Attributes
    ----------
    model, job, pictures, batch
        What was measured: plain inference (read, prepare, predict), or explaining and writing a PNG for each.
    seconds
        Wall clock of the process, start-up and capture included.
    pictures_per_second
        From the pictures that the longer run had more.
    peak_mib, peak_mib_of_fewer
        Peak memory of the process, over all pictures and over the fewer ones of the shorter run.
    fewer
        Pictures of the shorter run.
    """

    KEYS: ClassVar = ("model", "job", "pictures", "batch")

    model: str
    job: str
    pictures: int
    batch: int
    seconds: float
    pictures_per_second: float
    peak_mib: float
    fewer: int
    peak_mib_of_fewer: float


@dataclass(frozen=True)
class _Cost:
    seconds: float
    peak_mib: float


def stream(model: str, weights: Path | None, folder: Path, fewer: int, batch: int) -> list[StreamRow]:
    """Measure plain inference and ``relprop explain`` over the pictures of a folder.

    Raises
    ------
    RelpropError
        There are no more pictures than ``fewer``.
    RuntimeError
        A run fails; its errors are on the screen.
    """
    pictures = find_pictures([folder])
    if len(pictures) <= fewer:
        raise PictureError(f"{folder} has {len(pictures)} pictures; more than {fewer} are needed")
    options = ["--model", model, *(["--weights", str(weights)] if weights else []), "--batch-size", str(batch)]
    rows = []
    for job in ("inference", "explain"):
        costs = []
        for chosen in (pictures[:fewer], pictures):
            with TemporaryDirectory() as output:
                names = Path(output, "pictures.txt")
                names.write_text("\n".join(map(str, chosen)))
                program = f"from benchmarks.runs.stream import {job}; {job}({str(names)!r}, {options!r}, {output!r})"
                costs.append(_run([sys.executable, "-c", program]))
        few, many = costs
        more = (len(pictures) - fewer) / (many.seconds - few.seconds)
        rows.append(StreamRow(model, job, len(pictures), batch, many.seconds, more, many.peak_mib, fewer, few.peak_mib))
    return rows


def explain(names: str, options: Sequence[str], output: str) -> None:
    """Run ``relprop explain`` in this process."""
    from relprop.cli import app

    app(["explain", *Path(names).read_text().splitlines(), *options, "-o", output])


def inference(names: str, options: Sequence[str], _: str) -> None:
    """Predict the classes of pictures, batch by batch, as ``relprop explain`` reads them."""
    given = dict(zip(options[::2], options[1::2], strict=True))
    weights = given.get("--weights")
    classifier, size = load_classifier(given["--model"], Path(weights) if weights else None), int(given["--batch-size"])
    paths = [Path(name) for name in Path(names).read_text().splitlines()]
    with torch.inference_mode():
        for start in range(0, len(paths), size):
            batch = [classifier.transform(read_picture(path)) for path in paths[start : start + size]]
            classifier.model(torch.stack(batch)).argmax(1).tolist()


def _run(command: Sequence[str]) -> _Cost:
    """Run a process and tell its wall clock and peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed with status {os.waitstatus_to_exitcode(status)}")
    return _Cost(time.perf_counter() - start, usage.ru_maxrss / 1024)
