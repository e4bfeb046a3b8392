"""Worker processes on this machine, each a pool of one: one that dies takes no other with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from typing import Any

from relprop.engines import worker
from relprop.engines.errors import EngineError
from relprop.engines.job import Job
from relprop.engines.machine import Place, places
from relprop.engines.machine import Processes as Number
from relprop.engines.pending import POLL, Pending, Tell
from relprop.engines.shards import ShardFolder
from relprop.engines.worker import Outcome, Shard, Word


class _Seat:
    """A place with a pool of one process, and what it does."""

    def __init__(self, work: bytes, place: Place) -> None:
        self._work, self._place = work, place
        self._loading: Future[None] | None = None
        self.process: int | None = None
        self.shard: Shard | None = None
        self._start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool:  # it died while it loaded
            self.renew()
            return self._pool.submit(function, *arguments)

    def load(self) -> None:
        """Let the process load what it needs; where that fails, its first shard fails by the same error."""
        self._loading = self.submit(worker.load)

    def words(self) -> Iterator[Word]:
        """Yield what the worker told since."""
        try:
            while self._way.poll():
                word = self._way.recv()
                self.process = word.process
                yield word
        except (EOFError, OSError):  # it died in the middle of a word
            return

    def renew(self) -> None:
        """Put a new process in the place of one that died."""
        self.close()
        self._start()

    def terminate(self) -> None:
        """Let the process commit what it has, and stop."""
        if self.process is not None:
            try:
                os.kill(self.process, signal.SIGTERM)
            except ProcessLookupError:  # it is gone
                self.process = None

    def close(self) -> None:
        """End the process, and do not wait for what it loads for nobody."""
        if self._loading is not None and not self._loading.done():
            list(self.words())
            self.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._way.close()
        self._back.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # what PyTorch has computed with can't be forked
        self._way, self._back = context.Pipe(duplex=False)
        self.process = self._loading = None
        self._pool = ProcessPoolExecutor(
            1, context, initializer=worker.start, initargs=(self._work, self._place, self._back)
        )


class Processes:
    """Workers that are there as long as the block; made by `open_processes`."""

    def __init__(self, seats: Sequence[_Seat]) -> None:
        self._seats = seats

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._seats)

    def begin(self, obey: Callable[[], None]) -> Any:
        """Do `Workers.begin`, while the other workers load what they need."""
        future = self._seats[0].submit(worker.begin)
        for seat in self._seats[1:]:
            seat.load()
        while not wait([future], POLL).done:
            list(self._seats[0].words())
            try:
                obey()
            except KeyboardInterrupt:
                self._seats[0].terminate()
                raise
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise EngineError(
                "a worker process ended before it began: out of memory, or killed; or this is a script that starts "
                'workers outside of `if __name__ == "__main__":`, which each of them carries out again'
            ) from error

    def run(self, shards: Sequence[Shard], tell: Tell, obey: Callable[[], None]) -> Iterator[tuple[Shard, Outcome]]:
        """Do `Workers.run`."""
        pending = Pending(shards)
        running: dict[Future[Outcome], _Seat] = {}
        try:
            while pending or running:
                for seat in self._seats:
                    if pending and seat.shard is None:
                        seat.shard = pending.take()
                        running[seat.submit(worker.run_shard, seat.shard)] = seat
                done, _ = wait(running, POLL, FIRST_COMPLETED)
                self._listen(tell)
                obey()
                for future in done:
                    seat = running.pop(future)
                    shard, seat.shard = seat.shard, None
                    assert shard is not None
                    outcome = _outcome(future)
                    if outcome is not None and outcome.result is not None:
                        yield shard, outcome
                        continue
                    pending.put_back(shard)
                    if outcome is None:
                        seat.renew()
        finally:
            self._stop(running)

    def _stop(self, running: Mapping[Future[Outcome], _Seat]) -> None:
        """Let those who are at work commit and stop. A second signal would stop them before that."""
        waiting = list(running.values())
        while wait(running, POLL if waiting else None).not_done:
            for seat in [*waiting]:
                list(seat.words())
                if seat.process is not None:
                    seat.terminate()
                    waiting.remove(seat)

    def _listen(self, tell: Tell) -> None:
        for seat in self._seats:
            for word in seat.words():
                if word.part >= 0:
                    tell(word.part, word.done)


@contextmanager
def open_processes(work: bytes, places: Sequence[Place]) -> Iterator[Processes]:
    """Start a worker at each place; they end with the block."""
    with ExitStack() as stack:
        seats = []
        for place in places:
            seat = _Seat(work, place)
            stack.callback(seat.close)
            seats.append(seat)
        yield Processes(seats)


class OnThisMachine:
    """The engine that starts processes here.

    Parameters
    ----------
    job : Job
        What they do.
    processes, device
        See `places`.

    Raises
    ------
    EngineError, InputError
        The job can't be sent to processes; there are no such places.
    """

    def __init__(self, job: Job, processes: Number, device: str | None) -> None:
        self._places, self._job = places(processes, device), job.pickled()

    @contextmanager
    def open(self, folder: ShardFolder) -> Iterator[Processes]:
        """Start a worker at each place; they end with the block."""
        with open_processes(self._job, self._places) as processes:
            yield processes


def _outcome(future: Future[Outcome]) -> Outcome | None:
    """Return what became of a shard; None where the worker died on it."""
    try:
        return future.result()
    except BrokenProcessPool:
        return None
