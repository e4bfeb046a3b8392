"""The rule set ``gradient``: every rule is the operation's vector-Jacobian product.

Its program must return what autograd returns. That makes it the oracle of capture, fan-out, rewriting, seeds
and the structural moves, for any model, with no reference implementation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import rule_registry.structural  # noqa: F401  # the base must be there
from rule_registry.call import Call
from rule_registry.registry import define, register
from rule_registry.rules import Rule, blocks

aten = torch.ops.aten


def vector_jacobian_product(call: Call, relevance: Any) -> tuple[Tensor, ...]:
    """Relevance times the operation's Jacobian, for each activation input."""
    several = isinstance(call.output, tuple | list)
    wanted = [k for k, part in enumerate(relevance) if part is not None] if several else []

    def operation(*inputs: Tensor) -> Any:
        arguments = {k: list(v) if isinstance(v, tuple | list) else v for k, v in call.arguments.items()}
        for slot, value in zip(call.site.active, inputs, strict=True):
            if slot.item is None:
                arguments[slot.name] = value
            else:
                arguments[slot.name][slot.item] = value
        result = call.site.op(**arguments)
        return [result[k] for k in wanted] if several else result

    pull = torch.func.vjp(operation, *call.inputs)[1]
    arrived = [relevance[k] for k in wanted] if several else relevance
    shares: tuple[Tensor, ...] = torch.func.vmap(pull)(arrived)
    return shares


define(
    "gradient",
    "the input gradient of the target: each rule is a vector-Jacobian product",
    base="structural",
    default=Rule("vector_jacobian_product", vector_jacobian_product),
    conserves=False,
)
register("gradient", aten.detach.default, aten.detach_.default, rule=blocks)


@register("gradient", aten._native_batch_norm_legit_no_training.default)
def batch_norm(call: Call, relevance: Any) -> Tensor:
    """Scale each channel: torch defines no derivative for this form of the operation."""
    gain = torch.rsqrt(call["running_var"] + call["eps"])
    if call["weight"] is not None:
        gain = gain * call["weight"]
    scaled: Tensor = relevance[0] * gain.reshape(-1, *(1,) * (call.input.ndim - 2))
    return scaled
