"""The operations that a job spends its time in, as PyTorch's profiler sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

from benchmarks.conditions import Conditions, Device
from benchmarks.speed.jobs import Job


@dataclass(frozen=True)
class Spent:
    """Seconds spent in an operation itself, not in those that it calls, and how often it was called."""

    seconds: float = 0.0
    calls: int = 0


def profile_operations(job: Job, conditions: Conditions) -> Mapping[str, Spent]:
    """Run a job, and return what each operation took: of the device on a GPU, of the processor elsewhere."""
    gpu = conditions.device is Device.CUDA
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities, acc_events=True) as found:
        job()
        conditions.synchronise()
    return {
        event.key: Spent((event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e6, event.count)
        for event in found.key_averages()
    }
