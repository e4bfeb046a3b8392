"""Cosine similarity: a bilinear product of two vectors whose lengths are held, as the statistics of norms are."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry import lrp  # noqa: F401  # its rule sets must be there
from rule_registry.call import Call, Shares, denominator, share, sum_to
from rule_registry.lrp.formula import stabilised
from rule_registry.registry import register

aten = torch.ops.aten


@register("abslrp", aten.cosine_similarity.default)
def cosine(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Cosine similarity: the positive terms ``a_i b_i / (|a| |b|)``, for each vector that is an activation."""
    s = relevance / denominator(call, delta)
    positive = _over_terms(call, s) * _terms(call).clamp(min=0)
    values = [sum_to(positive, call.value(slot).shape) for slot in call.site.active]
    return share(call, *values, net=len(values) * call.batch.dot(s, call.result))


@register("epsilon", aten.cosine_similarity.default)
def proportional_cosine(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Cosine similarity: in proportion to the terms ``a_i b_i / (|a| |b|)``; half for each of two activations."""
    s = relevance / stabilised(len(call.site.active) * call.result, stabilizer)
    found = _over_terms(call, s) * _terms(call)
    return [sum_to(found, call.value(slot).shape) for slot in call.site.active]


def _terms(call: Call) -> Tensor:
    """Return what the cosine is a sum of."""
    a, b = torch.broadcast_tensors(call["x1"], call["x2"])
    a_length, b_length = (x.square().sum(call["dim"], keepdim=True).sqrt().clamp(min=call["eps"]) for x in (a, b))
    terms: Tensor = a * b / (a_length * b_length)
    return terms


def _over_terms(call: Call, s: Tensor) -> Tensor:
    return s.unsqueeze(call["dim"] + 1 if call["dim"] >= 0 else call["dim"])
