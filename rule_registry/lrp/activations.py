"""Functions of one entry alone, which hand all relevance to that entry, and softmax.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
What is `Factored` has a value without that axis, ``(*output)`` or ``(*input)``, and a gradient with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call, finite
from rule_registry.factored import Factored, whole
from rule_registry.lrp.definition import EPSILON
from rule_registry.operations.elementwise import ELEMENTWISE
from rule_registry.registry import register
from rule_registry.rule import passes

aten = torch.ops.aten

register(
    EPSILON,
    *(op for op in ELEMENTWISE if op != aten.relu.default),
    aten.log_softmax.int,
    aten.detach.default,
    aten.detach_.default,
    rule=passes,
)
register(EPSILON, aten.relu.default, rule=passes, keeps=True)


@register(EPSILON, aten.softmax.int, aten._softmax.default, factored=True)
def softmax(call: Call, relevance: Tensor | Factored) -> Factored:
    """First-order expansion: ``x_i (R_i - s_i sum_j R_j)``, which is the epsilon rule with none.

    Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers, ICML 2024, Eq. 13.
    """
    x, p = call.input, call.result
    dim = call["dim"] % x.ndim + 1
    if isinstance(relevance, Factored) and relevance.value is p:  # the gradient of a softmax
        g = relevance.gradient
        return Factored(finite(x), aten._softmax_backward_data(g, p.expand_as(g), dim, p.dtype))
    arrived = whole(relevance)
    return Factored(finite(x), arrived - p * arrived.sum(dim, keepdim=True))
