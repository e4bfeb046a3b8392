"""Worker processes that load what they need before they have a shard."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from relprop.engines import worker
from relprop.engines.machine import Place
from relprop.engines.processes import _Seat


def die_once(folder: Path, device: str | None) -> str:
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "loaded"


def load_slowly(folder: Path, device: str | None) -> str:
    (folder / "begun").touch()
    time.sleep(60)
    (folder / "loaded").touch()
    return "loaded"


@dataclass
class Work:
    """Work of which a test says how it is loaded."""

    load: Callable[[str | None], str]
    quiet: bool = False

    def begin(self, loaded: str) -> str:
        return loaded


def seat_of(load: Any, folder: Path) -> _Seat:
    return _Seat(pickle.dumps(Work(partial(load, folder))), Place(1))


def test_a_worker_that_dies_while_it_loads_is_replaced(tmp_path: Path) -> None:
    seat = seat_of(die_once, tmp_path)
    seat.load()
    loading = seat._loading
    assert loading is not None
    wait([loading])
    assert isinstance(loading.exception(), BrokenProcessPool)
    assert seat.submit(worker.begin).result() == "loaded"
    seat.close()


def test_nobody_waits_for_what_is_loaded_in_vain(tmp_path: Path) -> None:
    seat = seat_of(load_slowly, tmp_path)
    seat.load()
    while not (tmp_path / "begun").exists():
        time.sleep(0.1)
    seat.close()
    assert not (tmp_path / "loaded").exists()
