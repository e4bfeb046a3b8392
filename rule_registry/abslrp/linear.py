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
    return _positive(x, *_pulled(nonnegative, weight, pull))


def _pulled(nonnegative: bool, weight: Tensor, pull: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:
    return pull(weight.clamp(min=0)), None if nonnegative else pull(weight.clamp(max=0))


def _positive(x: Tensor, up: Tensor, down: Tensor | None) -> Tensor:
    if down is None:
        return up.mul_(x)
    # Choosing one of the two by the sign of x takes three times as long.
    return up.mul_(x.clamp(min=0)).addcmul_(down, x.clamp(max=0))


@register("abslrp", aten.linear.default)
def linear(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Fully connected layer: ``(x_i w_ij)^+ / D_j``; the bias shapes ``D_j`` and receives nothing."""
    s = (relevance / denominator(call, delta)).contiguous()  # here, or in each of two products
    return _shared(call, s, lambda weight: transposed.linear(weight, s), channel=call.result.ndim - 1)


@register("abslrp", *transposed.CONVOLUTIONS)
def convolution(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Convolution or transposed convolution: the formula of a fully connected layer."""
    s = relevance / denominator(call, delta)
    return _shared(call, s, lambda weight: transposed.convolution(call, weight, s), channel=1)


def _shared(call: Call, s: Tensor, pull: Callable[[Tensor], Tensor], channel: int) -> Shares:
    x, mark = call.input, call.site.input_batch[0]
    up, down = _pulled(call.site.nonnegative[0], call["weight"], pull)
    # All contributions are summed where there is less to read: at the inputs or at the outputs.
    if down is not None and x.numel() < call.result.numel():
        net = mark.dot(up, x) + mark.dot(down, x)
    else:
        net = call.batch.dot_(s, _without_bias(call, channel))
    return share(call, _positive(x, up, down), net=net)


def _without_bias(call: Call, channel: int) -> Tensor:
    """Return the output less its bias, which shapes the denominator and receives nothing."""
    bias: Tensor | None = call["bias"]
    if bias is None:
        return call.result
    return call.result - bias.reshape(-1, *(1,) * (call.result.ndim - channel - 1))
