"""Affine operations that act on each entry alone, and sums of terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rule_registry import norms
from rule_registry.call import Call, Relevances, Shares, denominator, may_be_masked, share, sum_to
from rule_registry.registry import register
from rule_registry.rules import passes

aten = torch.ops.aten

register("abslrp", aten.neg.default, rule=passes)


@register(
    "abslrp",
    aten.layer_norm.default,
    aten.rms_norm.default,
    aten.group_norm.default,
    aten.instance_norm.default,
)
def norm(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Norm with its statistics held: ``(x w / sigma)^+``, not centred."""
    contribution = norms.scaled(call, call.input)
    s = relevance / denominator(call, delta)
    values = s * contribution.clamp(min=0)
    return share(call, values, net=call.batch.dot_(s, contribution))


@register("abslrp", aten._native_batch_norm_legit_no_training.default)
def batch_norm(call: Call, relevance: Sequence[Tensor], *, delta: float) -> Shares:
    """Batch norm in evaluation mode: a gain and a shift per channel."""
    return norm(call, relevance[0], delta=delta)


@register("abslrp", aten.add.Tensor, aten.add.Scalar)
def add(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Sum: each term's positive part; a constant term receives nothing."""
    return _terms(call, relevance, {"self": 1, "other": call["alpha"]}, delta)


@register("abslrp", aten.sub.Tensor, aten.sub.Scalar)
def sub(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Difference: positive part of the first term, negative part of the second."""
    return _terms(call, relevance, {"self": 1, "other": -call["alpha"]}, delta)


@register("abslrp", aten.rsub.Scalar, aten.rsub.Tensor)
def rsub(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Difference the other way round."""
    return _terms(call, relevance, {"self": -call["alpha"], "other": 1}, delta)


def _terms(call: Call, relevance: Tensor, signs: dict[str, Any], delta: float) -> Shares:
    s = relevance / denominator(call, delta)
    terms = [
        call.value(slot) * signs[slot.name] if signs[slot.name] != 1 else call.value(slot) for slot in call.site.active
    ]
    values = [sum_to(s * term.clamp(min=0), term.shape) for term in terms]
    active = call.result if len(terms) == 2 else _unmasked(call, terms[0])
    return share(call, *values, net=call.batch.dot_(s, active))


@register("abslrp", aten.mul.Tensor, aten.mul.Scalar)
def mul(call: Call, relevance: Tensor, *, delta: float) -> Relevances:
    """Product: of an activation with a scalar inert, with a constant affine, of two activations bilinear."""
    return _quotients(call, relevance, {"self": 1, "other": 1}, delta)


@register("abslrp", aten.div.Tensor, aten.div.Scalar)
def div(call: Call, relevance: Tensor, *, delta: float) -> Relevances:
    """Quotient: the numerator's contribution is ``z``, the denominator's ``-z``; a scalar changes nothing."""
    return _quotients(call, relevance, {"self": 1, "other": -1}, delta)


@register("abslrp", aten.glu.default)
def glu(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Gated linear unit: the product of one half with the sigmoid of the other, through which relevance passes."""
    s = relevance / denominator(call, delta)
    half = s * call.result.clamp(min=0)
    both = torch.cat([half, half], call["dim"] % call.input.ndim + 1)
    return share(call, both, net=2 * call.batch.dot_(s, call.result))


def _quotients(call: Call, relevance: Tensor, powers: dict[str, int], delta: float) -> Relevances:
    """Share of ``self ** p * other ** q``, in which a factor contributes the output times its power."""
    constants = [call[name] for name in powers if not call.is_active(name)]
    if any(not isinstance(value, Tensor) or value.numel() == 1 for value in constants):
        return sum_to(relevance, call.input.shape)
    z = call.result
    s = relevance / denominator(call, delta)
    values = [sum_to(s * (z * powers[slot.name]).clamp(min=0), call.value(slot).shape) for slot in call.site.active]
    net = call.batch.dot_(s, _unmasked(call, z))
    return share(call, *values, net=sum(powers[slot.name] for slot in call.site.active) * net)


def _unmasked(call: Call, tensor: Tensor) -> Tensor:
    """Put zero for the infinite entries of masked attention logits, where no relevance is."""
    return torch.where(tensor.isinf(), 0.0, tensor) if may_be_masked(call) else tensor
