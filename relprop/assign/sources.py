"""Sources: the nodes whose relevance is explained."""

from __future__ import annotations

from torch import fx

from relprop.errors import CaptureError, InputError
from relprop.graph.dataflow import carries_relevance, is_complex
from relprop.graph.graph import Graph
from relprop.graph.lookups import find_lookups
from relprop.graph.module_outputs import matching_modules, module_outputs


def find_sources(graph: Graph, at: str | None) -> tuple[fx.Node, ...]:
    """Return the outputs of a module, or else the floating-point inputs with a batch axis, and looked-up values.

    Raises
    ------
    CaptureError
        If there is no such module, or it hands on nothing of the samples.
    InputError
        If there is no such input.
    """
    if at is not None:
        matching_modules(graph, at)
        outputs = module_outputs(graph, at, at)
        if not outputs:
            raise CaptureError(f"module {at!r} has no output that carries the batch")
        return tuple(outputs)
    sources = tuple(
        node
        for node in graph.inputs
        if carries_relevance(node) and not is_complex(node) and graph.batch.get(node) is not None
    )
    sources += find_lookups(graph).values
    if not sources:
        raise InputError(
            "no input is a floating-point tensor with a batch axis, and none looks values up in a table, so there is "
            "nothing to differentiate. Give pictures as floats, normalised as the model expects; or name the module "
            'whose output is to be explained, as in at="embeddings"'
        )
    return sources
