"""Calls in a worker process, which serves many of them and is replaced if it dies or takes too long."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from relprop.errors import RelpropError

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class WorkerError(RelpropError, RuntimeError):
    """A call that brought no result; the message says what became of it."""


class Worker(Generic[Argument, Result]):
    """Calls a function in another process, which starts at the first call.

    Parameters
    ----------
    function : callable
        Of one argument; both of them, and what it returns, can be pickled.
    timeout : float, optional
        Seconds after which a call is given up.
    memory : float, optional
        GiB a process may take.
    preload : sequence of str
        Modules that are imported once for all processes, of all workers that name any, which then start quickly.
        They must not start threads when they are imported.
    """

    def __init__(
        self,
        function: Callable[[Argument], Result],
        *,
        timeout: float | None = None,
        memory: float | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        self.function = function
        self.timeout = timeout
        self.memory = memory
        self.preload = preload
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def __call__(self, argument: Argument) -> Result:
        """Call the function.

        Raises
        ------
        WorkerError
            If it raised, took too long, or ended the process.
        """
        connection = self._started()
        try:
            connection.send(argument)
            if not connection.poll(self.timeout):
                self._kill()
                raise WorkerError(f"given up after the time limit of {self.timeout:g} s")
            succeeded, result = connection.recv()
        except (EOFError, ConnectionError) as error:
            raise WorkerError(self._exit_reason()) from error
        if not succeeded:
            raise WorkerError(result)
        returned: Result = result
        return returned

    def stop(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None and self._connection is not None:
            self._connection.close()  # at which it ends, unless it is in the middle of something
            self._process.join(1)
        self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def _started(self) -> Connection:
        if self._connection is None:
            # Threads of PyTorch do not survive a fork; the server that forks for those with modules has none.
            context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
            if self.preload:
                context = multiprocessing.get_context("forkserver")
                context.set_forkserver_preload(list(self.preload))
            self._connection, child_end = context.Pipe()
            self._process = context.Process(target=_serve, args=(self.function, child_end, self.memory), daemon=True)
            self._process.start()
            child_end.close()
        return self._connection

    def _exit_reason(self) -> str:
        assert self._process is not None
        self._process.join()
        code = self._process.exitcode or 0
        self._kill()
        if code == -signal.SIGKILL:
            return "its process was killed from outside, as the system does where memory runs out"
        return f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit status {code}'}"


def side_by_side(
    workers: Sequence[Worker[Argument, Result]], arguments: Sequence[Argument]
) -> Iterator[tuple[Argument, Result | WorkerError]]:
    """Yield each argument with what it brought, as soon as that is known; in the end workers are stopped.

    Parameters
    ----------
    workers : sequence of Worker
        Each serves one call at a time.
    arguments : sequence
        Begun in this order.
    """
    idle: SimpleQueue[Worker[Argument, Result]] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def call(argument: Argument) -> Result | WorkerError:
        worker = idle.get()
        try:
            return worker(argument)
        except WorkerError as error:
            return error
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(len(workers))
    try:
        running = {pool.submit(call, argument): argument for argument in arguments}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()


def process_peak() -> float:
    """Return the peak memory of this process, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _serve(function: Callable[[Any], Any], connection: Connection, memory: float | None) -> None:
    warnings.simplefilter("ignore")  # of models, by the hundred
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever interrupts the sweep means the process that started this one
    if memory is not None:
        limit = int(memory * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with suppress(EOFError, ConnectionError):  # whoever calls is gone
        while True:
            connection.send(_answer(function, connection.recv()))


def _answer(function: Callable[[Any], Any], argument: Any) -> tuple[bool, Any]:
    try:
        return True, function(argument)
    except Exception as error:  # the caller raises it
        return False, "".join(traceback.format_exception_only(error)).strip()
