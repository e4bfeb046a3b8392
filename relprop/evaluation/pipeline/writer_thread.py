"""Work that goes on beside the model: writing."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Background:
    """A thread that does one job after the other; a context manager that waits for all of them.

    An error of a job stops the thread, is raised at the next call, and jobs after it are dropped.

    Parameters
    ----------
    depth : int
        Jobs that may wait; who brings another one waits too.
    """

    def __init__(self, depth: int = 2) -> None:
        self.lock = threading.Lock()
        """Held while a job is done, for others who touch the same file."""
        self.seconds = 0.0
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="relprop writer", daemon=True)

    def submit(self, job: Callable[[], None]) -> None:
        """Hand over a job."""
        self._raise()
        self._jobs.put(job)

    def wait(self) -> None:
        """Wait until all jobs are done."""
        self._jobs.join()
        self._raise()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is None:
                start = time.perf_counter()
                try:
                    with self.lock:
                        job()
                except BaseException as error:  # raised where the next job is brought
                    self._error = error
                self.seconds += time.perf_counter() - start
            self._jobs.task_done()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
