"""Explaining a batch in chunks: of a given size, of as many samples as fit, or of as many as is fastest."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import SymInt

from relprop.assign.contrasts import Classes
from relprop.graph.graph import Graph
from relprop.run.auto_batch import run_auto_batched
from relprop.run.compiled import NotCompiledError
from relprop.run.memory import memory_for
from relprop.run.prepared import PreparedProgram
from relprop.run.progress import DELAY, progress_bar
from relprop.tracing.export import plain_mode
from relprop.tracing.inputs import Inputs
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


@plain_mode()
def run(
    prepared: PreparedProgram,
    inputs: Inputs,
    classes: Classes,
    batch_size: BatchSize,
    compile: bool,
) -> list[dict[str, Any]]:
    """Run a program on a batch, some samples after the other.

    Parameters
    ----------
    prepared : PreparedProgram
        The program, and what it was made from.
    inputs : Inputs
        All samples, ``(B, ...)``.
    classes : Classes
        What is explained of them, and against what.
    batch_size : int or "auto", optional
        At most so many samples at once, or as many as memory holds. By default, all of them; on a CPU, where no hook
        would be called more often for it, as many as `usual_size` says. A graph of one sample takes one at a time.
    compile : bool
        Whether to run the program compiled where it can be. Where it can't be, one warning says why.

    Returns
    -------
    list of dict
        What the program returned for each chunk.

    Raises
    ------
    OutOfMemoryError
    """
    batch, device, inputs = inputs.batch_size, inputs.device, inputs.plain()
    if prepared.plan.graph.alone:
        batch_size = 1

    def run_chunk(start: int, stop: int) -> dict[str, Any]:
        tensors = (*inputs.slice(start, stop), *classes.slice(start, stop))
        refused = ""
        if compile and prepared.compiled.pays_for(stop - start):
            try:
                return prepared.run_compiled(*tensors)
            except NotCompiledError as error:
                refused = str(error)
        returned: dict[str, Any] = prepared.in_place_program(*tensors)
        if refused:  # an error of a rule was raised before
            prepared.compiled.warn_once(refused)
        return returned

    with memory_for(batch):
        if batch_size == "auto":
            parts = run_auto_batched(run_chunk, prepared.in_place_program, batch, device, retry=not prepared.hooks)
        else:
            whole = prepared.hooks or device.type != "cpu"
            flows = 1 + sum(channels.shape[1] for channels in classes.channels)
            size = batch_size or (batch if whole else usual_size(prepared.plan.graph, batch, flows))
            parts = []
            with progress_bar(batch, "sample", delay=DELAY, leave=False) if size < batch else nullcontext() as bar:
                for start in range(0, batch, size):
                    stop = min(start + size, batch)
                    with memory_for(stop - start):
                        parts.append(run_chunk(start, stop))
                    if bar is not None:
                        bar.update(stop - start)
    return parts


def usual_size(graph: Graph, batch: int, flows: int = 1) -> int:
    """Return how many samples of a batch a CPU explains fastest at once; the chunks are about equally large.

    With concepts there are several flows of relevance for each sample, and fewer samples at once.
    """
    largest = max(_bytes_of_a_sample(node.meta["val"], mark) for node, mark in graph.batch.items() if mark is not None)
    fitting = FAST_BYTES // largest
    most = max(1, max(torch.get_num_threads(), fitting if fitting >= FEW else SLICE) // flows)
    return math.ceil(batch / math.ceil(batch / most))


def _entries(size: int | SymInt) -> int:
    """Return a size; one that only a run tells, as of ``x[:, mask]``, is less than that of what is chosen from."""
    return int(size) if isinstance(size, int) or size.node.has_hint() else 1


def _bytes_of_a_sample(value: Any, mark: BatchAxis | tuple[BatchAxis | None, ...]) -> int:
    if isinstance(mark, tuple):
        return max((_bytes_of_a_sample(v, m) for v, m in zip(value, mark, strict=True) if m is not None), default=1)
    sizes = [mark.factor * mark.outer if axis == mark.axis else _entries(size) for axis, size in enumerate(value.shape)]
    itemsize: int = max(value.dtype.itemsize, torch.float32.itemsize)
    return max(1, math.prod(sizes) * itemsize)
