"""Products of two activations: attention scores, attention-weighted values, and their affine special case.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.abslrp.linear import half_of_both, has_few_terms, of_both_halves, positive_contributions
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.operations.products import factors, names
from rule_registry.orientation import halves, orientation
from rule_registry.registry import register

aten = torch.ops.aten


@register(ABSLRP, aten.matmul.default, aten.bmm.default, aten.mm.default, overwrites=True, contributes=True)
def matmul(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Matrix product: the formula for each factor that is an activation, the other one held."""
    sign = orientation(call, signed)
    return _shared(call, over(call, relevance, denominator(call, delta)), call.result, sign)


@register(ABSLRP, aten.addmm.default, aten.baddbmm.default, overwrites=True, contributes=True)
def add_matmul(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """``beta * self + alpha * (a @ b)`` with a constant summand, which receives nothing."""
    left, right = names(call)
    sign = orientation(call, signed)
    product = (call[left] @ call[right]) * call["alpha"]
    return _shared(call, over(call, relevance, denominator(call, delta)), product, sign)


def _shared(call: Call, s: Tensor, product: Tensor, sign: Tensor | None) -> Shares:
    """Share by the positive contributions of each factor.

    The ``product`` and ``sign``, which says what contributions count, are ``(*output)``; without a sign positive ones
    do.
    """
    if sign is None:
        values = factors(call, s, positive_contributions)
        return share(call, *values, net=len(values) * call.batch.dot_(s, product))
    # Both parts are pulled through the same shapes: as seeds behind one another.
    seeds = len(s)
    first, second = slice(seeds), slice(seeds, 2 * seeds)
    few = has_few_terms(_terms(call))
    parts = halves(s, sign) if few else (s * sign, s)
    net = call.batch.sum(s * sign * product)

    def formula(x: Tensor, nonnegative: bool, other: Tensor, pull: Callable[..., Tensor]) -> Tensor:
        if few:
            return of_both_halves(x, nonnegative, other, pull, first, second)
        return half_of_both(x, pull(other, first), pull(other.abs(), second))[0]

    values = factors(call, torch.cat(parts), formula)
    return share(call, *values, net=len(values) * net)


def _terms(call: Call) -> int:
    """Return how many outputs an entry of a factor contributes to: of the one with the fewest."""
    left, right = names(call)
    counts = {
        left: 1 if call[right].ndim == 1 else call[right].shape[-1],
        right: 1 if call[left].ndim == 1 else call[left].shape[-2],
    }
    return min(counts[slot.name] for slot in call.site.active)
