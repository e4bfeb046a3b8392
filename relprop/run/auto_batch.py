"""The largest batch that fits: chunks as large as memory allows, measured on the first of them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from relprop.run.memory import OutOfMemoryError, available_memory, memory_for
from relprop.tracing.inputs import tensors_in

SHARE = {"cpu": 0.6, "cuda": 0.9}
"""Share of the available memory that a chunk may take. Buffers inside kernels are not measured. Where too much is
taken a GPU raises and a smaller chunk is tried, but the process may be killed on a CPU."""
RESULTS = 3
"""So often the results are there at once: the parts, joined, and what is made of the seeds."""
WARMUP_SAMPLES, PROBE_SAMPLES = 1, 2
"""Samples in the first chunk, in which libraries set up what they keep, and in the second, whose memory is measured."""


@dataclass(eq=False)
class MemoryEstimate:
    """What a program needs, as far as it is known.

    Parameters
    ----------
    warm : bool
        Whether it has run: what libraries set up and keep at the first run is not needed for each sample.
    samples : int
        In the largest chunk that was measured, 0 if none was.
    each : float
        Bytes that a sample needs at most. Live bytes are at every moment a constant and a multiple of the samples, so
        the peak of a small chunk over its samples is never less than that of a larger one.
    result : float
        Bytes of the results of a sample.
    most : int, optional
        Samples that may be tried: half as many as did not fit.
    """

    warm: bool = False
    samples: int = 0
    each: float = 0.0
    result: float = 0.0
    most: int | None = None

    def fitting(self, device: torch.device, batch: int, left: int) -> int:
        """Return how many of the samples that are left fit at once, of a batch whose results are joined later."""
        available = available_memory(device)
        if available is None:
            size = left  # to be halved until it fits
        elif not self.samples:
            size = PROBE_SAMPLES if self.warm else WARMUP_SAMPLES
        else:
            room = SHARE[device.type] * available - RESULTS * batch * self.result
            size = max(1, int(room / self.each)) if self.each else left
        return min(size, left, self.most or left)

    def learn(self, samples: int, peak: int, results: Any) -> None:
        """Note what a chunk took."""
        if self.warm:
            tensors = tensors_in(results)
            self.samples, self.each = samples, peak / samples
            self.result = sum(tensor.nbytes for tensor in tensors) / samples
        self.warm = True


_needs: WeakKeyDictionary[nn.Module, MemoryEstimate] = WeakKeyDictionary()


def run_auto_batched(
    run: Callable[[int, int], dict[str, Any]],
    program: nn.Module,
    batch: int,
    device: torch.device,
    *,
    retry: bool = True,
) -> list[dict[str, Any]]:
    """Run a program on a batch in chunks as large as memory allows.

    What a program needs for each sample is measured on two small chunks, whose results are kept as those of all
    others are, and is remembered for the program: that of an input shape, rule set and choice of layers. Where memory
    runs out all the same, a chunk of half the size is tried from the same sample on.

    Parameters
    ----------
    run : callable
        Explains the samples from one to, but without, another.
    program : nn.Module
        What it runs.
    batch : int
        How many samples there are.
    device : torch.device
        Where it runs.
    retry : bool
        Whether samples may be run again after a failure.

    Returns
    -------
    list
        What ``run`` returned for each chunk.

    Raises
    ------
    OutOfMemoryError
        If a single sample does not fit, or a chunk does not that may not be run again.
    """
    need = _needs.setdefault(program, MemoryEstimate())
    parts: list[dict[str, Any]] = []
    start = 0
    while start < batch:
        size = need.fitting(device, batch, batch - start)
        try:
            with memory_for(size):
                if size > 2 * need.samples or not need.warm:
                    with Meter() as meter:
                        part = run(start, start + size)
                    need.learn(size, meter.peak, part)
                else:
                    part = run(start, start + size)
        except OutOfMemoryError as error:
            if size == 1:
                raise
            need.most = size // 2
            if not retry:
                raise OutOfMemoryError(
                    f"{error}. A chunk is not tried again where hooks are called, since they would see its samples "
                    "twice; the next call begins with smaller ones"
                ) from error
        else:
            parts.append(part)
            start += size
            continue
        # Only here is the error gone, and with it the frames that hold what the failed chunk had made.
        release(device)
    return parts


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Meter(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is on, and the most that were there at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak = 0
        self._seen: dict[int, ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation; memory that its arguments already had was made before."""
        kwargs = kwargs or {}
        for tensor in pytree.tree_leaves((args, kwargs)):
            self._note(tensor, made=False)
        returned = func(*args, **kwargs)
        for tensor in pytree.tree_leaves(returned):
            self._note(tensor, made=True)
        return returned

    def _note(self, tensor: object, *, made: bool) -> None:
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes() if made else 0

        def gone(_: object) -> None:
            self.bytes -= size
            del self._seen[key]

        self._seen[key] = ref(storage, gone)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
