"""Memory of relevances: what nobody reads any more is overwritten.

Getting fresh memory from the system takes longer than what is computed in it (``benchmarks choices: in place``). So a
rule may divide the relevance that arrives in its own memory, and the engine rescales and sums in place. For that it
must be known whose memory a tensor is in. The graph says which relevance is read for the last time
(`relprop.rewrite.reinplace`). The storages of the tensors say it of what a rule returned, if the rule declares that it
keeps nothing (`rule_registry.Rule`). A tracer's tensors have no storages, and a compiler plans memory itself.
Relevances are ``(S, ...)``.
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


def add(total: Tensor | Factored, share: Tensor | Factored) -> Tensor | Factored:
    """Sum of two relevances of one node, ``(S, *output)``."""
    return plus(total, share)


def add_(total: Tensor, share: Tensor) -> Tensor:
    """Sum of two relevances of one node, ``(S, *output)``, in the memory of the first, which nobody else reads."""
    return total.add_(share) if can_overwrite(total) and total.dtype == share.dtype else total + share


def multiply(values: Sequence[Tensor], factors: Sequence[Tensor], given: Sequence[Any] | None) -> tuple[Tensor, ...]:
    """Multiply each ``(S, *input)`` by a factor that broadcasts, in place where it shares its memory with nobody.

    Memory may be shared with another value, or with a tensor in ``given``; if that is None, with anything.
    """
    shared = _shared(values, given)
    return tuple(
        value.mul_(factor) if not is_shared and _can_hold(value, factor) else value * factor
        for value, factor, is_shared in zip(values, factors, shared, strict=True)
    )


def copy_aliased(values: Sequence[Tensor], given: Sequence[Any] | None) -> tuple[Tensor, ...]:
    """Copy each ``(S, *input)`` that shares its memory with another one or with ``given``, or may do so (None)."""
    shared = _shared(values, given)
    return tuple(value.clone() if is_shared else value for value, is_shared in zip(values, shared, strict=True))


def _can_hold(value: Tensor, factor: Tensor) -> bool:
    """Whether a tensor ``(S, ...)`` can be overwritten by its product with a factor that broadcasts."""
    return can_overwrite(value) and torch.result_type(value, factor) == value.dtype


def _shared(values: Sequence[Tensor], given: Sequence[Any] | None) -> list[bool]:
    """Return for each ``(S, ...)`` whether another one, or one in ``given``, is (None: may be) in the same memory."""
    if given is None:
        return [True] * len(values)
    # By address: of what came through numpy each tensor has a storage of its own in the same memory.
    is_shared = [_memory(tensor) for tensor in _tensors((*given, *values)) if has_values(tensor)]
    return [has_values(value) and sum(_overlap(_memory(value), other) for other in is_shared) > 1 for value in values]


def _memory(tensor: Tensor) -> range:
    """Return the addresses of the storage of a tensor of any shape."""
    storage = tensor.untyped_storage()
    return range(storage.data_ptr(), storage.data_ptr() + storage.nbytes())


def _overlap(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """Yield the dense tensors, of any shape, among values, also those in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            if value.layout == torch.strided:
                yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
