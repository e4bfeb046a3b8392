"""Peak memory of a job, in a process of its own.

Two numbers. What the whole process took is what a user sees; it holds Python, the libraries, the model, and whatever
the C library keeps of freed memory. What a job needs of its own is counted: every allocation and release of PyTorch is
reported by its profiler, or by CUDA's allocator, so the largest sum of tensors alive at once is exact and the same at
every run. Tensors that a first call leaves behind are counted in.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
import typer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.conditions import Conditions, Device, under
from benchmarks.speed.jobs import Job, Maker
from benchmarks.speed.trials import Trial
from benchmarks.workers import Worker, WorkerError, process_peak

MIB = 2**20


@dataclass(frozen=True)
class Peak:
    """Peak memory of a job in a process of its own, and how long its first call takes there.

    Attributes
    ----------
    process_mib
        Of its process, all included, as the system has it; on a GPU that is not what the job needs there.
    tensors_mib
        Tensors alive at once, above those that were there before its first call: the model and the pictures.
    first_seconds
        Wall clock of the first call, capture included.
    """

    process_mib: float
    tensors_mib: float
    first_seconds: float


def measure_peaks(trial: Trial, makers: Mapping[str, Maker], conditions: Conditions) -> dict[str, Peak | None]:
    """Measure each job in a process of its own; None of one that did not survive it, which is said on stderr."""
    peaks: dict[str, Peak | None] = {}
    for name, maker in makers.items():
        worker = Worker(partial(under, conditions, partial(_measure, trial, conditions)), preload=(__name__,))
        try:
            peaks[name] = worker(maker)
        except WorkerError as error:
            typer.echo(f"benchmarks: no peak memory of {name} of {trial.model}: {error}", err=True)
            peaks[name] = None
        finally:
            worker.stop()
    return peaks


def _measure(trial: Trial, conditions: Conditions, maker: Maker) -> Peak:
    return measure_peak(maker(*trial.make(conditions)), conditions)


def measure_peak(job: Job, conditions: Conditions) -> Peak:
    """Measure a job in this process; it is run twice, and captures at its first call."""
    alive, start = _alive(conditions), time.perf_counter()
    job()
    first = time.perf_counter() - start
    process, kept = process_peak(), _alive(conditions) - alive
    allocated = _allocated_on_gpu(job) if conditions.device is Device.CUDA else allocated_at_once(job)
    return Peak(process, (kept + allocated) / MIB, first)


def over(peak: Peak | None, reference: Peak | None) -> float | None:
    """Return how much more one job allocates than another, where both are known."""
    return peak.tensors_mib / reference.tensors_mib if peak and reference else None


def _alive(conditions: Conditions) -> int:
    """Return the size of all tensors, where their memory is shared once."""
    gc.collect()
    if conditions.device is Device.CUDA:
        return torch.cuda.memory_allocated()
    tensors = [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter)]  # fake ones are of another type
    storages = [t.untyped_storage() for t in tensors if t.layout == torch.strided and not t.is_meta]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _allocated_on_gpu(job: Job) -> int:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    job()
    return torch.cuda.max_memory_allocated() - before


def allocated_at_once(job: Job) -> int:
    """Run a job, and return how many bytes of what it allocated were alive at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        job()
    assert found.profiler is not None
    alive = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak
