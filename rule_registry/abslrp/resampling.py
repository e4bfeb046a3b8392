"""Bicubic interpolation: separable, so its weights of both signs are one small matrix per axis.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, share
from rule_registry.operations import linear_maps
from rule_registry.orientation import halves, orientation
from rule_registry.registry import register


@register(ABSLRP, *linear_maps.BICUBIC, contributes=True)
def bicubic(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Interpolation with negative weights: a product of weights is negative where an odd number of them is."""
    x, s = call.input, relevance / denominator(call, delta)
    parts = [(weight.clamp(min=0), weight.clamp(max=0)) for weight in linear_maps.interpolation_weights(call)]

    def pull(parity: int, s: Tensor) -> Tensor:
        signs = (signs for signs in product((0, 1), repeat=len(parts)) if sum(signs) % 2 == parity)
        chosen = ([part[sign] for part, sign in zip(parts, signs_, strict=True)] for signs_ in signs)
        return torch.stack([linear_maps.interpolated(weights, s) for weights in chosen]).sum(0)

    sign = orientation(call, signed)
    if sign is not None:
        raised, lowered = halves(s, sign)
        up, down = pull(0, raised) - pull(1, lowered), pull(0, lowered) - pull(1, raised)
        values = up * x.clamp(min=0) - down * x.clamp(max=0)
        return share(call, values, net=call.batch.dot_(s.mul_(sign), call.result))
    values = pull(0, s) * x.clamp(min=0)
    if not call.site.nonnegative[0]:
        values = values + pull(1, s) * x.clamp(max=0)
    return share(call, values, net=call.batch.dot_(s, call.result))
