"""Relevance of looked-up values, brought to the integers that chose them.

Which entry of an input chose a value is found by sending positions through the operations that the integers go
through. So relevance goes back to a column of a table, or a token of a sequence, however a model cuts it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx

from relprop.graph.lookups import MOVED, Lookups
from relprop.rewrite.signed import pad_flows


def add_looked_up(
    graph: fx.Graph, forward: Mapping[fx.Node, fx.Node], lookups: Lookups, relevance: Callable[[fx.Node], fx.Node]
) -> dict[str, fx.Node]:
    """Add what brings the relevance of looked-up values to the inputs that chose them.

    Parameters
    ----------
    graph : fx.Graph
        Of the program.
    forward : mapping
        From nodes of the captured graph to those of the program.
    lookups : Lookups
        As found.
    relevance : callable
        From a looked-up value to the node with its relevance.

    Returns
    -------
    dict of str to fx.Node
        The relevance of each input, ``(S, *input)``, by its name.
    """
    if not lookups.inputs:
        return {}
    inputs = [forward[node] for node in lookups.inputs]
    positions: dict[fx.Node, list[fx.Node]] = {}
    for k, node in enumerate(lookups.inputs):
        positions[node] = [graph.create_node("call_function", number_entries, (inputs, k), name=f"entries_{node.name}")]
    for node, reading in lookups.readings.items():
        every = [(value, place) for value in reading.integers for place in positions[value]]
        positions[node] = [
            graph.node_copy(node, lambda n, value=value, place=place: place if n is value else forward[n])  # type: ignore[misc]
            if reading.behind == MOVED
            else graph.create_node("call_function", spread, (place, forward[node], reading.behind))
            for value, place in every
        ]
    parts = [(relevance(node), positions[node]) for node in lookups.values]
    total = graph.create_node("call_function", gather, (inputs, [r for r, _ in parts], [p for _, p in parts]))
    return {
        node.name: graph.create_node("call_function", part, (total, inputs, k), name=f"looked_up_{node.name}")
        for k, node in enumerate(lookups.inputs)
    }


def number_entries(inputs: Sequence[Tensor], which: int) -> Tensor:
    """Return the numbers of an input's entries, shaped like it; those of several inputs follow one another."""
    before = sum(x.numel() for x in inputs[:which])
    return (torch.arange(inputs[which].numel(), device=inputs[which].device) + before).reshape(inputs[which].shape)


def spread(positions: Tensor, value: Tensor, behind: int) -> Tensor:
    """Repeat positions over the ``behind`` last axes of the value that they chose: ``(...)`` to the value's shape."""
    return positions.reshape(*positions.shape, *(1,) * behind).expand(value.shape)


def gather(inputs: Sequence[Tensor], relevances: Sequence[Tensor], positions: Sequence[Sequence[Tensor]]) -> Tensor:
    """Sum relevance by position, ``(S, entries)``; where several entries chose a value together, in equal parts."""
    padded: tuple[Tensor, ...] = pad_flows(relevances)
    total = padded[0].new_zeros(len(padded[0]), sum(x.numel() for x in inputs))
    for relevance, places in zip(padded, positions, strict=True):
        for place in places:
            total = total.index_add(1, place.flatten(), relevance.flatten(1) / len(places))
    return total


def part(total: Tensor, inputs: Sequence[Tensor], which: int) -> Tensor:
    """Return the relevance of one input, shaped like it, ``(S, *input)``."""
    before = sum(x.numel() for x in inputs[:which])
    return total[:, before : before + inputs[which].numel()].reshape(len(total), *inputs[which].shape)
