"""The engine that sends shards to a cluster of Ray, and takes them in as they are done."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.engines.cluster import task
from relprop.engines.cluster.board import Board, opened_board
from relprop.engines.cluster.pictures import may_be_sent
from relprop.engines.cluster.room import GPU, place_of_tasks, room_for
from relprop.engines.cluster.sender import Sender
from relprop.engines.cluster.task import Errand, Home, Parcel
from relprop.engines.errors import EngineError
from relprop.engines.job import Job
from relprop.engines.machine import Processes, check_processes
from relprop.engines.pending import ATTEMPTS, POLL, Pending, Tell
from relprop.engines.shards import ShardFolder
from relprop.engines.worker import Outcome, Shard
from relprop.errors import first_line
from relprop.evaluation.data.folders import Listing
from relprop.evaluation.pipeline.interrupts import SIGNALS
from relprop.extras import MissingExtraError, extra

STOP = 60.0
"""Seconds that tasks have for committing what they did, when a run is stopped."""


class OnCluster:
    """The engine that makes tasks of Ray.

    Parameters
    ----------
    job : Job
        What they do.
    processes, device
        See `place_of_tasks`.
    address : str, optional
        ``ray://HOST:PORT`` of a cluster. None: what ``RAY_ADDRESS`` says, the cluster that this machine belongs to, or
        Ray is started on this machine alone.

    Raises
    ------
    MissingExtraError, EngineError, InputError, PictureError
        Ray is not installed; the job can't be sent; this is no number of processes; there are no pictures.
    """

    def __init__(self, job: Job, processes: Processes, device: str | None, address: str | None = None) -> None:
        with extra("ray", "an evaluation on Ray"):
            import ray
            import ray.cloudpickle
        check_processes(processes)
        self._ray: Any = ray
        self._processes, self._device, self._address = processes, device, address
        self._listing: Listing | None = None
        self._unit = job.options.get("unit", 2)
        self._job = replace(job, load=job.load.listed(self._listed)).pickled(ray.cloudpickle.dumps)

    def _listed(self, listing: Listing) -> Listing:
        self._listing = listing
        return may_be_sent(listing)

    @contextmanager
    def open(self, folder: ShardFolder) -> Iterator[Tasks]:
        """Connect to the cluster for the time of the block."""
        with _connected(self._ray, self._address):
            place = place_of_tasks(self._ray.nodes(), self._processes, self._device)
            home = Home([self._ray.put(self._job)], place, os.getcwd())
            yield Tasks(self._ray, home, folder, self._processes, Sender(self._ray, self._listing, self._unit))


class Tasks:
    """The tasks of a run; made by `OnCluster.open`.

    Parameters
    ----------
    ray : module
    home : Home
        What all of them have in common.
    folder : ShardFolder
        Where shards come home to.
    processes : int or {"auto", "gpus"}
        How many are sent at once.
    sender : Sender
        Has what nodes don't see.
    """

    def __init__(self, ray: Any, home: Home, folder: ShardFolder, processes: Processes, sender: Sender) -> None:
        self._ray, self._home, self._folder, self._processes = ray, home, folder, processes
        self._sender, self._untidy = sender, False
        options = {"num_cpus": home.place.threads, "num_gpus": int(home.place.device == GPU), "max_retries": 0}
        self._find_order = ray.remote(**options)(task.find_order)
        self._do_shard = ray.remote(**options)(task.do_shard)

    @property
    def count(self) -> int:
        """How many are sent at once."""
        return room_for(self._ray.nodes(), self._home.place, self._processes)

    def begin(self, obey: Callable[[], None]) -> NDArray[np.int64]:
        """Do `Workers.begin`: return indices of samples, ``(N,)``."""
        reference = self._find_order.options(max_retries=ATTEMPTS - 1).remote(self._home)
        while not self._ray.wait([reference], timeout=POLL)[0]:
            obey()
        errors = self._ray.exceptions
        try:
            parcel = self._open(reference)
        except errors.RayTaskError as error:
            raise EngineError(f"a task can't begin: {type(error.cause).__name__}: {error.cause}") from error
        except errors.RayError as error:
            raise EngineError(f"a task ended before it began: {first_line(error)}") from error
        if parcel.error is not None:
            raise parcel.error
        assert parcel.order is not None
        self._sender.order = parcel.order
        return parcel.order

    def run(self, shards: Sequence[Shard], tell: Tell, obey: Callable[[], None]) -> Iterator[tuple[Shard, Outcome]]:
        """Do `Workers.run`. No more tasks are sent than there is room for: what is sent with them takes memory."""
        self._untidy |= self._folder.is_named()  # what an earlier driver began may lie on any node
        pending, run = Pending(shards), self._folder.name()
        running: dict[Any, Shard] = {}
        room = self.count
        with opened_board(self._ray) as board:
            try:
                while pending or running:
                    while pending and len(running) < room:
                        shard = pending.take()
                        running[self._send(shard, run, board)] = shard
                    done, _ = self._ray.wait([*running], timeout=POLL)
                    for part, count in board.news():
                        if any(shard.part == part for shard in running.values()):
                            tell(part, count)
                    obey()
                    for reference in done:
                        shard = running.pop(reference)
                        outcome = self._take(reference, shard, pending)
                        if outcome is not None:
                            yield shard, outcome
                    if done and pending:  # nodes may have come, or gone
                        room = self.count
            finally:
                self._stop(running)
        self._tidy(run)

    def _send(self, shard: Shard, run: str, board: Board) -> Any:
        path = shard.path.resolve()
        begun = path.exists()
        errand = Errand(
            replace(shard, path=path),
            run,
            begun,
            self._sender.file_of(shard) if begun else (),
            self._sender.pictures_of(shard),
            board.actor,
        )
        return self._do_shard.options(name=f"{self._folder.output.name}: {path.stem}").remote(self._home, errand)

    def _take(self, reference: Any, shard: Shard, pending: Pending) -> Outcome | None:
        """Take in what a task returns; None where the shard is to be begun again."""
        errors = self._ray.exceptions
        try:
            parcel = self._open(reference)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else None
            self._untidy = True
            pending.put_back(shard, cause)
            return None
        except errors.RayError:  # its worker or node died, or what it returned is lost with one
            self._untidy = True
            pending.put_back(shard)
            return None
        if parcel.error is not None:
            raise parcel.error
        if parcel.file is not None:
            task.store(parcel.file, shard.path)
        if self._sender.learn(parcel):
            pending.put_off(shard)
        elif parcel.outcome is not None and parcel.outcome.result is not None:
            return parcel.outcome
        else:  # a signal stopped it
            pending.put_back(shard)
        return None

    def _open(self, reference: Any) -> Parcel:
        parcel: Parcel = self._ray.get(reference)
        return parcel

    def _stop(self, running: Mapping[Any, Shard]) -> None:
        """Let tasks commit and stop, and take in what they did."""
        for reference in running:
            self._ray.cancel(reference)
        done, _ = self._ray.wait([*running], num_returns=len(running), timeout=STOP) if running else ([], [])
        for reference in done:
            try:
                parcel = self._open(reference)
            except self._ray.exceptions.RayError:  # it had not begun, or has died
                continue
            if parcel.file is not None:
                task.store(parcel.file, running[reference].path)

    def _tidy(self, run: str) -> None:
        """Remove what is left on nodes of tasks that died."""
        if not self._untidy:
            return
        on = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        tidy = self._ray.remote(num_cpus=0, max_retries=0)(task.tidy)
        nodes = [node["NodeID"] for node in self._ray.nodes() if node["Alive"]]
        left = [tidy.options(scheduling_strategy=on(node, soft=False)).remote(run) for node in nodes]
        self._ray.wait(left, num_returns=len(left), timeout=STOP)


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, unless the user is connected to one. Ray takes the signals, which are taken back."""
    if ray.is_initialized():
        if address is not None:
            raise EngineError(f'this process is connected to Ray already: pass engine="ray", not {address}')
        yield
        return
    here = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if here else {}
    try:
        ray.init(address, logging_level=logging.WARNING, log_to_driver=False)
    except ImportError as error:
        raise MissingExtraError(
            f'engine {address} needs more of Ray ({first_line(error)}): pip install "ray[client]"'
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        why = str(error).strip().rpartition("\n")[2]  # what a server raised comes as its traceback
        raise EngineError(f"no cluster of Ray answers at {where}: {why}") from error
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()
