"""Products of two activations, and with a constant.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
What is `Factored` has a value without that axis, ``(*output)`` or ``(*input)``, and a gradient with it.
"""

from __future__ import annotations

from torch import Tensor

from rule_registry.call import Call
from rule_registry.factored import Factored
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import divided
from rule_registry.operations import products
from rule_registry.registry import register


@register(EPSILON, *products.FACTORS, factored=True)
def matmul(call: Call, relevance: Tensor | Factored, *, stabilizer: float) -> list[Factored]:
    """Matrix product: with a constant a layer; of two activations half of ``a_ik b_kj R_ij / z_ij`` for each.

    The halves are those of Achtibat et al. 2024, Eq. 15.
    """
    s = divided(call, relevance, stabilizer, len(call.site.active))
    return [Factored(x, g) for x, g in zip(call.inputs, products.gradients(call, s), strict=True)]
