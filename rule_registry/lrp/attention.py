"""The rule sets ``attnlrp``, ``cp-lrp`` and ``reslrp``, made for transformers.

Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers, ICML 2024, state rules for
softmax, products and norms: a first-order expansion, halves, and a division by the deviation that passes relevance on.
What is affine in a norm, its mean and gain, is under epsilon as any layer. All these are the rules of ``epsilon``.
What is new are the gammas of a vision transformer's layers: one of convolutions, one of the dense layers outside of
attention. Dense layers inside have epsilon. Which these are the graph says, see `rule_registry.select`.

Attention relevance weighed by gradients (Chefer et al., Transformer Interpretability Beyond Attention Visualization,
CVPR 2021) is none of them: it multiplies each layer's attention relevance with the attention's gradient, a second pass
backwards, and then the layers' matrices with one another, so its result is no relevance of any operation's inputs and
a rule, which sees one operation, can't state it. From a program's relevances at the softmax (`relprop.Explainer`'s
``hooks``) and autograd's gradients there it can be computed outside.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
What is `Factored` has a value without that axis, ``(*output)`` or ``(*input)``, and a gradient with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rule_registry.call import Call, Relevances, sum_to, unmasked
from rule_registry.factored import Factored, whole
from rule_registry.lrp.bilinear import matmul
from rule_registry.lrp.formula import divided, stabilised
from rule_registry.lrp.layers import alpha_beta
from rule_registry.lrp.layers import epsilon as by_epsilon
from rule_registry.lrp.layers import gamma as by_gamma
from rule_registry.lrp.residuals import by_agreement
from rule_registry.operations import products
from rule_registry.operations.linear_maps import CONVOLUTIONS
from rule_registry.parameters import not_negative
from rule_registry.purposes import FAITHFUL, TRANSFORMERS
from rule_registry.registry import define, register
from rule_registry.rule import blocks
from rule_registry.select import select

aten = torch.ops.aten

DENSE = (aten.linear.default, *products.FACTORS)

define(
    "attnlrp",
    "softmax by first-order expansion, products in halves, gammas outside of attention (Achtibat et al. 2024)",
    base="epsilon",
    purpose=TRANSFORMERS,
    linear=True,
    version=2,
    parameters={"conv_gamma": 0.25, "dense_gamma": 0.05},
    refuse=not_negative("conv_gamma", "dense_gamma"),
)


@register("attnlrp", *CONVOLUTIONS, factored=True)
def convolution(
    call: Call, relevance: Tensor | Factored, *, conv_gamma: float, epsilon: float, stabilizer: float
) -> Relevances:
    """LRP-gamma with a gamma of convolutions; epsilon where that is zero."""
    if conv_gamma == 0 or call.is_active("weight"):
        return by_epsilon(call, relevance, epsilon=epsilon)
    return by_gamma(call, whole(relevance), gamma=conv_gamma, stabilizer=stabilizer)


@register("attnlrp", *(select(op=op, attention=False) for op in DENSE), factored=True)
def dense(
    call: Call, relevance: Tensor | Factored, *, dense_gamma: float, epsilon: float, stabilizer: float
) -> Relevances:
    """LRP-gamma with a gamma of dense layers; epsilon where that is zero. Of two activations half for each."""
    if dense_gamma and len(call.site.active) == 1:
        return by_gamma(call, whole(relevance), gamma=dense_gamma, stabilizer=stabilizer)
    if call.site.op in products.FACTORS:
        return matmul(call, relevance, stabilizer=stabilizer)
    return by_epsilon(call, relevance, epsilon=epsilon)


define(
    "cp-lrp",
    "attention is held: relevance takes the path of the values alone (Ali et al. 2022)",
    base="attnlrp",
    linear=True,
    version=2,
)
register("cp-lrp", *(select(op=op, attention=True) for op in (aten.softmax.int, aten._softmax.default)), rule=blocks)


@register("cp-lrp", *(select(op=op, attention=True) for op in products.FACTORS), factored=True)
def values(call: Call, relevance: Tensor | Factored, *, stabilizer: float) -> Sequence[Tensor | Factored]:
    """Matrix product: of two activations all to the values, ``a_ik v_kj R_ij / z_ij``; none to queries and keys."""
    if len(call.site.active) == 1:
        return matmul(call, relevance, stabilizer=stabilizer)
    found = products.gradients(call, divided(call, relevance, stabilizer))
    return _to_values(call, [Factored(x, g) for x, g in zip(call.inputs, found, strict=True)])


@register("cp-lrp", select(op=aten.mul.Tensor, attention=True))
def weighted(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor | Factored]:
    """Product: of two activations all to what attention weighs; none to queries and keys."""
    z = unmasked(call, call.result) * relevance / stabilised(call.result, stabilizer)
    return _to_values(call, [sum_to(z, value.shape) for value in call.inputs])


def _to_values(call: Call, found: Sequence[Tensor | Factored]) -> list[Tensor | Factored]:
    """Leave what is no value without relevance: both factors, where the product makes the attention's logits.

    What was found for each input is ``(S, *input)``, and so is what is returned.
    """
    held = {call.site.attention_weights} if call.site.attention_weights is not None else set(call.site.active)
    return [
        call.result.new_zeros(r.shape) if slot in held else r for slot, r in zip(call.site.active, found, strict=True)
    ]


define(
    "reslrp",
    "AttnLRP, and in residual sums gamma for the terms of the sum's sign (ResLRP)",
    base="attnlrp",
    linear=True,
    parameters={"residual_gamma": 1.0},
    refuse=not_negative("residual_gamma"),
)
register("reslrp", aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor, rule=by_agreement, factored=True)

define(
    "epsilon-plus-residual",
    "z+ for convolutions, epsilon for dense layers, gamma for the terms of residual sums",
    base="reslrp",
    fixed={"conv_gamma": 0.0, "alpha": 1.0, "beta": 0.0},
    parameters={"dense_gamma": 0.0, "residual_gamma": 1.0},
    contrast="log-odds",
    purpose=FAITHFUL,
    linear=True,
)
register("epsilon-plus-residual", *CONVOLUTIONS, rule=alpha_beta)
