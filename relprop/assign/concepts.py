"""Concepts: channels of layers, of which each gets a map of the relevance that flows through it alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from relprop.assign.plan import Plan
from relprop.errors import CaptureError, TargetError
from relprop.graph.channels import channel_axis
from relprop.graph.module_outputs import layer_outputs
from rule_registry import BatchAxis

Concepts = Mapping[str, int | Sequence[int] | Tensor | str]
"""From module paths, or globs of them, to channels, to channels of each sample ``(B, K)``, or to ``"top5"``."""

_TOP = re.compile(r"top(\d+)")


@dataclass(frozen=True, eq=False)
class ConceptLayer:
    """A layer whose channels are concepts.

    Parameters
    ----------
    path : str
        Of the module.
    node : fx.Node
        At its output.
    batch : BatchAxis
        Where the samples lie in it.
    axis, size : int
        The axis of the channels, and how many there are.
    pattern : str
        What the user called it by.
    """

    path: str
    node: fx.Node
    batch: BatchAxis
    axis: int
    size: int
    pattern: str


def find_concepts(plan: Plan, patterns: Iterable[str]) -> tuple[ConceptLayer, ...]:
    """Find the layers, in the order in which relevance comes to them.

    Raises
    ------
    CaptureError
        If there is no such module, or relevance does not pass it once, as a tensor with samples and channels apart.
    """
    found = []
    for pattern in patterns:
        for path, nodes in layer_outputs(plan.graph, [pattern]).items():
            if len(nodes) > 1:
                raise CaptureError(
                    f"concepts need a module that is called once, and {path!r} is called {len(nodes)} times: name one "
                    "around a single call, or behind it"
                )
            found.append(_concept_layer(plan, path, nodes[0], pattern))
    twice = [layer.path for layer in found if sum(layer.path == other.path for other in found) > 1]
    if twice:
        raise CaptureError(f"several of the concepts' names match {twice[0]!r}: name each layer once")
    order = {node: place for place, node in enumerate(plan.graph.graph.nodes)}
    return tuple(sorted(found, key=lambda layer: -order[layer.node]))


def _concept_layer(plan: Plan, path: str, node: fx.Node, pattern: str) -> ConceptLayer:
    mark, shape = plan.graph.axis(node), node.meta["val"].shape
    if not plan.carries(node):
        raise CaptureError(
            f"no relevance passes {path!r}: concepts must be of a module between the source and the target"
        )
    if mark.merged or len(shape) < 2:
        raise CaptureError(
            f"the output of {path!r} does not hold samples and channels along axes of their own, so that there are no "
            "channels to choose: name a module before or behind it"
        )
    axis = channel_axis(plan.graph, node)
    if axis is None:  # maps and single numbers have their channels behind the samples, tokens last
        axis = next(d for d in ((-1, 1) if len(shape) == 3 else (1, -1)) if d % len(shape) != mark.axis)
    axis %= len(shape)
    if not isinstance(shape[axis], int):
        raise CaptureError(f"how many channels {path!r} has is not settled by the model: name another module")
    return ConceptLayer(path, node, mark, axis, shape[axis], pattern)


def choose_channels(
    layers: Sequence[ConceptLayer], concepts: Concepts, batch: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Return the channels of each layer, ``(B, K)``; -1 stands for those with most relevance, the first one first.

    Raises
    ------
    TargetError
        If they are no channels of the layer.
    """
    return tuple(_channels(layer, concepts[layer.pattern], batch, device) for layer in layers)


def _channels(layer: ConceptLayer, given: Any, batch: int, device: torch.device) -> Tensor:
    """Return the channels of one layer, ``(B, K)``, see `choose_channels`."""
    where = f"concepts at {layer.path!r}"
    if isinstance(given, str):
        top = _TOP.fullmatch(given)
        if top is None or not 1 <= int(top[1]) <= layer.size:
            raise TargetError(f'{where} may be "top1" to "top{layer.size}", or channels, not {given!r}')
        return torch.full((batch, int(top[1])), -1, device=device)
    try:
        channels = torch.as_tensor(given, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"{where} must be channels, as [3, 17], not {given!r}") from error
    if channels.is_floating_point() or channels.is_complex() or channels.dtype == torch.bool or not channels.numel():
        raise TargetError(f"{where} must be whole numbers of channels, as [3, 17], not {given!r}")
    if channels.ndim < 2:
        channels = channels.reshape(1, -1).expand(batch, -1)
    if channels.ndim != 2 or len(channels) != batch:
        raise TargetError(
            f"{where} have shape {tuple(channels.shape)}; give channels (K,), or (B, K) of each of {batch} samples"
        )
    wrong = channels[(channels < 0) | (channels >= layer.size)]
    if wrong.numel():
        raise TargetError(f"{where}: channel {int(wrong[0])} is out of range: there are channels 0 to {layer.size - 1}")
    return channels.long()
