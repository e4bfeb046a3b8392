"""How the terms of a sum share relevance: what a residual connection hands to its shortcut and to its branch.

Rules to choose where a rule set has another one, in any rule set::

    rule_registry.get("abslrp").derive({torch.ops.aten.add.Tensor: rule_registry.lrp.residuals.by_magnitude})

Relevance goes to the terms that are activations; a constant one receives nothing.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
What is `Factored` has a value without that axis, ``(*output)`` or ``(*input)``, and a gradient with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from rule_registry.call import Call, Shares, share, sum_to, unmasked
from rule_registry.factored import Factored, whole
from rule_registry.lrp.formula import divided, stabilised
from rule_registry.operations.elementwise import DIFFERENCES, REVERSED_DIFFERENCES

aten = torch.ops.aten


def by_magnitude(call: Call, relevance: Tensor, *, stabilizer: float = 1e-6) -> Shares:
    """Sum: each term in proportion to its magnitude, ``|a| / (|a| + |b|)``.

    The ratio-based splitting of Otsuki et al., Layer-Wise Relevance Propagation with Conservation Property for ResNet,
    ECCV 2024.
    """
    return _split(call, relevance, torch.abs, stabilizer)


def by_positive_part(call: Call, relevance: Tensor, *, stabilizer: float = 1e-6) -> Shares:
    """Sum, a layer whose weights are one: each term in proportion to its positive part, ``a^+ / (a^+ + b^+)``."""
    return _split(call, relevance, torch.relu, stabilizer)


def in_halves(call: Call, relevance: Tensor) -> list[Tensor]:
    """Sum: the same for each term, whatever its value.

    The symmetric splitting of Otsuki et al. 2024.
    """
    return [sum_to(relevance / len(call.site.active), value.shape) for value in call.inputs]


def by_agreement(
    call: Call, relevance: Tensor | Factored, *, residual_gamma: float = 1.0, stabilizer: float = 1e-6
) -> list[Factored]:
    """Sum: in proportion to values, terms of the sum's sign weigh ``1 + residual_gamma`` times as much.

    ``(1 + gamma [sgn a = sgn z]) a`` over the sum of these, ``z = a + b``: the gamma rule of a layer whose weights are
    one, as ResLRP has it. What falls on a constant term is absorbed, in proportion to its value. Linear in what
    arrives, which may have both signs.
    """
    signs = _signs(call)
    values = [unmasked(call, value) for value in call.inputs]
    if len(values) == 1:
        s, (slot,) = divided(call, relevance, stabilizer), call.site.active
        return [Factored(values[0], sum_to(s * signs[slot.name], values[0].shape))]
    z = call.result
    weights = []
    for slot, value in zip(call.site.active, values, strict=True):
        sign = signs[slot.name]
        agrees = (value * sign).sign() == z.sign()
        weights.append(agrees.to(z.dtype).mul_(residual_gamma * sign).add_(sign))
    total = reduce(torch.add, (weight * value for weight, value in zip(weights, values, strict=True)))
    s = whole(relevance) / stabilised(total, stabilizer)
    return [Factored(value, sum_to(s * weight, value.shape)) for weight, value in zip(weights, values, strict=True)]


def _signs(call: Call) -> dict[str, float]:
    """Return what each term of a sum or difference is multiplied with."""
    alpha = call["alpha"]
    if call.site.op in REVERSED_DIFFERENCES:
        return {"self": -alpha, "other": 1}
    return {"self": 1, "other": -alpha if call.site.op in DIFFERENCES else alpha}


def _split(call: Call, relevance: Tensor, weigh: Callable[[Tensor], Tensor], stabilizer: float) -> Shares:
    """Share among the terms of a sum by the weights that ``weigh`` gives their entries, each shaped like its term."""
    signs = _signs(call)
    parts = [weigh(call.value(slot) * signs[slot.name]) for slot in call.site.active]
    s = relevance / stabilised(torch.stack(torch.broadcast_tensors(*parts)).sum(0), stabilizer)
    values = [sum_to(s * part, part.shape) for part in parts]
    return share(call, *values, total=call.batch.sum(relevance.abs()))
