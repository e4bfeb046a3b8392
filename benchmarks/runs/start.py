"""The cost of the first picture: processor time of whole processes, with an empty cache and with a filled one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import ClassVar

import timm
import torch
from tqdm import tqdm

from benchmarks.records.tables import markdown_table
from benchmarks.runs.synthetic import write_pictures
from relprop.errors import RelpropError
from relprop.tracing.disk.folder import VARIABLE

_FIRST_CALL = """
import sys, time, timm, torch, relprop
from relprop.explainer import Explainer
from torch.export import export
model, x = timm.create_model(sys.argv[1]).eval(), torch.randn(1, 3, int(sys.argv[2]), int(sys.argv[2]))
start = time.process_time()
relprop.explain(model, x)
print(time.process_time() - start)
"""


class ProcessError(RelpropError, RuntimeError):
    """A process that was to be measured ended otherwise than expected."""


@dataclass(frozen=True)
class StartRow:
    """Processor seconds, each the median of some processes.

    Attributes
    ----------
    model
        A timm model with random weights.
    imports
        A process that imports torch and nothing else: how fast this machine is now.
    timm
        One that imports timm, and by it torchvision: what any model costs that is named.
    first, again
        ``relprop explain`` on one picture: nothing cached, then all.
    call, cached
        ``relprop.explain`` in a new process after its imports: without the cache, and with it.
    path, rules, parameter
        ``relprop explain`` with a wrong path, name of a rule set, parameter of one.
    """

    KEYS: ClassVar = ("model",)

    model: str
    imports: float
    timm: float
    first: float
    again: float
    call: float
    cached: float
    path: float
    rules: float
    parameter: float


def measure_start(models: Sequence[str], repeats: int) -> list[StartRow]:
    """Measure one row for each model.

    Parameters
    ----------
    models
        Of timm.
    repeats
        Processes of each kind.

    Raises
    ------
    ProcessError
        If a process fails that should not, or the other way round.
    """
    rows = []
    with TemporaryDirectory() as made:
        (picture,) = write_pictures(Path(made, "pictures"), 1, 256)
        for name in tqdm(models, "start", unit="model", disable=None):
            weights, side = Path(made, f"{name}.pth"), timm.get_pretrained_cfg(name).input_size[-1]  # type: ignore[union-attr]
            torch.save(timm.create_model(name).state_dict(), weights)
            runs = [_measure_model(name, side, weights, picture, Path(made, f"{name}-{k}")) for k in range(repeats)]
            rows.append(StartRow(name, *(median(values) for values in zip(*runs, strict=True))))
    return rows


def _measure_model(name: str, side: int, weights: Path, picture: Path, made: Path) -> list[float]:
    explain = ["-m", "relprop", "explain", str(picture), "--model", name, "--weights", str(weights), "-o", str(made)]
    call, cache = ["-c", _FIRST_CALL, name, str(side)], str(made / "cache")
    wrong = ["-m", "relprop", "explain", str(picture), "--model", name, "-o", str(made)]
    return [
        *(_run(["-c", f"import {package}"], "0")[0] for package in ("torch", "timm")),
        *(_run(explain, cache)[0] for _ in range(2)),
        float(_run(call, "0")[1]),
        [float(_run(call, str(made / "calls"))[1]) for _ in range(2)][-1],
        _run([*wrong[:3], str(picture.with_name("none.jpg"))], cache, fails=True)[0],
        _run([*wrong, "--rules", "abslpr"], cache, fails=True)[0],
        _run([*wrong, "--rules", "epsilon:epsilom=1"], cache, fails=True)[0],
    ]


def _run(arguments: Sequence[str], cache: str, *, fails: bool = False) -> tuple[float, str]:
    """Run Python with one thread; return the processor seconds of the process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, VARIABLE: cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if bool(done.returncode) is not fails:
        raise ProcessError(
            f"python {' '.join(arguments[:3])} ended with {done.returncode}: {done.stderr.strip()[-500:]}"
        )
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table of recorded rows."""
    titles = {
        "imports": "torch",
        "cached": "call, cached",
        "path": "wrong path",
        "rules": "wrong rule set",
        "parameter": "wrong parameter",
    }
    names = [field.name for field in fields(StartRow) if field.name != "model"]
    lines = [[row["model"], *(f"{float(row[name]):.2f}" for name in names)] for row in rows]
    return markdown_table([["model", *(titles.get(name, name) for name in names)], *lines], len(names))
