"""Affine operations with weights: fully connected and convolutional layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.operations import linear_maps
from rule_registry.registry import register

aten = torch.ops.aten

BLOCK = 2**22
"""Entries at most of a weight whose positive or negative part is taken at once.

The parts of larger ones, as of VGG's dense layers, would be fresh memory of the system at every use, and getting that
takes longer than the product.
"""

FEW = 8
"""Channels of the input, as of pictures, up to which both parts of a weight are multiplied at once.

Kernels work on blocks of more channels, which two products would fill up twice.
"""


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


@register(ABSLRP, aten.linear.default, overwrites=True)
def linear(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Fully connected layer: ``(x_i w_ij)^+ / D_j``; the bias shapes ``D_j`` and receives nothing."""
    s = over(call, relevance, denominator(call, delta)).contiguous()  # here, or in each of two products
    return _shared(call, s, linear_maps.linear, channel=call.result.ndim - 1)


@register(ABSLRP, *linear_maps.CONVOLUTIONS, overwrites=True)
def convolution(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Convolution or transposed convolution: the formula of a fully connected layer."""
    s = over(call, relevance, denominator(call, delta))
    if call.is_active("weight"):
        return _bilinear(call, s)
    return _shared(call, s, partial(linear_maps.convolution, call), channel=1)


def _bilinear(call: Call, s: Tensor) -> Shares:
    """Convolution with a computed weight, as mixtures of experts have: the formula for each factor, the other held."""
    x, weight = call["input"], call["weight"]
    pulls: dict[str, tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]] = {
        "input": (x, weight, lambda held: linear_maps.convolution(call, held, s)),
        "weight": (weight, x, lambda held: linear_maps.kernel(call, held, s)),
    }
    values = []
    for slot in call.site.active:
        if slot.name not in pulls:
            raise NotImplementedError(f"{call.site.op} at {call.site.path!r} with a computed {slot}")
        own, other, pull = pulls[slot.name]
        values.append(positive_contributions(own, call.is_nonnegative(slot.name), other, pull))
    return share(call, *values, net=len(values) * call.batch.dot(s, _without_bias(call, channel=1)))


def _shared(call: Call, s: Tensor, pull: Callable[..., Tensor], channel: int) -> Shares:
    x, mark = call.input, call.site.input_batch[0]
    up, down = _pulled_in_blocks(call, s, pull, channel)
    # All contributions are summed where there is less to read: at the inputs or at the outputs.
    if down is not None and x.numel() < call.result.numel():
        net = mark.dot(up, x) + mark.dot(down, x)
    else:
        net = call.batch.dot_(s, _without_bias(call, channel))
    return share(call, _positive(x, up, down), net=net)


def _pulled_in_blocks(call: Call, s: Tensor, pull: Callable[..., Tensor], channel: int) -> tuple[Tensor, Tensor | None]:
    """Pull both parts of a weight; a large one's by blocks of outputs, whose products are summed."""
    nonnegative, weight = call.site.nonnegative[0], call["weight"]
    rows = max(1, BLOCK // max(1, weight[:1].numel()))
    by_outputs = call.arguments.get("groups", 1) == 1 and "output_padding" not in call.arguments
    if not nonnegative and by_outputs and weight.ndim > 2 and weight.shape[1] <= FEW:
        both = pull(torch.cat([weight.clamp(min=0), weight.clamp(max=0)], 1), s=s)
        return both[:, :, : weight.shape[1]], both[:, :, weight.shape[1] :]
    if rows >= len(weight) or not by_outputs:
        return _pulled(nonnegative, weight, partial(pull, s=s))
    blocks = zip(weight.split(rows), s.split(rows, channel + 1), strict=True)
    ups, downs = zip(*(_pulled(nonnegative, part, partial(pull, s=seeds)) for part, seeds in blocks), strict=True)
    return reduce(Tensor.add_, ups), None if nonnegative else reduce(Tensor.add_, downs)


def _without_bias(call: Call, channel: int) -> Tensor:
    """Return the output less its bias, which shapes the denominator and receives nothing."""
    bias: Tensor | None = call["bias"]
    if bias is None:
        return call.result
    return call.result - bias.reshape(-1, *(1,) * (call.result.ndim - channel - 1))
