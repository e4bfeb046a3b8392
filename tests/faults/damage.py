"""Files of which a bit has changed, or the end is gone, and what became of who read them."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import relprop
from relprop.errors import RelpropError
from relprop.store import survey
from tests.helpers.store_files import LAYOUT, config, contents, write_file

COMPRESSIONS = ("gzip", "zstd", "none")
LIMIT = 20.0
"""Seconds that a read may take."""
ENDED = ("right", "told", "silent", "raw")
"""What becomes of a read: the values that were written, an error of ours, other values, an error of somebody else's."""


def prepare(folder: Path, compression: str) -> Path:
    """Write a complete file."""
    folder.mkdir(parents=True, exist_ok=True)
    layout = replace(LAYOUT, compression=None if compression == "none" else compression)  # type: ignore[arg-type]
    path = folder / f"{compression}.h5"
    return path if path.exists() else write_file(path, range(12), config(12), layout)


def damaged(source: Path, target: Path, kind: str, number: int) -> None:
    """Write a file as another one is, but for one bit (``flip``) or its end (``truncate``), which the number draws."""
    content = bytearray(source.read_bytes())
    chance = random.Random(f"{kind} {number}")
    place = chance.randrange(len(content))
    if kind == "flip":
        content[place] ^= 1 << chance.randrange(8)
    else:
        del content[place:]
    target.write_bytes(content)


def read_all(path: Path) -> dict[str, Any]:
    """Return what a file holds: values, and what it says of itself."""
    found = contents(path, without=())
    with relprop.Results(path) as results:
        found |= {"config": results.config, "samples": results.samples, "complete": results.complete}
        for name in results.methods:
            found[f"config of {name}"] = results.method_config(name), results.description(name)
    return found


def same(one: Any, other: Any) -> bool:
    """Compare what was read, NaN being equal to NaN."""
    if hasattr(one, "__dataclass_fields__"):
        return all(same(value, getattr(other, name)) for name, value in vars(one).items())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, np.ndarray) and one.dtype.kind in "fiu":
        return bool(one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    if isinstance(one, np.ndarray):
        return bool(one.tolist() == other.tolist())
    return bool(one == other)


def outcome(path: Path, wanted: dict[str, Any]) -> str:
    """Read a file in a fork, and return what became of it: one of `ENDED`, ``signal N``, or ``too long``."""
    child = os.fork()
    if not child:
        code = 3
        try:
            code = _read(path, wanted)
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    end = time.monotonic() + LIMIT
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "too long"
        time.sleep(0.002)
    if os.WIFSIGNALED(found[1]):
        return f"signal {os.WTERMSIG(found[1])}"
    return ENDED[os.WEXITSTATUS(found[1])]


def _read(path: Path, wanted: dict[str, Any]) -> int:
    code = 1
    with suppress(RelpropError):
        code = 0 if same(read_all(path), wanted) else 2
    with suppress(RelpropError):
        found = survey(path)
        if code == 1 and found.sound and found.checked:
            return 2  # it said that nothing is wrong
    return code
