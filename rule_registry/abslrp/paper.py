"""The rule set ``abslrp-paper``: the authors' first public code (January to June 2024), which made their figures.

It is another method than ``abslrp-released``. What a rule says here is the absolute twin of a module, from which its
contributions follow; `paper_core` hands on relevance in their proportions. Where one operation stands for several
modules of that code, or none, its rule says so.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from rule_registry.abslrp.paper_core import Pull, affine, alone, both, of_positive, one_input, only_positive, together
from rule_registry.call import Call, Slot, only_scales, sum_to
from rule_registry.moves import structural
from rule_registry.operations import linear_maps, norms, products, winners
from rule_registry.purposes import PUBLISHED
from rule_registry.registry import define, register
from rule_registry.select import select

aten = torch.ops.aten

define(
    "abslrp-paper",
    "the authors' first public code, quirk by quirk, as their paper's figures were made",
    base="structural",
    choices={"seed": ("one", "signed")},
    contrast="rest",
    purpose=PUBLISHED,
    mass="ignored",
    normalize="l1",
)

# Layers with a weight


@register("abslrp-paper", aten.linear.default)
def linear(call: Call, relevance: Tensor) -> Tensor:
    """Fully connected layer: ``2 (x_i w_ij)^+``."""
    return alone(call, relevance, affine(call.input, call["weight"], linear_maps.linear))


@register("abslrp-paper", aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
def convolution(call: Call, relevance: Tensor) -> Tensor:
    """Convolution: the formula of a fully connected layer."""
    pull = affine(call.input, call["weight"], lambda weight, s: linear_maps.convolution(call, weight, s))
    return alone(call, relevance, pull)


@register("abslrp-paper", select(op=aten.linear.default, path="*attn.qkv"))
def queries_keys_values(call: Call, relevance: Tensor) -> Tensor:
    """Three fully connected layers in one, for queries, keys and values, whose relevances are added."""
    layers = zip(call["weight"].chunk(3), call.result.chunk(3, -1), relevance.chunk(3, -1), strict=True)
    marks = call.batch, call.site.input_batch[0]
    pulled = [one_input(h, r, *marks, affine(call.input, weight, linear_maps.linear)) for weight, h, r in layers]
    return torch.stack(pulled).sum(0)


# Sums and products


@register("abslrp-paper", aten.add.Tensor)
def add(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
    """Sum of two: ``2 a^+`` each; a constant, as a position embedding, takes its share, which is lost."""
    terms = {"self": call["self"], "other": call["other"] * call["alpha"]}

    def contributed(name: str, s: Tensor) -> Tensor:
        return 2 * s * torch.as_tensor(terms[name], dtype=s.dtype, device=s.device).clamp(min=0)

    def pull(slot: Slot) -> Pull:
        return lambda s: sum_to(contributed(slot.name, s), call.value(slot).shape)

    constants = [partial(contributed, name) for name in terms if not call.is_active(name)]
    return together(call, relevance, [pull(slot) for slot in call.site.active], *constants)


@register("abslrp-paper", aten.mul.Tensor, aten.div.Tensor)
def multiply(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
    """Pass a scale; else ``2 (a b)^+`` for each factor that is an activation, as gains of each entry and gates are."""
    if only_scales(call):
        return (sum_to(relevance, call.input.shape),)
    if call.site.op == aten.div.Tensor and call.is_active("other"):
        raise NotImplementedError("a division by an activation, which the authors' code has nowhere")
    product = 2 * call.result.clamp(min=0)

    def pull(slot: Slot) -> Pull:
        return lambda s: sum_to(s * product, call.value(slot).shape)

    return together(call, relevance, [pull(slot) for slot in call.site.active])


@register("abslrp-paper", aten.matmul.default, aten.bmm.default)
def matmul(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
    """Product of two, as of queries and keys, attention and values: ``2 (a b)^+`` for each factor."""

    def formula(x: Tensor, nonnegative: bool, other: Tensor, pull: Callable[[Tensor], Tensor]) -> Tensor:
        return x * pull(other) + x.abs() * pull(other.abs())

    def contributions(k: int) -> Pull:
        return lambda s: products.factors(call, s, formula)[k]

    return together(call, relevance, [contributions(k) for k in range(len(call.site.active))])


# Activation functions


@register("abslrp-paper", aten.relu.default)
def relu(call: Call, relevance: Tensor) -> Tensor:
    """Rectifier, its own twin: passes, but at zeros."""
    return alone(call, relevance, lambda s: 2 * call.result * s)


@register("abslrp-paper", aten.hardtanh.default)
def hardtanh(call: Call, relevance: Tensor) -> Tensor:
    """Clipped rectifier (ReLU6), its own twin: passes where it is not clipped. The authors' code has none."""
    x = call.input
    inside = x * ((x > call["min_val"]) & (x < call["max_val"]))
    return alone(call, relevance, lambda s: 2 * inside * s)


