"""Batch norms that are one layer with the layer before: a linear map, then a gain and a shift per channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from relprop.steps import widen
from rule_registry import Rule, Site, Slot
from rule_registry.operations.linear_maps import CONVOLUTIONS

aten = torch.ops.aten


def layers_to_merge(
    sites: Mapping[fx.Node, Site], assigned: Mapping[fx.Node, Rule], outputs: Sequence[fx.Node]
) -> dict[fx.Node, fx.Node]:
    """Return each layer whose output goes into a batch norm alone, with the batch norm.

    Parameters
    ----------
    sites, assigned : mapping
        The operations that carry relevance, and their rules: those of kind ``"merges"`` are looked at.
    outputs : sequence of fx.Node
        Nodes that are used by something else than operations.
    """
    found = {}
    for norm, rule in assigned.items():
        layer = norm.args[0]
        if (
            rule.kind == "merges"
            and isinstance(layer, fx.Node)
            and layer in sites
            and _lays_out_channels(layer)
            and sites[layer].active == sites[norm].active == (Slot("input"),)
            and list(layer.users) == [norm]
            and layer not in outputs
        ):
            found[layer] = norm
    return found


def _lays_out_channels(layer: fx.Node) -> bool:
    """Whether the outputs of a layer lie on the axis that is a batch norm's channels, the second."""
    return layer.target in CONVOLUTIONS or (layer.target == aten.linear.default and layer.meta["val"].ndim == 2)


def merged(
    weight: Tensor,
    bias: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    groups: int | None,
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the one layer.

    Parameters
    ----------
    weight, bias : Tensor
        Of the layer.
    gain, shift, mean, variance, eps
        Of the batch norm.
    groups : int or None
        Of a transposed convolution, whose weight has its outputs, group by group, in its second axis.
    """
    scale = torch.rsqrt(widen(variance) + eps)
    if gain is not None:
        scale = scale * widen(gain)
    offset = -widen(mean) if bias is None else widen(bias) - widen(mean)
    offset = offset * scale
    if shift is not None:
        offset = offset + widen(shift)
    weight = widen(weight)
    if groups is None:
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), offset
    parts = weight.unflatten(0, (groups, -1))
    return (parts * scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))).flatten(0, 1), offset
