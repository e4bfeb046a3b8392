"""Matrix products, one or both of whose factors are activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._ops import OpOverload

from rule_registry.call import Call, sum_to

aten = torch.ops.aten

FACTORS: dict[OpOverload, tuple[str, str]] = {
    aten.matmul.default: ("self", "other"),
    aten.mm.default: ("self", "mat2"),
    aten.bmm.default: ("self", "mat2"),
    aten.addmm.default: ("mat1", "mat2"),
    aten.baddbmm.default: ("batch1", "batch2"),
}
"""Matrix products, and the names of their factors."""

Formula = Callable[[Tensor, bool, Tensor, Callable[..., Tensor]], Tensor]
"""From an activation, whether it is known never to be negative, the other factor, and how that is multiplied with
what stands in the place of the output (all seeds, or a slice of them), to the relevance of the activation."""


def factors(call: Call, s: Tensor, formula: Formula) -> list[Tensor]:
    """Apply a formula to each factor that is an activation, with the other one held.

    Parameters
    ----------
    call : Call
        Of a matrix product, or of one with a constant summand.
    s : Tensor
        What stands in the place of the output, ``(S, *output)``.
    formula : callable
        How a factor's relevance follows.
    """
    left, right = names(call)
    alpha = call.arguments.get("alpha", 1)
    a, b = call[left] if alpha == 1 else call[left] * alpha, call[right]
    row, column = a.ndim == 1, b.ndim == 1
    if row:
        a, s = a.unsqueeze(0), s.unsqueeze(-1 if column else -2)
    if column:
        b, s = b.unsqueeze(-1), s.unsqueeze(-1)
    values = []
    for slot in call.site.active:
        nonnegative = call.is_nonnegative(slot.name)
        if slot.name == left:
            value = formula(
                a, nonnegative and alpha > 0, b, lambda held, part=slice(None): s[part] @ held.transpose(-1, -2)
            )
            value = value.squeeze(-2) if row else value
        else:
            value = formula(b, nonnegative, a, lambda held, part=slice(None): held.transpose(-1, -2) @ s[part])
            value = value.squeeze(-1) if column else value
        values.append(sum_to(value, call.value(slot).shape))
    return values


def gradients(call: Call, s: Tensor) -> list[Tensor]:
    """Multiply ``(S, *output)`` with the transpose of the other factor, for each activation: ``(S, *input)``."""
    left, alpha = names(call)[0], call.arguments.get("alpha", 1)
    found = factors(call, s, lambda x, nonnegative, other, pull: pull(other))
    if alpha == 1:
        return found
    return [g * alpha if slot.name == left else g for slot, g in zip(call.site.active, found, strict=True)]


def names(call: Call) -> tuple[str, str]:
    """Return the names of the factors.

    Raises
    ------
    NotImplementedError
        If the summand of a product with one is an activation.
    """
    found = FACTORS[call.site.op]
    if "self" not in found and call.is_active("self"):
        raise NotImplementedError(f"{call.site.op} at {call.site.path!r} with an activation as its summand")
    return found
