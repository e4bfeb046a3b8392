"""Functions of single entries: of one, or of two, which sums, products and quotients are too."""

from __future__ import annotations

import torch

aten = torch.ops.aten

SUMS = (aten.add.Tensor, aten.add.Scalar)
DIFFERENCES = (aten.sub.Tensor, aten.sub.Scalar)
REVERSED_DIFFERENCES = (aten.rsub.Tensor, aten.rsub.Scalar)
"""Differences of which the first argument is subtracted."""
PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar)
QUOTIENTS = (aten.div.Tensor, aten.div.Scalar)

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

PAIRS = (
    aten.atan2.default,
    aten.copysign.Scalar,
    aten.copysign.Tensor,
    aten.fmod.Scalar,
    aten.fmod.Tensor,
    aten.pow.Scalar,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    aten.remainder.Scalar,
    aten.remainder.Tensor,
)
"""Functions of two entries that are no sum, product or quotient of these."""
