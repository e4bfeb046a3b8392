"""The rule set ``gradient``: every rule is the operation's vector-Jacobian product.

Its program must return what autograd returns. That makes it the oracle of capture, fan-out, rewriting, seeds
and the structural moves, for any model, with no reference implementation.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rule_registry.call import Call
from rule_registry.operations import norms
from rule_registry.purposes import GRADIENTS
from rule_registry.registry import define, register
from rule_registry.rule import Rule, blocks
from rule_registry.tracing import is_exported

aten = torch.ops.aten


def vector_jacobian_product(call: Call, relevance: Any) -> tuple[Tensor, ...]:
    """Relevance times the operation's Jacobian, for each activation input.

    Relevance of several outputs is a sequence of one ``(S, *part)`` for each, with None for one that nobody used.
    """
    if any(map(is_exported, call.inputs)):  # it would keep the tracer's tensors, and its levels on the stack
        raise NotImplementedError(
            f"{call.site.op} at {call.site.path!r}: torch.export can't trace a derivative, so programs whose rules "
            "take one can't be exported; those of abslrp can"
        )
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

    # What comes through a cast of complex numbers to real ones is real.
    arrived = [relevance[k].to(call.output[k].dtype) for k in wanted] if several else relevance.to(call.output.dtype)
    if call.site.op.namespace != "aten":
        return _by_tape(operation, call, arrived)
    try:
        pull = torch.func.vjp(operation, *call.inputs)[1]
        if call.site.op in _WRONG_IN_BATCHES:
            return tuple(torch.stack(parts) for parts in zip(*map(pull, arrived), strict=True))
        shares: tuple[Tensor, ...] = torch.func.vmap(pull)(arrived)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise NotImplementedError(f"{call.site.op} at {call.site.path!r} has no gradient: {error}") from error
    return shares


_WRONG_IN_BATCHES = (aten.cdist.default, aten._cdist_forward.default, aten.as_strided_scatter.default)
"""Operations whose backward torch maps over seeds to wrong numbers (of all that its own tests know, torch 2.15)."""


def _by_tape(operation: Callable[..., Any], call: Call, arrived: Any) -> tuple[Tensor, ...]:
    """Differentiate an operation of one's own, whose autograd formula function transforms can't see.

    What ``arrived`` is ``(S, *output)``, or a list of these where the operation returns several tensors.
    """
    with torch.enable_grad():
        inputs = [value.detach().clone().requires_grad_() for value in call.inputs]
        result = operation(*inputs)
        outputs, seeds = (result, arrived) if isinstance(result, list) else ([result], [arrived])
        if not all(output.requires_grad for output in outputs):
            raise NotImplementedError(
                f"{call.site.op} at {call.site.path!r} has no autograd formula, so it has no gradient: give it one "
                "with torch.library.register_autograd"
            )
        try:
            found = [
                torch.autograd.grad(outputs, inputs, seed, retain_graph=True, materialize_grads=True)
                for seed in zip(*seeds, strict=True)
            ]
        except RuntimeError as error:  # what torch.library.custom_op makes of an operation without a formula
            raise NotImplementedError(f"{call.site.op} at {call.site.path!r} has no gradient: {error}") from error
    return tuple(torch.stack(parts) for parts in zip(*found, strict=True))


define(
    "gradient",
    "the input gradient of the target: each rule is a vector-Jacobian product",
    base="structural",
    default=Rule("vector_jacobian_product", vector_jacobian_product, complex=True, linear=True),
    complex=True,
    linear=True,
    mass="ignored",
    purpose=GRADIENTS,
)
register("gradient", aten.detach.default, aten.detach_.default, rule=blocks)


@register("gradient", norms.BATCH_NORM)
def batch_norm(call: Call, relevance: Any) -> Tensor:
    """Scale each channel: torch defines no derivative for this form of the operation.

    It returns several tensors, and relevance has one entry for each: ``(S, *output)`` for the first.
    """
    scaled: Tensor = norms.scaled(call, relevance[0])
    return scaled
