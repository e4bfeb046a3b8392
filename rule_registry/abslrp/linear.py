"""Affine operations with weights: fully connected and convolutional layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rule_registry import transposed
from rule_registry.call import Call, Shares, denominator, share
from rule_registry.registry import register

aten = torch.ops.aten


def positive_contributions(x: Tensor, nonnegative: bool, weight: Tensor, pull: Callable[[Tensor], Tensor]) -> Tensor:
    """``x^+ (W^+)^T s + x^- (W^-)^T s``, or the first term alone where x is never negative.

    Parameters
    ----------
    x : Tensor
        The activation.
    nonnegative : bool
        Whether it is known never to be negative.
    weight : Tensor
        The weight W.
    pull : callable
        From a weight to its transposed product with s, ``(S, *x.shape)``.
    """
    if nonnegative:
        return pull(weight.clamp(min=0)).mul_(x)
    # Choosing one of the two by the sign of x takes three times as long.
    values = pull(weight.clamp(min=0)).mul_(x.clamp(min=0))
    return values.addcmul_(pull(weight.clamp(max=0)), x.clamp(max=0))


def without_bias(call: Call, bias: Tensor | None, channel: int) -> Tensor:
    """Return the output less its bias, which shapes the denominator and receives nothing."""
    if bias is None:
        return call.result
    return call.result - bias.reshape(-1, *(1,) * (call.result.ndim - channel - 1))


@register("abslrp", aten.linear.default)
def linear(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Fully connected layer: ``(x_i w_ij)^+ / D_j``; the bias shapes ``D_j`` and receives nothing."""
    s = (relevance / denominator(call, delta)).contiguous()  # here, or in each of two products
    values = positive_contributions(
        call.input, call.site.nonnegative[0], call["weight"], lambda weight: transposed.linear(weight, s)
    )
    net = call.batch.dot_(s, without_bias(call, call["bias"], call.result.ndim - 1))
    return share(call, values, net=net)


@register("abslrp", *transposed.CONVOLUTIONS)
def convolution(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Convolution or transposed convolution: the formula of a fully connected layer."""
    s = relevance / denominator(call, delta)
    values = positive_contributions(
        call.input, call.site.nonnegative[0], call["weight"], lambda weight: transposed.convolution(call, weight, s)
    )
    net = call.batch.dot_(s, without_bias(call, call["bias"], 1))
    return share(call, values, net=net)
