"""How many workers there are, where, and with how many threads."""

from __future__ import annotations

import pytest
import torch

from relprop.engines import EngineError, machine
from relprop.engines.machine import Place, places
from relprop.errors import InputError


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine with so many cores, and without a GPU."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "available_cores", lambda: request.param)
    monkeypatch.setattr(machine, "_gpus", lambda: ("", 0))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 16 cores and 4 GPUs."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "available_cores", lambda: 16)
    monkeypatch.setattr(machine, "_gpus", lambda: ("cuda", 4))


@pytest.mark.parametrize(
    ("cores", "processes", "count", "threads"),
    [(2, 2, 2, 1), (2, "auto", 2, 1), (7, "auto", 7, 1), (8, "auto", 2, 4), (64, "auto", 16, 4), (64, 5, 5, 12)],
    indirect=["cores"],
)
@pytest.mark.usefixtures("cores")
def test_cores_are_shared_evenly(processes: int, count: int, threads: int) -> None:
    assert places(processes) == [Place(threads)] * count


@pytest.mark.parametrize("cores", [2], indirect=True)
@pytest.mark.usefixtures("cores")
def test_more_workers_than_cores_have_a_thread_each() -> None:
    assert places(3, "cpu") == [Place(1, "cpu")] * 3


@pytest.mark.parametrize("cores", [64], indirect=True)
@pytest.mark.usefixtures("cores")
def test_the_environments_threads_are_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert places(2) == [Place(3)] * 2


@pytest.mark.usefixtures("gpus")
def test_each_gpu_has_a_worker() -> None:
    each = [Place(4, f"cuda:{number}") for number in range(4)]
    assert places("gpus") == each
    assert places("auto") == each
    assert places("auto", "cuda") == each


@pytest.mark.usefixtures("gpus")
def test_workers_share_gpus_and_a_device_is_obeyed() -> None:
    assert [place.device for place in places(6, "cuda")] == [f"cuda:{n}" for n in (0, 1, 2, 3, 0, 1)]
    assert places(2, "cuda:3") == [Place(8, "cuda:3")] * 2
    assert places("auto", "cpu") == [Place(4, "cpu")] * 4
    assert places(2) == [Place(8)] * 2  # where the model is


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_gpus_that_are_not_there_are_an_error() -> None:
    with pytest.raises(EngineError, match="no GPU here"):
        places("gpus")


@pytest.mark.parametrize("processes", [0, -1, "two", 1.5, True])
def test_what_is_no_number_of_processes_is_refused(processes: object) -> None:
    with pytest.raises(InputError, match="processes is a number"):
        places(processes)  # type: ignore[arg-type]
