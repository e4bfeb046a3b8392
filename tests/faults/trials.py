"""Runs one job many times, each in a fork of its own whose writes fail at another place; prints what became of each.

Started with the library of `tests.faults.library` preloaded: ``trials.py MODULE:JOB FOLDER KIND NTH...``. A job is
called with an empty folder and returns nothing; a `RelpropError` that it raises is "told".
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

TOLD, RAW = 7, 8


def run(job: Callable[[Path], None], folder: Path, kind: str, nth: int) -> str:
    """Return ``done``, ``told``, ``raw`` or ``signal N``."""
    shutil.rmtree(folder, ignore_errors=True)  # of another test's trial of the same number
    folder.mkdir(parents=True)
    child = os.fork()
    if not child:
        from relprop.errors import RelpropError

        log = os.open(folder / "log.txt", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= {"FAULT_FOLDER": os.path.realpath(folder), "FAULT_KIND": kind, "FAULT_NTH": str(nth)}
        if kind == "count":
            os.environ["FAULT_REPORT"] = str(folder / "count.txt")
        code = 0
        try:
            job(folder)
        except RelpropError as error:
            print(f"told: {error}")
            code = TOLD
        except BaseException:
            traceback.print_exc()
            code = RAW
        sys.stdout.flush()
        sys.stderr.flush()
        if code == 0 and kind == "count":
            return "child"  # ends as usual, so that the library reports
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return {0: "done", TOLD: "told"}.get(os.WEXITSTATUS(status), "raw")


if __name__ == "__main__":
    place, where, kind, *numbers = sys.argv[1:]
    module, _, name = place.partition(":")
    job = getattr(importlib.import_module(module), name)
    for number in numbers:
        outcome = run(job, Path(where, f"{name}-{kind}-{number}"), kind, int(number))
        if outcome != "child":
            print(number, outcome, flush=True)
