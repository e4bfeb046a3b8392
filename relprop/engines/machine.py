"""How many workers a machine has room for, and the device and number of threads of each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from relprop.engines.errors import EngineError
from relprop.errors import InputError

GROUP = 4
"""Cores of a worker, where ``auto`` finds two such groups: more of them gain little on one model."""

Processes = int | Literal["gpus", "auto"]
"""How many workers: a number, one for each GPU, or what the machine has room for."""


@dataclass(frozen=True)
class Place:
    """Where a worker computes.

    Parameters
    ----------
    threads : int
        Of PyTorch.
    device : str, optional
        None: where the model is.
    """

    threads: int
    device: str | None = None


def places(processes: Processes, device: str | None = None) -> list[Place]:
    """Return a place for each worker. Cores are shared evenly, but OMP_NUM_THREADS of the environment is obeyed.

    Parameters
    ----------
    processes : int or {"gpus", "auto"}
        ``"auto"``: one for each GPU; without GPUs one for each group of cores.
    device : str, optional
        Where all of them compute; workers on ``"cuda"`` share all GPUs evenly.

    Raises
    ------
    InputError
        It is no such number or word.
    EngineError
        There is no GPU.
    """
    check_processes(processes)
    kind, gpus = _gpus()
    cores = available_cores()
    if processes == "gpus" and not gpus:
        raise EngineError("there is no GPU here: pass the number of processes")
    if processes == "gpus" or (processes == "auto" and gpus and device in (None, kind)):
        return [Place(_threads(cores, gpus), f"{kind}:{number}") for number in range(gpus)]
    count = processes if isinstance(processes, int) else max(1, cores // (GROUP if cores >= 2 * GROUP else 1))
    threads = _threads(cores, count)
    if device is not None and device == kind and gpus:
        return [Place(threads, f"{kind}:{number % gpus}") for number in range(count)]
    return [Place(threads, device) for _ in range(count)]


def check_processes(processes: object) -> None:
    """Raise `InputError` where this is no number of workers, and none of the words for one."""
    if processes not in ("gpus", "auto") and (type(processes) is not int or processes < 1):
        raise InputError(f"processes is a number from 1 on, or one of gpus and auto, not {processes!r}")


def device_of_task(local: int) -> str | None:
    """Return the GPU of a task of a batch system, the ``local``-th on its machine; None where there is none."""
    kind, gpus = _gpus()
    return f"{kind}:{local % gpus}" if gpus else None


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_wanted() -> int:
    """Return how many threads the environment wants a process to have; 0 where it doesn't say."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() else 0


def _threads(cores: int, workers: int) -> int:
    return threads_wanted() or max(1, cores // workers)


def _gpus() -> tuple[str, int]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return ("", 0) if accelerator is None else (accelerator.type, torch.accelerator.device_count())
