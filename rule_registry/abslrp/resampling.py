"""Bicubic interpolation: separable, so its weights of both signs are one small matrix per axis."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, share
from rule_registry.operations import linear_maps
from rule_registry.registry import register


@register(ABSLRP, *linear_maps.BICUBIC)
def bicubic(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Interpolation with negative weights: a product of weights is negative where an odd number of them is."""
    x, s = call.input, relevance / denominator(call, delta)
    parts = [(weight.clamp(min=0), weight.clamp(max=0)) for weight in linear_maps.interpolation_weights(call)]

    def pull(parity: int) -> Tensor:
        signs = (signs for signs in product((0, 1), repeat=len(parts)) if sum(signs) % 2 == parity)
        chosen = ([part[sign] for part, sign in zip(parts, signs_, strict=True)] for signs_ in signs)
        return torch.stack([linear_maps.interpolated(weights, s) for weights in chosen]).sum(0)

    values = pull(0) * x.clamp(min=0)
    if not call.site.nonnegative[0]:
        values = values + pull(1) * x.clamp(max=0)
    return share(call, values, net=call.batch.dot_(s, call.result))
