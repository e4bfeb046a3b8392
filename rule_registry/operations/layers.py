"""Layers with a weight: which arguments these are, and how a map of each channel folds into the layer before it.

A batch norm in evaluation mode multiplies each channel with a number and adds one. Behind a linear layer the two are
one linear layer, whose weight and bias `fold_into` returns. `declare_layer` says of an operation of one's own that it
is such a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from rule_registry.operations.linear_maps import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from rule_registry.operations.products import FACTORS

aten = torch.ops.aten


@dataclass(frozen=True)
class ChannelMap:
    """A map of each channel alone: ``(x - centre) * scale + offset``, each ``(C,)``."""

    centre: Tensor
    scale: Tensor
    offset: Tensor


@dataclass(frozen=True)
class LayerArguments:
    """Which arguments of an operation are those of a layer, and where its output channels lie.

    Parameters
    ----------
    weights : tuple of str
        Arguments that may be the weight; a matrix product has two.
    bias : str, optional
        The bias, one number for each output channel.
    groups : str, optional
        The number of groups that the channels are parted into.
    weight_axis : int
        Axis of the weight that the output channels lie on. On axis 1, as of transposed convolutions, they are those of
        one group, and the groups follow each other along axis 0.
    output_axis : int, optional
        Axis of the output that the channels lie on; None where no map of channels folds into the layer.
    """

    weights: tuple[str, ...] = ("weight",)
    bias: str | None = "bias"
    groups: str | None = None
    weight_axis: int = 0
    output_axis: int | None = None


_layers: dict[OpOverload, LayerArguments] = {
    aten.linear.default: LayerArguments(output_axis=-1),
    **dict.fromkeys(CONVOLUTIONS, LayerArguments(groups="groups", output_axis=1)),
    **dict.fromkeys(TRANSPOSED_CONVOLUTIONS, LayerArguments(groups="groups", weight_axis=1, output_axis=1)),
    **{op: LayerArguments(factors, bias=None) for op, factors in FACTORS.items()},
}


def layer_arguments(op: OpOverload) -> LayerArguments | None:
    """Return which arguments of an operation are those of a layer; None where it is no layer.

    Examples
    --------
    >>> import torch
    >>> layer_arguments(torch.ops.aten.conv_transpose2d.input).weight_axis
    1
    """
    return _layers.get(op)


def weights_of(op: OpOverload) -> tuple[str, ...]:
    """Return the arguments of an operation that may be the weight of a layer; none where it is no layer.

    Examples
    --------
    >>> import torch
    >>> weights_of(torch.ops.aten.mm.default), weights_of(torch.ops.aten.relu.default)
    (('self', 'mat2'), ())
    """
    found = _layers.get(op)
    return () if found is None else found.weights


def declare_layer(op: OpOverload, arguments: LayerArguments) -> None:
    """Say of an operation that it is a layer with a weight.

    Layers are what ``select(layer="first")`` counts, and what batch norms fold into.

    Parameters
    ----------
    op : OpOverload
        An operation of one's own.
    arguments : LayerArguments
        Which of its arguments are the layer's.

    Raises
    ------
    ValueError
        If the operation is declared already, lacks one of the arguments, or has a weight axis that is not 0 or 1.
    """
    if op in _layers:
        raise ValueError(f"{op} is declared as a layer already: {_layers[op]}")
    argument_names = [argument.name for argument in op._schema.arguments]
    named = [*arguments.weights, *(name for name in (arguments.bias, arguments.groups) if name is not None)]
    if missing := [name for name in named if name not in argument_names]:
        raise ValueError(f"{op} has no argument {', '.join(missing)}; it has: {', '.join(argument_names)}")
    if arguments.weight_axis not in (0, 1):
        raise ValueError(f"the output channels of {op} lie on axis 0 or 1 of its weight, not {arguments.weight_axis}")
    _layers[op] = arguments


def fold_into(op: OpOverload, arguments: Mapping[str, Any], channels: ChannelMap) -> tuple[Tensor, Tensor]:
    """Return weight, shaped as the layer's, and bias ``(C,)`` of a layer and the map of its channels as one layer.

    Parameters
    ----------
    op : OpOverload
        The layer.
    arguments : mapping
        What it is called with, by name. Missing ones have their defaults.
    channels : ChannelMap
        What follows.

    Raises
    ------
    NotImplementedError
        If nothing folds into the operation.
    """
    layer = _layers.get(op)
    if layer is None or layer.output_axis is None:
        raise NotImplementedError(f"no map of channels folds into {op}: declare where its output channels lie")
    weight = arguments[layer.weights[0]]
    bias = None if layer.bias is None else arguments.get(layer.bias)
    offset = (-channels.centre if bias is None else bias - channels.centre) * channels.scale + channels.offset
    if layer.weight_axis == 0:
        return weight * channels.scale.reshape(-1, *(1,) * (weight.ndim - 1)), offset
    groups = 1 if layer.groups is None else arguments.get(layer.groups, 1)
    parts = weight.unflatten(0, (groups, -1))
    scaled = parts * channels.scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
    return scaled.flatten(0, 1), offset
