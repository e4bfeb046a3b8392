"""What an operation of a graph on disk may be: one that only computes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

SIZES: Mapping[str, Callable[..., Any]] = {
    **{f"operator.{f.__name__}": f for f in (operator.getitem, operator.add, operator.sub, operator.mul)},
    **{f"operator.{f.__name__}": f for f in (operator.floordiv, operator.mod, operator.neg, operator.pow)},
    **{f"operator.{f.__name__}": f for f in (operator.truediv, operator.eq, operator.ge, operator.le)},
    **{f"math.{f.__name__}": f for f in (math.ceil, math.floor, math.trunc)},
    **{f"torch.{f.__name__}": f for f in (torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float)},
}
"""Operations that are none of the registry's."""
_FACTORIES = {
    *("aten::arange", "aten::empty", "aten::eye", "aten::full", "aten::linspace", "aten::ones", "aten::zeros"),
    *("aten::scalar_tensor", "aten::tril_indices", "aten::triu_indices"),
}
"""Operations without a tensor among their inputs; others of that kind reach beyond tensors, to files for example."""
NAMED = (torch.dtype, torch.layout, torch.memory_format, torch.device)
"""Kinds of constant that are written by their names."""


def operation_named(name: str) -> OpOverload:
    """Return the operation that calls itself so, as in ``aten::add.Tensor``.

    Raises
    ------
    ValueError, AttributeError
        If there is none.
    """
    operation, _, overload = name.partition(".")
    space, _, packet = operation.partition("::")
    found = getattr(getattr(getattr(torch.ops, space), packet), overload or "default")
    if not isinstance(found, OpOverload):
        raise ValueError(f"{name} is no operation")
    return found


def is_harmless(operation: OpOverload) -> bool:
    """Whether an operation only computes: it changes none of its inputs, and reaches for nothing else than these."""
    schema = operation._schema
    takes = any("Tensor" in str(argument.type) for argument in schema.arguments)
    return not schema.is_mutable and (takes or schema.name in _FACTORIES)
