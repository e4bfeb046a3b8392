"""Cosine similarity.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, share, sum_to
from rule_registry.operations import similarity
from rule_registry.orientation import orientation
from rule_registry.registry import register

aten = torch.ops.aten


@register(ABSLRP, aten.cosine_similarity.default, contributes=True)
def cosine(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Cosine similarity: the terms ``a_i b_i / (|a| |b|)`` of its own sign, for each vector that is an activation."""
    s = relevance / denominator(call, delta)
    sign, terms = orientation(call, signed), similarity.terms(call)
    if sign is not None:
        terms = terms * similarity.at_terms(call, sign.unsqueeze(0))[0]
    counted = similarity.at_terms(call, s) * terms.clamp(min=0)
    values = [sum_to(counted, call.value(slot).shape) for slot in call.site.active]
    return share(call, *values, net=len(values) * call.batch.dot(s if sign is None else s * sign, call.result))
