"""What a task does on a node: a shard, in a file on the node's own disk, which goes home when it is done."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from relprop.engines.cluster.pictures import NotSent, laid_out
from relprop.engines.machine import Place
from relprop.engines.shards import NAMED
from relprop.engines.worker import Outcome, Shard, Worker
from relprop.errors import RelpropError
from relprop.evaluation import WorkerError
from relprop.extras import MissingExtraError
from relprop.files import OutputError, written_whole
from relprop.run.memory import OutOfMemoryError
from relprop.store import BusyError, State, method_names, open_evaluation

Bytes = NDArray[np.uint8]
"""What a file holds, ``(bytes,)``, which Ray hands on without copying it."""

Found = TypeVar("Found")
OF_THE_NODE = (BusyError, OutputError, MissingExtraError, OutOfMemoryError, WorkerError)
"""Errors of a shard that another node may not have."""
PATIENCE = 60.0
"""Seconds that a file is waited for, which a task of a driver that died still holds."""
INTERVAL = 2.0
"""Seconds between two words about how far a shard is."""


@dataclass(frozen=True)
class Home:
    """Where a run was started, and what all its tasks have in common.

    Parameters
    ----------
    job : sequence of one
        A reference to the pickled job. It is inside of a sequence, so that Ray leaves it to tasks to fetch it.
    place : Place
        Where each of them computes.
    directory : str
        What relative paths start from.
    """

    job: Sequence[Any]
    place: Place
    directory: str


@dataclass(frozen=True)
class Errand:
    """A shard to be done.

    Parameters
    ----------
    shard : Shard
        With its path at home, which is absolute.
    run : str
        The name of the run, which a file beside the shard holds, too: whoever reads it there sees home.
    begun : bool
        Whether there is a file of the shard at home.
    file : sequence of reference
        To that file, where it was sent.
    pictures : sequence of reference
        To pictures that were sent.
    board : actor, optional
        Gets word of how far the shard is.
    """

    shard: Shard
    run: str
    begun: bool
    file: Sequence[Any] = ()
    pictures: Sequence[Any] = ()
    board: Any = None


@dataclass(frozen=True)
class Parcel:
    """What a task returns.

    Parameters
    ----------
    outcome : Outcome, optional
        What became of the shard.
    file : ndarray, optional
        The bytes of its file, ``(bytes,)``, where the node does not see home.
    lacks_file : bool
        Nothing was done: the file at home is to be sent.
    lacks : int, optional
        Nothing was done: the node does not see this picture.
    order : ndarray, optional
        What `Worker.begin` returns, ``(N,)``.
    error : RelpropError, optional
        What was raised.
    """

    outcome: Outcome | None = None
    file: Bytes | None = None
    lacks_file: bool = False
    lacks: int | None = None
    order: NDArray[np.int64] | None = None
    error: RelpropError | None = None


_workers: dict[tuple[str, Place], Worker] = {}
"""The worker of this process, which Ray gives one task after the other."""


def find_order(home: Home) -> Parcel:
    """Do `Worker.begin`."""
    try:
        with _as_at(home):
            return Parcel(order=_worker(home).begin())
    except RelpropError as error:
        return Parcel(error=error)


def do_shard(home: Home, errand: Errand) -> Parcel:
    """Do a shard, or what is left of it; raise what may go well on another node."""
    try:
        with _as_at(home):
            return _do(home, errand)
    except NotSent as picture:
        return Parcel(lacks=picture.index)
    except OF_THE_NODE:
        raise
    except RelpropError as error:
        return Parcel(error=error)


def tidy(run: str) -> None:
    """Remove what tasks that died have left on this node."""
    shutil.rmtree(_own_folder(run), ignore_errors=True)


def store(file: Bytes, path: Path) -> None:
    """Write a file that was sent, ``(bytes,)``, whole or not at all."""
    with written_whole(path) as part:
        file.tofile(part)


def load_file(path: Path) -> Bytes:
    """Return what a file holds, ``(bytes,)``."""
    return np.fromfile(path, np.uint8)


def _do(home: Home, errand: Errand) -> Parcel:
    worker, shard = _worker(home), errand.shard
    folder = _own_folder(errand.run)
    folder.mkdir(parents=True, exist_ok=True)
    own, seen = folder / shard.path.name, _sees_home(errand)
    if errand.begun:
        if not seen and not errand.file:
            return Parcel(lacks_file=True)
        _begin_with(shard.path if seen else _fetch(errand.file)[0], own)
    with TemporaryDirectory(dir=folder) as pictures, laid_out(_fetch(errand.pictures), Path(pictures)):
        outcome = _patiently(lambda: worker.run(replace(shard, path=own), _teller(errand)))
    file = None
    if own.exists():  # else a signal came before anything was done
        if seen:
            with written_whole(shard.path) as part:
                shutil.copyfile(own, part)
        else:
            file = load_file(own)
        own.unlink()
    with contextlib.suppress(OSError):  # other tasks on this node are at work
        folder.rmdir()
    return Parcel(outcome, file)


def _worker(home: Home) -> Worker:
    """Return the worker of this process; an earlier job goes first, whose model takes room."""
    key = (home.job[0].hex(), home.place)
    if key not in _workers:
        _workers.clear()
        _workers[key] = Worker(_fetch(home.job)[0], home.place, INTERVAL)
    return _workers[key]


def _begin_with(home: Path | Bytes, own: Path) -> None:
    """Lay the file from home in the place of the node's own, unless a task that died here had come as far."""
    copy = own.with_name(f"home-{own.name}")
    if isinstance(home, Path):
        shutil.copyfile(home, copy)
    else:
        home.tofile(copy)
    if own.exists() and _patiently(lambda: _done(own)) >= _done(copy):
        copy.unlink()
    else:
        copy.replace(own)


def _done(path: Path) -> int:
    """Return how much is done in a shard, in samples and samples of methods."""
    with open_evaluation(path) as file:
        groups = [file["samples"], *(file["methods"][name] for name in method_names(file))]
        return sum(int((group["state"][:] != State.ABSENT).sum()) for group in groups)


def _patiently(work: Callable[[], Found]) -> Found:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _teller(errand: Errand) -> Callable[[float], None]:
    def tell(done: float) -> None:
        if errand.board is not None:
            errand.board.tell.remote(errand.shard.part, done)  # whether it arrives makes no difference

    return tell


def _fetch(references: Sequence[Any]) -> list[Any]:
    import ray

    return list(ray.get(list(references)))


def _sees_home(errand: Errand) -> bool:
    """Say whether the folder at home is here, too. On another machine the path may lead to another folder."""
    try:
        return errand.shard.path.with_name(NAMED).read_text() == errand.run
    except (OSError, UnicodeDecodeError):
        return False


def _own_folder(run: str) -> Path:
    return Path(tempfile.gettempdir(), f"relprop-{run}")


@contextlib.contextmanager
def _as_at(home: Home) -> Iterator[None]:
    """Let relative paths mean what they mean at home; where that is not seen, nothing that happens to be here."""
    with (
        TemporaryDirectory() as nowhere,
        contextlib.chdir(home.directory if os.path.isdir(home.directory) else nowhere),
    ):
        yield
