"""Norms with their deviation held, and their mean a sum as any other.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
What is `Factored` has a value without that axis, ``(*output)`` or ``(*input)``, and a gradient with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rule_registry.call import Call
from rule_registry.factored import Factored
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import divided
from rule_registry.operations import norms
from rule_registry.registry import register
from rule_registry.rule import Rule


@register(EPSILON, *norms.NORMS, factored=True)
def norm(call: Call, relevance: Tensor | Factored, *, stabilizer: float) -> Factored:
    """Norm with its deviation held, and its mean a sum as any other.

    The LN-rule of Ali et al., XAI for Transformers: Better Explanations through Conservative Propagation, ICML 2022.
    """
    s = divided(call, relevance, stabilizer)
    return Factored(call.input, norms.centred(call, norms.scaled(call, s)))


def batch_norm(call: Call, relevance: Sequence[Tensor | Factored], *, stabilizer: float) -> Factored:
    """Batch norm in evaluation mode that no layer precedes: an affine layer of its own.

    It returns several tensors, and relevance has one entry for each: ``(S, *output)`` for the first.
    """
    return norm(call, relevance[0], stabilizer=stabilizer)


register(
    EPSILON,
    norms.BATCH_NORM,
    rule=Rule("batch_norm", batch_norm, fold=norms.batch_norm_channels, factored=True),
)
