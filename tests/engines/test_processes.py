"""Runs in worker processes: the same bits, whatever becomes of the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from relprop import engines
from relprop.engines.shards import ShardFolder
from relprop.errors import InputError
from relprop.evaluation import Evaluation
from relprop.store import BusyError, State, open_evaluation
from tests.helpers.evaluations import assert_same, contents, inputs, run
from tests.helpers.models import kept
from tests.helpers.paths import ROOT

METHODS = ("random", "constant")
SAMPLES = 26


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have as many threads as this process, so that bits can be compared."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The run of one process."""
    run(tmp_path / "whole.h5", METHODS, SAMPLES, unit=1)
    return tmp_path / "whole.h5"


def spread(path: Path, methods: Any = METHODS, processes: Any = 2, **options: Any) -> Evaluation:
    return engines.evaluate(kept("plain"), inputs(SAMPLES), methods, path, processes=processes, unit=1, **options)


class Fatal:
    """A method that kills its process the first ``times`` that it is called."""

    def __init__(self, folder: Path, times: int, number: int) -> None:
        self.folder, self.times, self.number = folder, times, number

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        died = len(list(self.folder.glob("died*")))
        if died < self.times:
            (self.folder / f"died{died}").touch()
            os.kill(os.getpid(), self.number)
        return x * 2

    config = {"method": "fatal"}  # noqa: RUF012


def doubled(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_two_processes_give_the_bits_of_one(tmp_path: Path, whole: Path) -> None:
    told: list[tuple[float, int | None]] = []
    found = spread(tmp_path / "run.h5", progress=lambda done, total: told.append((done, total)))
    assert_same(contents(tmp_path / "run.h5"), contents(whole))
    assert (found.samples, found.evaluated, found.complete) == (SAMPLES, SAMPLES, True)
    assert told[-1] == (SAMPLES, SAMPLES)
    assert not (tmp_path / "run.h5.shards").exists()
    with open_evaluation(tmp_path / "run.h5") as file:
        assert f'"threads": "{torch.get_num_threads()}"' in file.attrs["versions"]


@pytest.mark.full
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    method = Fatal(tmp_path, 2, signal.SIGKILL)
    spread(tmp_path / "run.h5", {"doubled": method})
    assert len(list(tmp_path.glob("died*"))) == 2
    run(tmp_path / "whole.h5", {"doubled": doubled}, SAMPLES, unit=1)
    assert_same(contents(tmp_path / "run.h5"), contents(tmp_path / "whole.h5"))


@pytest.mark.full
def test_workers_that_die_again_and_again_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(engines.EngineError, match=r"ended 3 times on shard \d of \d"):
        spread(tmp_path / "run.h5", {"doubled": Fatal(tmp_path, 99, signal.SIGKILL)})
    assert not (tmp_path / "run.h5").exists()


RUN = """
import os, sys, time
from pathlib import Path
from tests.engines.test_processes import spread
import torch

def slowly(x, target):
    Path(sys.argv[1]).with_name(f"worker{os.getpid()}").touch()
    time.sleep(0.2)
    return x * 2

if __name__ == "__main__":
    spread(Path(sys.argv[1]), {"doubled": slowly}, progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_keeps_what_was_done(tmp_path: Path, number: int) -> None:
    script, path = tmp_path / "script.py", tmp_path / "run.h5"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(script), str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the run ended before anything was done"
        process.send_signal(number)
    assert process.returncode != 0
    assert not path.exists()
    done = sum(_done_in(shard) for shard in ShardFolder(path).files())
    assert 0 < done < SAMPLES
    workers = [int(file.name.removeprefix("worker")) for file in tmp_path.glob("worker*")]
    assert workers
    deadline = time.monotonic() + 60
    while left := [worker for worker in workers if _is_running(worker)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _done_in(shard: Path) -> int:
    deadline = time.monotonic() + 60
    while True:
        try:
            with open_evaluation(shard) as file:
                return int((file["samples/state"][:] == State.DONE).sum())
        except BusyError:  # a worker whose parent was killed commits, and then stops by itself
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.full
def test_further_methods_and_samples_continue_a_run_on_other_numbers_of_processes(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "run.h5"
    run(path, METHODS[:1], SAMPLES, unit=1, limit=14)
    found = spread(path, METHODS, processes=1, resume=True)
    assert found.evaluated == SAMPLES  # those that lacked a method, too
    assert_same(contents(path), contents(whole))
    assert spread(path, METHODS, resume=True).evaluated == 0


def test_what_can_not_be_sent_is_named(tmp_path: Path) -> None:
    with pytest.raises(engines.EngineError, match="the methods can't be sent to worker processes"):
        spread(tmp_path / "run.h5", {"mine": lambda x, target: x})
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_those_of_evaluate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no argument metric.*metrics"):
        spread(tmp_path / "run.h5", metric=("deletion",))
    with pytest.raises(InputError, match="shard= is one part"):
        spread(tmp_path / "run.h5", shard=(0, 2))
