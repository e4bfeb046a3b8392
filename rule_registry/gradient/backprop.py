"""Rule sets built on the gradient: weighed with the input, or with another way through rectifiers.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call
from rule_registry.gradient.gradient import vector_jacobian_product
from rule_registry.registry import define, register

aten = torch.ops.aten

RECTIFIERS = (
    aten.celu.default,
    aten.clamp_min.default,
    aten.elu.default,
    aten.gelu.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.mish.default,
    aten.prelu.default,
    aten.relu.default,
    aten.relu6.default,
    aten.selu.default,
    aten.silu.default,
    aten.softplus.default,
)
"""ReLU, for which the rules were made, and the functions that take its place in other models."""

# Each output is one: it is the gradient that is multiplied, at the input, and what comes out sums to the output
# itself where the model is linear along the ray through the input.
define(
    "input-times-gradient",
    "the gradient, multiplied with the input (Shrikumar et al. 2016)",
    base="gradient",
    times_input=True,
)

define(
    "guided-backprop",
    "the gradient, of positive slopes and relevances alone (Springenberg et al. 2015)",
    base="gradient",
)

define("deconvnet", "the gradient with rectifiers on the way back (Zeiler and Fergus 2014)", base="gradient")


@register("guided-backprop", *RECTIFIERS)
def guided(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
    """Gradient of a rectifier, of what arrives with a positive sign: ``f'(x) R^+``, of ReLU ``[x > 0] R^+``.

    Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015, section 3.4.
    """
    return vector_jacobian_product(call, relevance.clamp(min=0))


@register("deconvnet", *RECTIFIERS)
def rectified(call: Call, relevance: Tensor) -> Tensor:
    """Pass what arrives with a positive sign, whatever went in: ``R^+``.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 2.1.
    """
    return relevance.clamp(min=0)