@register("abslrp-paper", aten.gelu.default)
def gelu(call: Call, relevance: Tensor) -> Tensor:
    """GELU, twin ``|h|``: ``2 f'(x) x / |f|`` where f is positive, nothing where it is negative."""
    x = call.input
    slope = aten.gelu_backward(torch.ones_like(x), x, approximate=call["approximate"])
    return alone(call, relevance, lambda s: 2 * x * slope * (call.result > 0) * s)


@register("abslrp-paper", aten.softmax.int)
def softmax(call: Call, relevance: Tensor) -> Tensor:
    """Softmax with its maximum and its sum held, its own twin: ``2 x R``, with the signs of the logits x."""
    x = torch.where(call.result == 0, 0.0, call.input)  # logits under a mask are infinite
    return alone(call, relevance, lambda s: 2 * x * call.result * s)


# Pooling


@register("abslrp-paper", aten.max_pool2d.default)
def max_pool(call: Call, relevance: Tensor) -> Tensor:
    """Maximum, twin ``|h|``: to the winner, where that is positive."""
    return alone(call, relevance, lambda s: 2 * call.input.clamp(min=0) * winners.max_pool(call, s))


@register("abslrp-paper", aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim)
def average(call: Call, relevance: Tensor) -> Tensor:
    """Average, twin the average of magnitudes: ``2 x^+``."""
    transpose = linear_maps.AVERAGES[call.site.op]
    return alone(call, relevance, lambda s: 2 * call.input.clamp(min=0) * transpose(call, s))


# Norms


@register("abslrp-paper", aten.layer_norm.default)
def layer_norm(call: Call, relevance: Tensor) -> Tensor:
    """Layer norm with mean and variance held, differentiated to the input itself, which isn't centred."""
    x = call.input
    slope = norms.scaled(call, torch.ones_like(x))
    slope = slope + torch.sign(norms.centred(call, x)) * slope.abs()
    return alone(call, relevance, lambda s: x * slope * s)


@register("abslrp-paper", norms.BATCH_NORM)
def batch_norm(call: Call, relevance: Sequence[Tensor]) -> Tensor:
    """Batch norm in two steps, gain and shift, then mean and variance: the second leaves positive inputs alone.

    It returns several tensors, and relevance has one entry for each: ``(S, *output)`` for the first.
    """
    x, mark = call.input, call.site.input_batch[0]
    per_channel = (-1, *(1,) * (x.ndim - 2))
    inverse = torch.rsqrt(call["running_var"] + call["eps"]).reshape(per_channel)
    normalised = (x - call["running_mean"].reshape(per_channel)) * inverse
    scaled = normalised if call["weight"] is None else normalised * call["weight"].reshape(per_channel)
    inner = one_input(call.result, relevance[0], call.batch, mark, lambda s: 2 * scaled.clamp(min=0) * s)
    return one_input(normalised, inner, mark, mark, lambda s: 2 * x.clamp(min=0) * inverse * s)


# Moves that are modules of their own


@register("abslrp-paper", aten.select.int)
def class_token(call: Call, relevance: Tensor) -> Tensor:
    """Take the class token: negative features lose their relevance."""
    return structural.select(call, only_positive(call, relevance))


@register("abslrp-paper", select(op=aten.reshape.default, path="*attn"))
def merged_heads(call: Call, relevance: Tensor) -> Tensor:
    """Merge heads: negative entries lose their relevance."""
    return structural.reshape(call, only_positive(call, relevance))


@register("abslrp-paper", select(op=aten.reshape.default, path="*patch_embed"))
def flattened_patches(call: Call, relevance: Tensor) -> Tensor:
    """Flatten patches: negative entries lose their relevance."""
    return structural.reshape(call, only_positive(call, relevance))


@register("abslrp-paper", select(op=aten.unbind.int, path="*attn"))
def split_heads(call: Call, relevance: Sequence[Tensor | None]) -> Tensor:
    """Split heads of queries, keys and values, each apart: negative entries lose their relevance.

    Relevance has one entry ``(S, *part)`` for each of the three, None for one that nobody used.
    """
    marks = call.site.output_batch
    assert isinstance(marks, tuple)
    kept = [
        None if part is None or mark is None else both(of_positive(h, part, mark))
        for h, part, mark in zip(call.output, relevance, marks, strict=True)
    ]
    return structural.unbind(call, kept)


@register("abslrp-paper", aten.cat.default)
def concatenation(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
    """Concatenate the class token, which gets nothing: all goes to positive entries of the activations."""
    dim = call["dim"] % call.result.ndim + 1
    sizes = [part.shape[dim - 1] for part in call["tensors"]]
    product = 2 * call.result.clamp(min=0)

    def pull(item: int) -> Pull:
        return lambda s: (s * product).split(sizes, dim)[item]

    return together(call, relevance, [pull(slot.item) for slot in call.site.active if slot.item is not None])
