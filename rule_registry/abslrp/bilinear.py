"""Products of two activations: attention scores, attention-weighted values, and their affine special case."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.abslrp.linear import positive_contributions
from rule_registry.call import Call, Shares, denominator, share, sum_to
from rule_registry.registry import register

aten = torch.ops.aten


@register("abslrp", aten.matmul.default, aten.bmm.default, aten.mm.default)
def matmul(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Matrix product: the formula for each factor that is an activation, the other one held."""
    left, right = ("self", "other") if "other" in call.arguments else ("self", "mat2")
    s = relevance / denominator(call, delta)
    return _factors(call, left, right, s, net_of_one=call.batch.dot(s, call.result))


@register("abslrp", aten.addmm.default, aten.baddbmm.default)
def add_matmul(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """``beta * self + alpha * (a @ b)`` with a constant summand, which receives nothing."""
    if call.is_active("self"):
        raise NotImplementedError(f"{call.site.op} at {call.site.path!r} with an activation as its summand")
    left, right = ("mat1", "mat2") if "mat1" in call.arguments else ("batch1", "batch2")
    s = relevance / denominator(call, delta)
    alpha = call["alpha"]
    product = (call[left] @ call[right]) * alpha
    return _factors(call, left, right, s, net_of_one=call.batch.dot(s, product), alpha=alpha)


def _factors(call: Call, left: str, right: str, s: Tensor, net_of_one: Tensor, alpha: float = 1) -> Shares:
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
            value = positive_contributions(a, nonnegative and alpha > 0, b, lambda held: s @ held.transpose(-1, -2))
            value = value.squeeze(-2) if row else value
        else:
            value = positive_contributions(b, nonnegative, a, lambda held: held.transpose(-1, -2) @ s)
            value = value.squeeze(-1) if column else value
        values.append(sum_to(value, call.value(slot).shape))
    return share(call, *values, net=len(values) * net_of_one)
