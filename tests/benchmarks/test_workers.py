"""Calls in another process. Nothing here imports torch: the processes start quickly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from benchmarks.workers import Worker, WorkerError


def obey(order: str) -> int:
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "hang":
        time.sleep(600)
    if order == "exit":
        os._exit(3)
    if order == "raise":
        raise RuntimeError("something\nin two lines")
    if order == "be greedy":
        bytearray(2**34)
    return os.getpid()


@pytest.fixture
def worker() -> Iterator[Worker[str, int]]:
    worker = Worker(obey, timeout=120, memory=4)
    yield worker
    worker.stop()


def test_a_worker_survives_what_its_function_raises(worker: Worker[str, int]) -> None:
    process = worker("work")
    assert process != os.getpid()
    with pytest.raises(WorkerError, match="RuntimeError: something\nin two lines"):
        worker("raise")
    with pytest.raises(WorkerError, match="MemoryError"):
        worker("be greedy")
    assert worker("work") == process


@pytest.mark.parametrize(("order", "what"), [("die", "killed from outside"), ("exit", "exit status 3")])
def test_a_worker_that_dies_is_replaced(worker: Worker[str, int], order: str, what: str) -> None:
    process = worker("work")
    with pytest.raises(WorkerError, match=what):
        worker(order)
    assert worker("work") not in (process, os.getpid())


def test_a_call_that_takes_too_long_is_given_up(worker: Worker[str, int]) -> None:
    process = worker("work")
    worker.timeout = 0.01
    with pytest.raises(WorkerError, match=r"time limit of 0\.01 s"):
        worker("hang")
    worker.timeout = 120
    assert worker("work") != process
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_stopped_worker_leaves_no_process(worker: Worker[str, int]) -> None:
    process = worker("work")
    worker.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    worker.stop()  # nothing to do
