"""How a model ends: in scores, in a softmax, or in what are probabilities already."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from relprop.graph.ending import Ending, are_probabilities, find_ending
from relprop.graph.graph import Graph
from relprop.graph.signs import nonnegative_nodes
from relprop.tracing.export import plain_mode
from relprop.tracing.inputs import Inputs

_endings: WeakKeyDictionary[Graph, Ending] = WeakKeyDictionary()


def ending_of(graph: Graph, inputs: Inputs) -> Ending:
    """Return how a model ends, by its graph; where that could be probabilities, by its output for two samples too."""
    found = _endings.get(graph)
    if found is None:
        found = find_ending(graph)
        if found.kind == "scores" and graph.output in nonnegative_nodes(graph):
            with plain_mode(), torch.no_grad():
                two = inputs.two_samples().plain()
                output = graph.module()(*two.slice(0, two.batch_size))
            if are_probabilities(output):
                found = Ending("probabilities")
        _endings[graph] = found
    return found
