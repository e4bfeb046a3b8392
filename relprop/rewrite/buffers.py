"""Memory of relevances: what nobody reads any more is overwritten.

Getting fresh memory from the system takes several times as long as what is computed in it. So a rule may divide the
relevance that arrives where it lies, and the engine rescales and sums in place. That needs to know whose memory a
tensor is in: which relevance is read for the last time is told by the graph (`relprop.rewrite.reinplace`), and what a
rule returned by the tensors' storages, if it says that it keeps nothing (`rule_registry.Rule`). A tracer's tensors have
no storages, and a compiler plans memory itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rule_registry.factored import Factored, plus
from rule_registry.tracing import has_values


def can_overwrite(value: Any) -> bool:
    """Whether a tensor, or each in a tuple, has memory of its own for every entry that may be written to."""
    if isinstance(value, tuple):
        return all(can_overwrite(part) for part in value if part is not None)
    if not has_values(value) or (value.is_inference() and not torch.is_inference_mode_enabled()):
        return False
    return bool(torch.ops.aten.is_non_overlapping_and_dense.default(value))


def added(total: Tensor | Factored, share: Tensor | Factored) -> Tensor | Factored:
    """Sum of two relevances of one node."""
    return plus(total, share)


def added_in_place(total: Tensor, share: Tensor) -> Tensor:
    """Sum of two relevances of one node, in the memory of the first, which nobody else reads."""
    return total.add_(share) if can_overwrite(total) and total.dtype == share.dtype else total + share


def multiplied(values: Sequence[Tensor], factors: Sequence[Tensor], given: Sequence[Any] | None) -> tuple[Tensor, ...]:
    """Multiply each tensor, in place where it shares its memory neither with another nor with what was given.

    Where that isn't known, None, somebody may have kept any of them.
    """
    shared = _shared(values, given)
    return tuple(
        value.mul_(factor) if not taken and _can_hold(value, factor) else value * factor
        for value, factor, taken in zip(values, factors, shared, strict=True)
    )


def kept_apart(values: Sequence[Tensor], given: Sequence[Any] | None) -> tuple[Tensor, ...]:
    """Copy what shares its memory with another tensor, or with what was given, or may do so (None)."""
    shared = _shared(values, given)
    return tuple(value.clone() if taken else value for value, taken in zip(values, shared, strict=True))


def _can_hold(value: Tensor, factor: Tensor) -> bool:
    """Whether a tensor can be overwritten by its product."""
    return can_overwrite(value) and torch.result_type(value, factor) == value.dtype


def _shared(values: Sequence[Tensor], given: Sequence[Any] | None) -> list[bool]:
    """Say of each tensor whether another one, or one of those given, is (None: may be) in the same memory."""
    if given is None:
        return [True] * len(values)
    # By address: of what came through numpy each tensor has a storage of its own in the same memory.
    taken = [_memory(tensor) for tensor in _tensors((*given, *values)) if has_values(tensor)]
    return [has_values(value) and sum(_meet(_memory(value), other) for other in taken) > 1 for value in values]


def _memory(tensor: Tensor) -> range:
    storage = tensor.untyped_storage()
    return range(storage.data_ptr(), storage.data_ptr() + storage.nbytes())


def _meet(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            if value.layout == torch.strided:
                yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
