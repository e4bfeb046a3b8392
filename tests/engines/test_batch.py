"""Parts of a run as tasks of a batch system: which one, where, and what becomes of one that is out of time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from relprop.cli import app
from relprop.engines import EngineError, machine
from relprop.engines.batch import Task, find_task
from relprop.errors import RelpropWarning
from relprop.store import is_complete, open_evaluation
from relprop.store.shards import shard_file, shard_files, shard_folder
from tests.helpers.evaluations import assert_same, contents
from tests.helpers.paths import ROOT

ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "5"}


@pytest.mark.parametrize(
    ("environment", "task"),
    [
        (ARRAY, Task(2, 3)),
        (ARRAY | {"SLURM_ARRAY_TASK_MAX": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Task(2, 3)),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_STEP": "2"}, Task(2, 3)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}, Task(3, 4, 1)),
        (ARRAY | {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "2"}, Task(5, 6)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", **ARRAY}, Task(5, 8, 1)),
    ],
)
def test_the_environment_says_which_part(environment: dict[str, str], task: Task) -> None:
    assert find_task(environment) == task


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "nothing says which part"),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "8"}, "has gaps"),
        (ARRAY | {"SLURM_ARRAY_TASK_MAX": "9"}, "has gaps"),
        (ARRAY | {"SLURM_ARRAY_TASK_COUNT": "many"}, "SLURM_ARRAY_TASK_COUNT must be a number, not 'many'"),
        ({"RANK": "8", "WORLD_SIZE": "8"}, "part 8 of 8"),
        ({"SLURM_PROCID": "0"} | {"SLURM_NTASKS": "-1"}, "SLURM_NTASKS must be a number"),
    ],
)
def test_an_environment_that_says_no_part_is_an_error(environment: dict[str, str], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        find_task(environment)


def test_tasks_that_nobody_started_are_remarked_on() -> None:
    with pytest.warns(RelpropWarning, match="part 0 of 4.*start relprop with srun"):
        assert find_task({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == Task(0, 4)


def test_tasks_of_a_machine_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_gpus", lambda: ("cuda", 2))
    assert [machine.device_of_task(local) for local in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(machine, "_gpus", lambda: ("", 0))
    assert machine.device_of_task(1) is None


MODEL = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 9, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3))
"""
OPTIONS = ("pictures", "--model", "mine:make", "-m", "random,constant", "--unit", "1", "-q", "-o", "run.h5")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with pictures, a model, and a cluster's commands that are this machine's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(MODEL)
    Path("pictures").mkdir()
    generator = np.random.default_rng(0)
    for k in range(10):
        cv2.imwrite(f"pictures/{k:02}.png", generator.integers(0, 256, (30, 40, 3), np.uint8))
    for name, line in (
        ("relprop", f'exec {sys.executable} -m relprop "$@"'),
        ("scontrol", 'echo "$@" >> requeued'),
    ):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\n{line}\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_elements_of_a_job_array_are_merged_to_the_single_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        with monkeypatch.context() as element:
            for name, value in ARRAY.items():
                element.setenv(name, value)
            element.setenv("SLURM_ARRAY_TASK_ID", str(number))
            element.setenv("SLURM_ARRAY_TASK_COUNT", "2")
            element.setenv("SLURM_ARRAY_TASK_MIN", "1")
            invoke("evaluate", *OPTIONS, "--shard", "auto", "--resume")
    assert len(shard_files(shard_folder(place / "run.h5"))) == 2
    assert "10 samples of 2 shards" in invoke("merge", "run.h5.shards", "-o", "run.h5")
    invoke("evaluate", *OPTIONS[:-1], "whole.h5")
    assert_same(contents(place / "run.h5"), contents(place / "whole.h5"))


@pytest.mark.full
def test_the_script_for_slurm_puts_a_job_in_again_that_is_out_of_time(place: Path) -> None:
    environment = {
        **os.environ,
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_ARRAY_TASK_COUNT": "2",
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_CPUS_PER_TASK": "1",
    }
    script = ["bash", str(ROOT / "relprop/engines/array.sbatch"), *OPTIONS]
    with subprocess.Popen(script, env=environment, stderr=subprocess.PIPE, text=True) as job:
        part = shard_file(place / "run.h5", 0, 2)
        while not part.exists():
            assert job.poll() is None, job.stderr.read() if job.stderr else ""
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        said = job.communicate()[1]
    assert job.returncode in (75, 143), said
    assert Path("requeued").read_text() == "requeue 12_0\n"
    assert subprocess.run(script, env=environment).returncode == 0
    assert Path("requeued").read_text() == "requeue 12_0\n"
    with open_evaluation(part) as file:
        assert is_complete(file)
