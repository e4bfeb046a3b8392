"""A program between its export and the graph that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputSpec, OutputKind


@dataclass(frozen=True, eq=False)
class Program:
    """A functional program.

    Parameters
    ----------
    graph : fx.Graph
        Its operations; a placeholder for each input and each tensor it holds.
    inputs : mapping of str to InputSpec
        What each placeholder stands for, by its name.
    outputs : tuple of fx.Node
        What the model returns, flattened; a constant is itself.
    held : mapping of str to Tensor
        Parameters, buffers and constants, of any shape, by their names in the model.
    module : fx.GraphModule
        Whose attributes ``get_attr`` nodes name.
    """

    graph: fx.Graph
    inputs: Mapping[str, InputSpec]
    outputs: tuple[Any, ...]
    held: Mapping[str, Tensor]
    module: fx.GraphModule


def as_program(exported: ExportedProgram, graph: fx.Graph | None = None) -> Program:
    """Return what is needed of an exported program, perhaps with its graph written in other operations."""
    graph, signature = graph or exported.graph, exported.graph_signature
    returned: Any = graph.output_node().args[0]
    specs = zip(signature.output_specs, returned, strict=True)
    return Program(
        graph,
        {spec.arg.name: spec for spec in signature.input_specs},
        tuple(value for spec, value in specs if spec.kind == OutputKind.USER_OUTPUT),
        {**dict(exported.state_dict), **dict(exported.constants)},
        exported.graph_module,
    )
