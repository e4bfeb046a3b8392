"""Explaining a batch in chunks: of a given size, of as many samples as fit, or of as many as is fastest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch

from relprop.graph.graph import Graph
from relprop.run.auto_batch import run_fitting
from relprop.run.memory import memory_for
from relprop.run.prepared import Ready
from rule_registry import BatchAxis

FAST_BYTES = 16 << 20
"""The largest activation of a chunk on a CPU, where that leaves a few samples. C libraries fetch larger tensors anew
from the system each time, and clearing their pages then takes a third of the time of an EfficientNet; the relevance
of two seeds is twice as large."""
FEW = 3
"""Products over fewer samples than this are slower by more than fresh memory costs."""
SLICE = 4
"""So many samples are explained at once where fewer than a few would fit."""

BatchSize = int | Literal["auto"] | None


def run_in_chunks(
    run: Callable[[int, int], dict[str, Any]], ready: Ready, batch: int, size: BatchSize, device: torch.device
) -> list[dict[str, Any]]:
    """Run a program on a batch, some samples after the other.

    Parameters
    ----------
    run : callable
        Explains the samples from one to, but without, another.
    ready : Ready
        The program, and what it was made from.
    batch : int
        How many samples there are.
    size : int or "auto", optional
        At most so many at once, or as many as memory holds. By default, all of them; on a CPU, where no hook would
        be called more often for it, as many as `usual_size` says.
    device : torch.device
        Where it runs.

    Returns
    -------
    list
        What ``run`` returned for each chunk.

    Raises
    ------
    OutOfMemoryError
    """
    if size == "auto":
        return run_fitting(run, ready.running, batch, device, again=not ready.hooks)
    if size is None:
        size = batch if ready.hooks or device.type != "cpu" else usual_size(ready.plan.graph, batch)
    parts = []
    for start in range(0, batch, size):
        stop = min(start + size, batch)
        with memory_for(stop - start):
            parts.append(run(start, stop))
    return parts


def usual_size(graph: Graph, batch: int) -> int:
    """Return how many samples of a batch a CPU explains fastest at once; the chunks are about equally large."""
    largest = max(_bytes_of_a_sample(node.meta["val"], mark) for node, mark in graph.batch.items() if mark is not None)
    fitting = FAST_BYTES // largest
    most = max(torch.get_num_threads(), fitting if fitting >= FEW else SLICE)
    return math.ceil(batch / math.ceil(batch / most))


def _bytes_of_a_sample(value: Any, mark: BatchAxis | tuple[BatchAxis | None, ...]) -> int:
    if isinstance(mark, tuple):
        return max((_bytes_of_a_sample(v, m) for v, m in zip(value, mark, strict=True) if m is not None), default=1)
    sizes = [mark.factor * mark.outer if axis == mark.axis else int(size) for axis, size in enumerate(value.shape)]
    itemsize: int = max(value.dtype.itemsize, torch.float32.itemsize)
    return max(1, math.prod(sizes) * itemsize)
