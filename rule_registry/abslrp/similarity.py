"""Cosine similarity."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, share, sum_to
from rule_registry.operations import similarity
from rule_registry.registry import register

aten = torch.ops.aten


@register(ABSLRP, aten.cosine_similarity.default)
def cosine(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Cosine similarity: the positive terms ``a_i b_i / (|a| |b|)``, for each vector that is an activation."""
    s = relevance / denominator(call, delta)
    positive = similarity.at_terms(call, s) * similarity.terms(call).clamp(min=0)
    values = [sum_to(positive, call.value(slot).shape) for slot in call.site.active]
    return share(call, *values, net=len(values) * call.batch.dot(s, call.result))
