"""How many tasks a cluster has room for, with how many threads each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relprop.engines.errors import EngineError
from relprop.engines.machine import GROUP, Place, Processes, threads_wanted

GPU = "cuda"
"""Where a task computes that has a GPU: Ray shows it no other one."""


def place_of_tasks(nodes: Sequence[Mapping[str, Any]], processes: Processes, device: str | None = None) -> Place:
    """Return where each task of a run computes: all have as many threads, or their bits would differ.

    Parameters
    ----------
    nodes : sequence of mapping
        As `ray.nodes` describes them.
    processes, device
        As of `relprop.engines.machine.places`, of the cluster as a whole.

    Raises
    ------
    EngineError
        There is no GPU, no core at all, or no node with as many cores as the environment wants threads.
    """
    place = _place(nodes, processes, device)
    if not any(map(_fitting(place), _of_each(nodes, "CPU"), _of_each(nodes, "GPU"))):
        where = " with a GPU" if place.device == GPU else ""
        raise EngineError(f"no node{where} has {place.threads} cores for the threads of a task: set OMP_NUM_THREADS")
    return place


def room_for(nodes: Sequence[Mapping[str, Any]], place: Place, processes: Processes) -> int:
    """Return how many tasks are sent at once: so many, or for how many the cluster has room now."""
    if isinstance(processes, int):
        return processes
    return max(1, sum(map(_fitting(place), _of_each(nodes, "CPU"), _of_each(nodes, "GPU"))))


def _place(nodes: Sequence[Mapping[str, Any]], processes: Processes, device: str | None) -> Place:
    cores, gpus = _of_each(nodes, "CPU"), _of_each(nodes, "GPU")
    if processes == "gpus" and not any(gpus):
        raise EngineError("the cluster has no GPU: pass the number of processes")
    if not any(cores):
        raise EngineError("the cluster has no core for tasks: add nodes, as by ray start --address=ADDRESS")
    if processes == "gpus" or device == GPU or (processes == "auto" and any(gpus) and device is None):
        if not any(gpus):
            raise EngineError(f"the cluster has no GPU for device {device}")
        shares = [count // gpu for count, gpu in zip(cores, gpus, strict=True) if gpu]
        return Place(threads_wanted() or max(1, min(shares)), GPU)
    if wanted := threads_wanted():
        return Place(wanted, device)
    if not isinstance(processes, int):
        return Place(GROUP if max(cores) >= 2 * GROUP else 1, device)
    fitting = [threads for threads in range(1, max(cores) + 1) if sum(c // threads for c in cores) >= processes]
    return Place(max(fitting, default=1), device)


def _fitting(place: Place) -> Callable[[int, int], int]:
    """Return how many tasks fit on a node of so many cores and GPUs."""
    return lambda cores, gpus: min(cores // place.threads, gpus) if place.device == GPU else cores // place.threads


def _of_each(nodes: Sequence[Mapping[str, Any]], kind: str) -> list[int]:
    return [int(node["Resources"].get(kind, 0)) for node in nodes if node["Alive"]]
