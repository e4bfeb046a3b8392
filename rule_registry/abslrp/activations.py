"""Operations relevance passes through unchanged: activation functions, softmax, and inert ones."""

from __future__ import annotations

import torch

from rule_registry.registry import register
from rule_registry.rule import passes

aten = torch.ops.aten

ELEMENTWISE = (
    aten.abs.default,
    aten.acos.default,
    aten.acosh.default,
    aten.asin.default,
    aten.asinh.default,
    aten.atan.default,
    aten.atanh.default,
    aten.ceil.default,
    aten.celu.default,
    aten.clamp.Tensor,
    aten.clamp.default,
    aten.clamp_max.default,
    aten.clamp_min.default,
    aten.cos.default,
    aten.cosh.default,
    aten.deg2rad.default,
    aten.elu.default,
    aten.erf.default,
    aten.erfc.default,
    aten.exp.default,
    aten.exp2.default,
    aten.expm1.default,
    aten.floor.default,
    aten.frac.default,
    aten.gelu.default,
    aten.hardshrink.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.lgamma.default,
    aten.log.default,
    aten.log10.default,
    aten.log1p.default,
    aten.log2.default,
    aten.log_sigmoid.default,
    aten.logit.default,
    aten.mish.default,
    aten.nan_to_num.default,
    aten.prelu.default,
    aten.rad2deg.default,
    aten.reciprocal.default,
    aten.relu.default,
    aten.relu6.default,
    aten.round.decimals,
    aten.round.default,
    aten.rrelu.default,
    aten.rsqrt.default,
    aten.selu.default,
    aten.sgn.default,
    aten.sigmoid.default,
    aten.sign.default,
    aten.silu.default,
    aten.sin.default,
    aten.sinc.default,
    aten.sinh.default,
    aten.softplus.default,
    aten.softshrink.default,
    aten.special_log_ndtr.default,
    aten.sqrt.default,
    aten.square.default,
    aten.tan.default,
    aten.tanh.default,
    aten.threshold.default,
    aten.trunc.default,
)
"""Functions of each entry alone; steps, as of quantisers, pass too, though their slope is zero."""

register("abslrp", *ELEMENTWISE, rule=passes)

# To the logit of the same position.
register("abslrp", aten.softmax.int, aten._softmax.default, aten.log_softmax.int, rule=passes)

# Under the gradient detaching blocks; here it is a copy.
register("abslrp", aten.detach.default, aten.detach_.default, rule=passes)
