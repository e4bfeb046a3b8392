"""Affine operations with weights: fully connected and convolutional layers.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
The orientation ``sign`` is ``(*output)``, or None where all outputs are oriented alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.operations import linear_maps
from rule_registry.orientation import halves, orientation
from rule_registry.registry import register

aten = torch.ops.aten

BLOCK = 2**22
"""Entries at most of a weight whose positive or negative part is taken at once.

The parts of larger ones, as of VGG's dense layers, would be fresh memory of the system at every use, and getting that
takes longer than the product (``benchmarks choices: blocks``).
"""

FEW = 8
"""Channels of the input, as of pictures, up to which both parts of a weight are multiplied at once.

Kernels work on blocks of more channels, which two products would fill up twice (``benchmarks choices: few channels``).
"""

FEW_TERMS, FEW_IN_A_GROUP = 16, 64
"""Outputs that an input contributes to, below which the form without cancellation is taken.

Of a grouped convolution the terms are those of a window alone, which may differ by orders of magnitude.
"""


def has_few_terms(terms: int, groups: int = 1) -> bool:
    """Whether an input contributes to so few outputs that the sum of both signs says little of one."""
    return isinstance(terms, int) and terms < (FEW_IN_A_GROUP if groups > 1 else FEW_TERMS)


def of_both_halves(
    x: Tensor, nonnegative: bool, weight: Tensor, pull: Callable[[Tensor, Any], Tensor], raised: Any, lowered: Any
) -> Tensor:
    """``x^+ (W^+^T s^+ + |W^-|^T s^-) + |x^-| (|W^-|^T s^+ + W^+^T s^-)``: four products, in which nothing cancels.

    Parameters
    ----------
    x, nonnegative, weight
        As in `positive_contributions`.
    pull : callable
        From a weight and a part of s to their transposed product, ``(S, *input)``.
    raised, lowered : Tensor or slice
        The parts of s, ``(S, *output)``, at outputs where positive contributions count, and where negative ones do; or
        the seeds that these are, for a ``pull`` that holds both.
    """
    plus, minus = weight.clamp(min=0), weight.clamp(max=0).neg_()
    up = pull(plus, raised).add_(pull(minus, lowered))
    if nonnegative:
        return up.mul_(x)
    down = pull(minus, raised).add_(pull(plus, lowered))
    return up.mul_(x.clamp(min=0)).addcmul_(down, x.clamp(max=0), value=-1)


def half_of_both(x: Tensor, oriented: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """``1/2 (x W^T (s g) + |x| |W|^T s)``, and its second term, the magnitude of all contributions; both overwritten.

    Two products, whose sum cancels where the part that counts is tiny: there it may be rounded below zero.

    Parameters
    ----------
    x : Tensor
        The activation, ``(*input)``.
    oriented, magnitude : Tensor
        The transposed products of W with s times the orientation g of each output, and of ``|W|`` with s, each
        ``(S, *input)``.
    """
    magnitude.mul_(x.abs())
    return oriented.mul_(x).add_(magnitude).mul_(0.5).clamp_(min=0), magnitude


def positive_contributions(x: Tensor, nonnegative: bool, weight: Tensor, pull: Callable[[Tensor], Tensor]) -> Tensor:
    """``x^+ (W^+)^T s + x^- (W^-)^T s``, or the first term alone where x is never negative.

    Parameters
    ----------
    x : Tensor
        The activation, ``(*input)``.
    nonnegative : bool
        Whether it is known never to be negative.
    weight : Tensor
        The weight W of a layer, ``(out, in, ...)`` or as the operation has it, or the other factor of a product.
    pull : callable
        From a weight to its transposed product with s, ``(S, *x.shape)``.
    """
    return _positive(x, *_pulled(nonnegative, weight, pull))


def _pulled(nonnegative: bool, weight: Tensor, pull: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return s times the transposed ``W^+`` and ``W^-``, ``(S, *input)`` each; None where no input is negative."""
    return pull(weight.clamp(min=0)), None if nonnegative else pull(weight.clamp(max=0))


def _positive(x: Tensor, up: Tensor, down: Tensor | None) -> Tensor:
    """Return ``x^+ up + x^- down``, ``(S, *input)``, of what `_pulled` returned; both are overwritten."""
    if down is None:
        return up.mul_(x)
    # Choosing one of the two by the sign of x takes longer (benchmarks choices: signs).
    return up.mul_(x.clamp(min=0)).addcmul_(down, x.clamp(max=0))


