"""Norms with their statistics held: affine operations that act on each entry alone.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rule_registry.call import Call
from rule_registry.operations.layers import ChannelMap

aten = torch.ops.aten

NORMS = (aten.layer_norm.default, aten.rms_norm.default, aten.group_norm.default, aten.instance_norm.default)
"""Norms with statistics of each sample."""
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
"""Batch norm in evaluation mode."""


def scaled(call: Call, t: Tensor) -> Tensor:
    """Multiply by a norm's gain, its statistics held.

    Parameters
    ----------
    call : Call
        Of layer, root-mean-square, group or instance norm, or of batch norm in evaluation mode.
    t : Tensor
        The activation itself, or what stands in the place of the output, ``(S, *output)``: a product of each entry
        with a number is its own transpose.
    """
    if call.site.op == BATCH_NORM:
        return t * _batch_norm(call)
    t, weight = t * _deviations[call.site.op](call), call["weight"]
    if weight is None:
        return t
    return t * (weight if "normalized_shape" in call.arguments else _channels(call, weight))


def centred(call: Call, t: Tensor) -> Tensor:
    """Subtract the mean over all entries that share a statistic, where the norm does so.

    ``t`` is the activation ``(*input)``, or what stands in the place of the output, ``(S, *output)``: the map is its
    own transpose.
    """
    if call.site.op in (aten.rms_norm.default, BATCH_NORM):
        return t
    if call.site.op == aten.layer_norm.default:
        return t - t.mean(list(range(-len(call["normalized_shape"]), 0)), keepdim=True)
    if not call.arguments.get("use_input_stats", True):
        return t
    axis = t.ndim - call.input.ndim + 1
    groups = t.unflatten(axis, (call.arguments.get("num_groups", t.shape[axis]), -1)).flatten(axis + 1)
    parted: Tensor = groups - groups.mean(-1, keepdim=True)
    return parted.reshape(t.shape)


def batch_norm_channels(arguments: Mapping[str, Any]) -> ChannelMap:
    """Return what a batch norm in evaluation mode does to each channel, from its arguments by name."""
    mean, gain, shift = (arguments[name] for name in ("running_mean", "weight", "bias"))
    scale = torch.rsqrt(arguments["running_var"] + arguments["eps"])
    return ChannelMap(mean, scale if gain is None else scale * gain, torch.zeros_like(mean) if shift is None else shift)


def _batch_norm(call: Call) -> Tensor:
    """Return the gain over the deviation of each channel, ``(C, 1, ...)``."""
    gain = torch.rsqrt(call["running_var"] + call["eps"])
    if call["weight"] is not None:
        gain = gain * call["weight"]
    return _channels(call, gain)


def _channels(call: Call, values: Tensor) -> Tensor:
    """Shape a value per channel, ``(C,)``, so that it can be multiplied with the input: ``(C, 1, ...)``."""
    return values.reshape(-1, *(1,) * (call.input.ndim - 2))


def _layer(call: Call) -> Tensor:
    """Return one over the deviation along the normalised axes, ``(..., 1)``."""
    gain: Tensor = torch.native_layer_norm(call.input, call["normalized_shape"], None, None, call["eps"])[2]
    return gain


def _root_mean_square(call: Call) -> Tensor:
    """Return one over the root mean square along the normalised axes, ``(..., 1)``."""
    x = call.input
    dims = list(range(x.ndim - len(call["normalized_shape"]), x.ndim))
    eps = torch.finfo(x.dtype).eps if call["eps"] is None else call["eps"]
    return torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)


def _group(call: Call) -> Tensor:
    """Return one over the deviation of each group of channels, shaped like the input."""
    x = call.input
    groups = x.unflatten(1, (call["num_groups"], -1)).flatten(2)
    gain = torch.rsqrt(groups.var(2, unbiased=False, keepdim=True) + call["eps"])
    return gain.expand_as(groups).reshape(x.shape)


def _instance(call: Call) -> Tensor:
    """Return one over the deviation of each channel, ``(B, C, 1, ...)``, or ``(C, 1, ...)`` by running statistics."""
    if not call["use_input_stats"]:
        return _channels(call, torch.rsqrt(call["running_var"] + call["eps"]))
    x = call.input
    return torch.rsqrt(x.var(list(range(2, x.ndim)), unbiased=False, keepdim=True) + call["eps"])


_deviations: dict[Any, Callable[[Call], Tensor]] = {
    aten.layer_norm.default: _layer,
    aten.rms_norm.default: _root_mean_square,
    aten.group_norm.default: _group,
    aten.instance_norm.default: _instance,
}
