"""Sign analysis: which activations are never negative, by the graph alone."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from relprop.graph.dataflow import is_complex
from relprop.graph.graph import Graph

aten = torch.ops.aten

_ALWAYS = {
    aten.relu.default,
    aten.relu6.default,
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.softmax.int,
    aten._softmax.default,
    aten.softplus.default,
    aten.exp.default,
    aten.abs.default,
    aten.linalg_vector_norm.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.square.default,
}
"""Never negative, whatever goes in (a NaN aside)."""

_IF_INPUTS_ARE = {
    operator.getitem,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_max_pool2d.default,
    aten.alias.default,
    aten.amax.default,
    aten.avg_pool2d.default,
    aten.bmm.default,
    aten.cat.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.dropout.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.flip.default,
    aten.gather.default,
    aten.gelu.default,
    aten.hardswish.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.leaky_relu.default,
    aten.matmul.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.mean.dim,
    aten.permute.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.repeat.default,
    aten.reshape.default,
    aten.roll.default,
    aten.select.int,
    aten.silu.default,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.stack.default,
    aten.sum.dim_IntList,
    aten._to_copy.default,
    aten.to.dtype,
    aten.transpose.int,
    aten.unbind.int,
    aten.unsqueeze.default,
    aten.unfold.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_nearest2d.vec,
}
"""Never negative if no floating-point input is."""


def nonnegative_nodes(graph: Graph) -> set[fx.Node]:
    """Return the nodes whose values can't be negative, whatever the inputs and weights are."""
    non_negative: set[fx.Node] = set()

    def holds(value: Any) -> bool:
        return value in non_negative if isinstance(value, fx.Node) else isinstance(value, int | float) and value >= 0

    for node in graph.calls():
        special = _SPECIAL.get(node.target)
        inputs = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor | tuple | list)]
        if is_complex(node):
            continue
        if (
            node.target in _ALWAYS
            or (node.target in _IF_INPUTS_ARE and bool(inputs) and all(_counts(n, non_negative) for n in inputs))
            or (special is not None and special(node, holds))
        ):
            non_negative.add(node)
    return non_negative


def _counts(node: fx.Node, non_negative: set[fx.Node]) -> bool:
    value = node.meta["val"]
    # Masks and bytes; other whole numbers may be negative and become values
    return node in non_negative or (isinstance(value, torch.Tensor) and value.dtype in (torch.bool, torch.uint8))


Holds = Callable[[Any], bool]


def _both(node: fx.Node, holds: Holds) -> bool:
    return holds(node.args[0]) and holds(node.args[1]) and holds(node.kwargs.get("alpha", 1))


def _bounded_below(node: fx.Node, holds: Holds) -> bool:
    high = node.args[2] if len(node.args) > 2 else node.kwargs.get("max")
    if high is not None and not holds(high):
        return False
    low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", -1)
    return holds(low) or holds(node.args[0])


def _hardtanh(node: fx.Node, holds: Holds) -> bool:
    low = node.args[1] if len(node.args) > 1 else -1
    return isinstance(low, int | float) and bool(low >= 0)


def _pad(node: fx.Node, holds: Holds) -> bool:
    mode = node.args[2] if len(node.args) > 2 else "constant"
    fill = node.args[3] if len(node.args) > 3 else None
    return holds(node.args[0]) and (bool(mode != "constant") or fill is None or holds(fill))


def _even_power(node: fx.Node, holds: Holds) -> bool:
    return holds(node.args[0]) or node.args[1] in (2, 4, 6)


_SPECIAL: dict[Any, Callable[[fx.Node, Holds], bool]] = {
    aten.add.Tensor: _both,
    aten.mul.Tensor: _both,
    aten.div.Tensor: _both,
    aten.clamp.default: _bounded_below,
    aten.clamp_min.default: _bounded_below,
    aten.hardtanh.default: _hardtanh,
    aten.pad.default: _pad,
    aten.pow.Tensor_Scalar: _even_power,
}
