"""Which axis of a picture, or of a layer's output, holds its channels: the one along which the next layer sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from relprop.graph.arguments import bind_arguments
from relprop.graph.graph import Graph
from rule_registry import BatchAxis
from rule_registry.operations import norms
from rule_registry.operations.elementwise import (
    DIFFERENCES,
    ELEMENTWISE,
    PAIRS,
    PRODUCTS,
    QUOTIENTS,
    REVERSED_DIFFERENCES,
    SUMS,
)
from rule_registry.operations.linear_maps import AVERAGES, BICUBIC, CONVOLUTIONS

aten = torch.ops.aten

_IN_PLACE = {
    *ELEMENTWISE,
    *PAIRS,
    *SUMS,
    *DIFFERENCES,
    *REVERSED_DIFFERENCES,
    *PRODUCTS,
    *QUOTIENTS,
    *BICUBIC,
    aten._to_copy.default,
    aten.alias.default,
    aten.clone.default,
    aten.constant_pad_nd.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.dropout.default,
    aten.flip.default,
    aten.index_select.default,
    aten.max_pool2d.default,
    aten.pad.default,
    aten.roll.default,
    aten.slice.Tensor,
    aten.to.dtype,
    aten.to.dtype_layout,
}
"""Operations whose output has the axes of their input, in the same order, where it has as many."""


def channel_axis(graph: Graph, node: fx.Node) -> int | None:
    """Return the axis of the channels of ``(B, ...)``, or None where the graph does not tell.

    The value is followed through moves and functions of single entries to the layers that read it: convolutions and
    batch norms have the channels behind the samples, and linear layers and layer norms have them last.

    Parameters
    ----------
    graph : Graph
        As captured.
    node : fx.Node
        A source, or the output of a layer, with samples along its first axis.
    """
    if graph.batch.get(node) != BatchAxis(0):
        return None
    ndim = node.meta["val"].ndim
    if node.target in CONVOLUTIONS and ndim > 2:
        return 1
    by_channel: set[int] = set()
    by_linear: set[int] = set()
    places: dict[fx.Node, tuple[int, ...]] = {node: tuple(range(ndim))}
    for reader in graph.calls():
        for source in reader.all_input_nodes:
            if source not in places or reader in places:
                continue
            axes = places[source]
            if reader.target in _BY_CHANNEL and reader.args[0] is source:
                by_channel.add(axes[1])
            elif _reads_last(reader) and reader.args[0] is source:
                by_linear.add(axes[-1])
            elif (moved := _moved(reader, axes)) is not None:
                places[reader] = moved
    found = by_channel or by_linear
    return found.pop() if len(found) == 1 else None


def _reads_last(reader: fx.Node) -> bool:
    """Whether an operation is along the last axis: a linear layer, or a norm of that axis alone."""
    if reader.target in (aten.layer_norm.default, aten.rms_norm.default):
        return len(reader.args[1]) == 1  # type: ignore[arg-type]
    return reader.target == aten.linear.default


def _moved(reader: fx.Node, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return where the axes of the value lie in an operation's output; None where they are no longer apart."""
    value = reader.meta.get("val")
    if not isinstance(value, Tensor) or not isinstance(reader.target, OpOverload):
        return None
    target: Any = reader.target
    given = bind_arguments(reader, reader.args, reader.kwargs)
    if target == aten.permute.default:
        return tuple(axes[d] for d in given["dims"])
    if target == aten.mean.dim and given["dim"] and not given.get("keepdim"):
        gone = {d % len(axes) for d in given["dim"]}
        return tuple(axis for place, axis in enumerate(axes) if place not in gone)
    if target == aten.transpose.int:
        moved = list(axes)
        moved[given["dim0"]], moved[given["dim1"]] = moved[given["dim1"]], moved[given["dim0"]]
        return tuple(moved)
    if target == aten.index.Tensor:
        indices = [index for index in given["indices"] if index is not None]
        return axes if len(indices) == 1 and indices[0].meta["val"].ndim == 1 else None
    keeps = target in _IN_PLACE or (target in AVERAGES and "dim" not in given)
    return axes if keeps and value.ndim == len(axes) else None


_BY_CHANNEL = {*CONVOLUTIONS, norms.BATCH_NORM}
