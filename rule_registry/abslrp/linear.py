"""Affine operations with weights: fully connected and convolutional layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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
    positive = pull(weight.clamp(min=0)).mul_(x.clamp(min=0))
    return positive.add_(pull(weight.clamp(max=0)).mul_(x.clamp(max=0)))


def without_bias(call: Call, bias: Tensor | None, channel: int) -> Tensor:
    """Return the output less its bias, which shapes the denominator and receives nothing."""
    if bias is None:
        return call.result
    return call.result - bias.reshape(-1, *(1,) * (call.result.ndim - channel - 1))


@register("abslrp", aten.linear.default)
def linear(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Fully connected layer."""
    s = relevance / denominator(call, delta)
    values = positive_contributions(call.input, call.site.nonnegative[0], call["weight"], lambda weight: s @ weight)
    net = call.batch.dot(s, without_bias(call, call["bias"], call.result.ndim - 1))
    return share(call, values, net=net)


@register(
    "abslrp",
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)
def convolution(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Convolution or transposed convolution in any number of dimensions."""
    s = relevance / denominator(call, delta)
    values = positive_contributions(
        call.input, call.site.nonnegative[0], call["weight"], lambda weight: _pull(call, weight, s)
    )
    net = call.batch.dot(s, without_bias(call, call["bias"], 1))
    return share(call, values, net=net)


def _pull(call: Call, weight: Tensor, s: Tensor) -> Tensor:
    x, arguments = call.input, call.arguments
    dims = weight.ndim - 2
    stride, dilation = _each(call["stride"], dims), _each(call["dilation"], dims)
    padding = call["padding"]
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        widths = reach if padding == "same" else [0] * dims
        padding = [(width + 1) // 2 for width in widths]
        if any(width % 2 for width in widths):
            # "same" pads the odd entry behind: as a padding on both sides that is one entry too many in front,
            # and so one output too many there, at which no relevance arrived.
            s = F.pad(s, [side for width in reversed(widths) for side in (width % 2, 0)])
    padding = _each(padding, dims)
    merged = s.flatten(0, 1)
    like = x.new_empty(1).expand(merged.shape[0], *x.shape[1:])
    pulled, _, _ = aten.convolution_backward(
        merged,
        like,
        weight,
        None,
        stride,
        padding,
        dilation,
        "output_padding" in arguments,
        _each(arguments.get("output_padding", 0), dims),
        call["groups"],
        [True, False, False],
    )
    product: Tensor = pulled.unflatten(0, (s.shape[0], -1))
    return product


def _each(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values
