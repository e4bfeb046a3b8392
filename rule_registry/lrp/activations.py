"""Functions of one entry alone, which hand all relevance to that entry, and softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call
from rule_registry.lrp.definition import EPSILON
from rule_registry.operations.elementwise import ELEMENTWISE
from rule_registry.registry import register
from rule_registry.rule import passes

aten = torch.ops.aten

register(
    EPSILON,
    *ELEMENTWISE,
    aten.log_softmax.int,
    aten.detach.default,
    aten.detach_.default,
    rule=passes,
)


@register(EPSILON, aten.softmax.int, aten._softmax.default)
def softmax(call: Call, relevance: Tensor) -> Tensor:
    """First-order expansion: ``x_i (R_i - s_i sum_j R_j)``, which is the epsilon rule with none.

    Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers, ICML 2024, Eq. 13.
    """
    x = call.input
    total = relevance.sum(call["dim"] % x.ndim + 1, keepdim=True)
    return torch.where(x.isinf(), 0.0, x) * (relevance - call.result * total)
