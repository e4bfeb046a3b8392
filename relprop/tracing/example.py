"""The example that a capture rests on: what the model returns for it, and which of its hooks belong to that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.errors import RelpropError
from relprop.tracing.batch_axis import perturbed
from relprop.tracing.export import Wrapped
from relprop.tracing.failures import failure
from relprop.tracing.inputs import Inputs
from relprop.tracing.model_copy import callable_copy
from relprop.tracing.outputs import tensors_of
from relprop.tracing.pooled_levels import count_boxes, write_out_levels
from relprop.tracing.watched_hooks import drop_observers, may_keep_features, try_hooks, watch_hooks


@dataclass(frozen=True, eq=False)
class TracedModel:
    """What is captured: copies of it are called and traced, each only once.

    A call leaves a state behind, in a model that remembers the batch it saw last say, so the copy that is traced was
    never called. What copies share, ``put_back`` makes as it was before.
    """

    model: nn.Module | ExportedProgram
    target: Callable[[Any], Any] | None
    output: str | int | None
    put_back: Callable[[], None]

    def copy(self) -> tuple[Wrapped, dict[int, Tensor]]:
        """Return a copy to call or to trace, and the model's tensor for the identity of each that was copied."""
        copied: nn.Module
        originals: dict[int, Tensor]
        if isinstance(self.model, ExportedProgram):
            copied, originals = self.model.module(), {}
        else:
            copied, originals = callable_copy(self.model)
            watch_hooks(copied)
        target = self.target
        self.put_back()
        count_boxes(copied)
        if isinstance(target, nn.Module):
            target, held = callable_copy(target)
            watch_hooks(target)
            originals |= held
        return Wrapped(copied, target, self.output), originals


@dataclass(frozen=True, eq=False)
class Example:
    """A call of a subject.

    Parameters
    ----------
    inputs : Inputs
        Two samples, or one for a graph of one.
    called : Wrapped
        The copy that was called, with its hooks watched.
    returned : object
        What it returned.
    needs_hooks : bool
        Whether hooks that seem to observe keep what the forward reads later.
    for_others : object
        What is returned where the first sample is perturbed, if ``needs_hooks``.
    """

    inputs: Inputs
    called: Wrapped
    returned: Any
    needs_hooks: bool = False
    for_others: Any = None

    def traceable(self, subject: TracedModel) -> tuple[Wrapped, dict[int, Tensor]]:
        """Return a copy that was never called, without the hooks that only observe."""
        wrapped, originals = subject.copy()
        write_out_levels(wrapped)
        if self.needs_hooks:
            try_hooks(wrapped)
        else:
            drop_observers(wrapped, self.called)
        return wrapped, originals


def call_example(subject: TracedModel, given: Inputs, samples: int = 2) -> Example:
    """Call a copy of a model on two of the samples that are given, or on one.

    Raises
    ------
    InputError
        If the model itself fails on what is given.
    CaptureError
        If it does not, but fails on two of these samples, or a copy of it does.
    """
    inputs = given.samples(samples)
    called, _ = subject.copy()
    try:
        returned = call(called, inputs)
    except RelpropError:  # of the output that is meant, or the target
        raise
    except Exception as error:  # whatever the model raises
        subject.put_back()
        raise failure(subject.model, given, error) from error
    if not may_keep_features(called):
        return Example(inputs, called, returned)
    # What was kept at an earlier call, of the user's say, would hide that it is read: so other values than before.
    others = perturbed(inputs)
    try:
        expected = call(subject.copy()[0], others)
    except Exception:  # of the model, on values that nobody gave
        return Example(inputs, called, returned, needs_hooks=True)
    without, _ = subject.copy()
    drop_observers(without, called)
    try:
        found = call(without, others)
    except Exception:  # of the model, which misses what a hook kept
        return Example(inputs, called, returned, True, expected)
    return Example(inputs, called, returned, not _same(found, expected), expected)


def _same(a: Any, b: Any) -> bool:
    a, b = ([tensor for _, tensor, _ in tensors_of(returned)] for returned in (a, b))
    alike = (x.shape == y.shape and torch.allclose(x, y, equal_nan=True) for x, y in zip(a, b, strict=False))
    return bool(a) and len(a) == len(b) and all(alike)


def call(wrapped: Wrapped, inputs: Inputs) -> Any:
    """Run a copy on the example; a forward that changes its inputs or its buffers changes clones of them."""
    buffers = {name: buffer.clone() for name, buffer in wrapped.named_buffers()}
    return torch.func.functional_call(wrapped, buffers, inputs.map(lambda tensor, _: tensor.clone()))
