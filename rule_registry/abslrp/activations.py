"""Operations relevance passes through unchanged: activation functions, softmax, and inert ones."""

from __future__ import annotations

import torch

from rule_registry.registry import register
from rule_registry.rules import passes

aten = torch.ops.aten

ELEMENTWISE = (
    aten.abs.default,
    aten.celu.default,
    aten.clamp.default,
    aten.clamp.Tensor,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.elu.default,
    aten.erf.default,
    aten.exp.default,
    aten.gelu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.log.default,
    aten.log_sigmoid.default,
    aten.mish.default,
    aten.pow.Tensor_Scalar,
    aten.prelu.default,
    aten.reciprocal.default,
    aten.relu.default,
    aten.relu6.default,
    aten.rsqrt.default,
    aten.selu.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.softplus.default,
    aten.sqrt.default,
    aten.square.default,
    aten.tanh.default,
)
"""Functions of each entry alone."""

register("abslrp", *ELEMENTWISE, rule=passes)

# To the logit of the same position.
register("abslrp", aten.softmax.int, aten._softmax.default, aten.log_softmax.int, rule=passes)

# Under the gradient detaching blocks; here it is a copy.
register("abslrp", aten.detach.default, aten.detach_.default, rule=passes)