@register(ABSLRP, aten.linear.default, overwrites=True, contributes=True)
def linear(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Fully connected layer: ``(x_i w_ij sgn z_j)^+ / D_j``; the bias shapes ``D_j`` and receives nothing."""
    sign = orientation(call, signed)
    s = over(call, relevance, denominator(call, delta)).contiguous()  # here, or in each of two products
    return _shared(call, s, sign, linear_maps.linear, channel=call.result.ndim - 1)


@register(ABSLRP, *linear_maps.CONVOLUTIONS, overwrites=True, contributes=True)
def convolution(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Convolution or transposed convolution: the formula of a fully connected layer."""
    sign = orientation(call, signed)
    s = over(call, relevance, denominator(call, delta))
    if call.is_active("weight"):
        return _bilinear(call, s, sign)
    return _shared(call, s, sign, partial(linear_maps.convolution, call), channel=1)


def _bilinear(call: Call, s: Tensor, sign: Tensor | None) -> Shares:
    """Convolution with a computed weight, as mixtures of experts have: the formula for each factor, the other held."""
    x, weight = call["input"], call["weight"]
    pulls: dict[str, tuple[Tensor, Tensor, Callable[..., Tensor]]] = {
        "input": (x, weight, lambda held, part=s: linear_maps.convolution(call, held, part)),
        "weight": (weight, x, lambda held, part=s: linear_maps.kernel(call, held, part)),
    }
    raised, lowered = (s, s) if sign is None else halves(s, sign)
    values = []
    for slot in call.site.active:
        if slot.name not in pulls:
            raise NotImplementedError(f"{call.site.op} at {call.site.path!r} with a computed {slot}")
        own, other, pull = pulls[slot.name]
        nonnegative = call.is_nonnegative(slot.name)
        if sign is None:
            values.append(positive_contributions(own, nonnegative, other, pull))
        else:
            values.append(of_both_halves(own, nonnegative, other, pull, raised, lowered))
    return share(call, *values, net=len(values) * _net(call, s, sign, channel=1))


def _shared(call: Call, s: Tensor, sign: Tensor | None, pull: Callable[..., Tensor], channel: int) -> Shares:
    """Share by positive contributions; the output's channels lie on its axis ``channel``."""
    if sign is not None:
        return _oriented(call, s, sign, pull, channel)
    x, mark = call.input, call.site.input_batch[0]
    up, down = _pulled_in_blocks(call, s, pull, channel)
    # All contributions are summed where there is less to read: at the inputs or at the outputs.
    if down is not None and x.numel() < call.result.numel():
        net = mark.dot(up, x) + mark.dot(down, x)
    else:
        net = _net(call, s, None, channel)
    return share(call, _positive(x, up, down), net=net)


def _oriented(call: Call, s: Tensor, sign: Tensor, pull: Callable[..., Tensor], channel: int) -> Shares:
    """Share by the contributions of the output's own sign."""
    x, weight, nonnegative = call.input, call["weight"], call.site.nonnegative[0]
    if has_few_terms(*_terms(call)):
        values = of_both_halves(x, nonnegative, weight, pull, *halves(s, sign))
        return share(call, values, net=_net(call, s, sign, channel))

    magnitude = _magnitudes(call, s, pull, channel)
    values, total = half_of_both(x, pull(weight, s=s.mul_(sign)), magnitude)
    return share(call, values, total=call.site.input_batch[0].sum(total))


def _terms(call: Call) -> tuple[int, int]:
    """Return how many outputs each input contributes to, about, and the number of groups."""
    weight, groups = call["weight"], call.arguments.get("groups", 1)
    inputs = weight.shape[0] if "output_padding" in call.arguments else weight.shape[1] * groups
    return weight.numel() // max(1, inputs), groups


def _rows(call: Call) -> int:
    """Return how many outputs of a weight at most make a block; all where they are not its rows."""
    weight: Tensor = call["weight"]
    if call.arguments.get("groups", 1) != 1 or "output_padding" in call.arguments:
        return len(weight)
    return max(1, BLOCK // max(1, weight[:1].numel()))


def _magnitudes(call: Call, s: Tensor, pull: Callable[..., Tensor], channel: int) -> Tensor:
    """Pull the magnitudes of a weight, to ``(S, *input)``; a large one's by blocks of outputs, which are summed."""
    weight, rows = call["weight"], _rows(call)
    if rows >= len(weight):
        return pull(weight.abs(), s=s)
    blocks = zip(weight.split(rows), s.split(rows, channel + 1), strict=True)
    return reduce(Tensor.add_, (pull(part.abs(), s=seeds) for part, seeds in blocks))


def _pulled_in_blocks(call: Call, s: Tensor, pull: Callable[..., Tensor], channel: int) -> tuple[Tensor, Tensor | None]:
    """Pull both parts of a weight, to ``(S, *input)`` each; a large one's by blocks of outputs, which are summed."""
    nonnegative, weight, rows = call.site.nonnegative[0], call["weight"], _rows(call)
    by_outputs = call.arguments.get("groups", 1) == 1 and "output_padding" not in call.arguments
    if not nonnegative and by_outputs and weight.ndim > 2 and weight.shape[1] <= FEW:
        both = pull(torch.cat([weight.clamp(min=0), weight.clamp(max=0)], 1), s=s)
        return both[:, :, : weight.shape[1]], both[:, :, weight.shape[1] :]
    if rows >= len(weight):
        return _pulled(nonnegative, weight, partial(pull, s=s))
    blocks = zip(weight.split(rows), s.split(rows, channel + 1), strict=True)
    ups, downs = zip(*(_pulled(nonnegative, part, partial(pull, s=seeds)) for part, seeds in blocks), strict=True)
    return reduce(Tensor.add_, ups), None if nonnegative else reduce(Tensor.add_, downs)


def _net(call: Call, s: Tensor, sign: Tensor | None, channel: int) -> Tensor:
    """Sum contributions as they count, of both signs, at the outputs: ``(S, B)``."""
    s = s if sign is None else s.mul_(sign)
    return call.batch.dot_(s, _without_bias(call, channel))


def _without_bias(call: Call, channel: int) -> Tensor:
    """Return the output less its bias, ``(*output)``: that shapes the denominator and receives nothing."""
    bias: Tensor | None = call["bias"]
    if bias is None:
        return call.result
    return call.result - bias.reshape(-1, *(1,) * (call.result.ndim - channel - 1))
