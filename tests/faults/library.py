"""The library that makes writes fail, built where there is a compiler, and trials with it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

SOURCE = Path(__file__).with_name("failing_writes.c")


def build(folder: Path) -> Path:
    """Compile the library, or skip with the reason."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("writes are made to fail by a preloaded library: that needs Linux and a C compiler")
    library = folder / "failing_writes.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"{compiler} can't build the library that makes writes fail: {built.stderr.strip()[:300]}")
    return library


def trials(library: Path, job: str, folder: Path, kind: str, numbers: Sequence[int]) -> dict[int, str]:
    """Return what became of a job by which write failed; see `tests.faults.trials`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LD_PRELOAD": str(library)}
    command = [sys.executable, "-m", "tests.faults.trials", job, str(folder), kind, *map(str, numbers)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    return {int(number): outcome for number, _, outcome in (line.partition(" ") for line in ended.stdout.splitlines())}


def writes_of(library: Path, job: str, folder: Path) -> int:
    """Return how many writes a job makes."""
    counting = folder / f"{job.partition(':')[2]}-count-0" / "count.txt"
    if not counting.exists():
        trials(library, job, folder, "count", [0])
    return int(counting.read_text())


def drawn(count: int, of: int) -> list[int]:
    """Draw which writes fail, and print the seed that draws them again."""
    seed = int(os.environ.get("RELPROP_SEED") or random.SystemRandom().getrandbits(32))
    print(f"RELPROP_SEED={seed} draws these writes again")
    return sorted(random.Random(seed).sample(range(1, of + 1), min(count, of)))
