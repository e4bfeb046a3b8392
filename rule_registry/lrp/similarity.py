"""Cosine similarity.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call, sum_to
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import stabilised
from rule_registry.operations import similarity
from rule_registry.registry import register

aten = torch.ops.aten


@register(EPSILON, aten.cosine_similarity.default)
def proportional_cosine(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Cosine similarity: in proportion to the terms ``a_i b_i / (|a| |b|)``; half for each of two activations."""
    s = relevance / stabilised(len(call.site.active) * call.result, stabilizer)
    found = similarity.at_terms(call, s) * similarity.terms(call)
    return [sum_to(found, call.value(slot).shape) for slot in call.site.active]
