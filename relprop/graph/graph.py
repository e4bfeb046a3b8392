"""The captured graph: ATen operations, what is known of each, and the tensors they refer to."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from relprop.tracing.lowering.canonicalize import returned_as_is, spell_for_any_batch
from rule_registry import BatchAxis

aten = torch.ops.aten

Marks = BatchAxis | tuple[BatchAxis | None, ...] | None


@dataclass(frozen=True)
class Origin:
    """Where an operation comes from in the user's model.

    Parameters
    ----------
    path, module_type : str
        Path and class of the innermost module (``""``: the model itself).
    calls : tuple of (str, str)
        Path of every module around it, outermost first, each with a key that tells its calls apart.
    line : str
        The source line, ``file:line: code``; empty if unknown.
    """

    path: str = ""
    module_type: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    line: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """A model as one functional graph of ATen operations, dynamic in the batch.

    Parameters
    ----------
    graph : fx.Graph
        Placeholders are the inputs, ``get_attr`` nodes the held tensors.
    inputs : tuple of fx.Node
        One placeholder per tensor among the flattened inputs.
    output : fx.Node
        The output to be explained.
    tensors : mapping
        The model's own parameter, buffer and constant objects by node target.
    parameters : frozenset of str
        Those that are parameters.
    origins : mapping
        Where each operation comes from.
    batch : mapping
        Where the samples lie in the value of each node; filled in by `relprop.tracing.batch_axis`.
    made : dict
        What was made from this graph and is kept with it: programs, by what they depend on.
    """

    graph: fx.Graph
    inputs: tuple[fx.Node, ...]
    output: fx.Node
    tensors: Mapping[str, Tensor]
    parameters: frozenset[str]
    origins: Mapping[fx.Node, Origin]
    batch: dict[fx.Node, Marks] = field(default_factory=dict)
    made: dict[Any, Any] = field(default_factory=dict)

    def calls(self) -> Iterator[fx.Node]:
        """Yield the operations, in order."""
        return (node for node in self.graph.nodes if node.op == "call_function")

    @property
    def precision(self) -> torch.dtype:
        """The least precise type among the activations': some norms compute in 32 bits whatever they are given."""
        values = (leaf for node, mark in self.batch.items() if mark for leaf in pytree.tree_leaves(node.meta["val"]))
        types = {v.dtype for v in values if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())}
        return max(types, key=lambda dtype: torch.finfo(dtype).eps)

    def module(self) -> fx.GraphModule:
        """Return the forward pass alone, as a module."""
        return fx.GraphModule(dict(self.tensors), self.graph)

    def describe(self, node: fx.Node) -> str:
        """Say in one line what a node is and where it comes from."""
        origin = self.origins[node]
        where = f"{origin.path or 'the model'} ({origin.module_type.rpartition('.')[2]})"
        return f"{node.target} in {where}" + (f", {origin.line}" if origin.line else "")


ROOT = "relprop_model"
"""Path of the user's model where an exported program wraps it; paths are told from there."""

_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1] / "tracing" / "export.py"))
_CHECKS = re.compile(r"aten\.(_assert|sym_constrain)")


def build_graph(program: ExportedProgram, select: int, originals: Mapping[int, Tensor]) -> Graph:
    """Rebuild an exported program's graph with the model's tensors as attributes and readable names.

    Parameters
    ----------
    program : ExportedProgram
        Functional, see `relprop.tracing.export.lower`.
    select : int
        Which of the program's flattened outputs is to be explained.
    originals : mapping
        The model's own tensor, for the identity of each that is a copy in the program.
    """
    names = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    held = {**dict(program.state_dict), **dict(program.constants)}
    graph, copies = fx.Graph(), {}
    tensors: dict[str, Tensor] = {}
    parameters, inputs = set(), []
    origins: dict[fx.Node, Origin] = {}
    outputs = [spec.arg.name for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    user_inputs = [
        node
        for node in program.graph.find_nodes(op="placeholder")
        if names[node.name].kind == InputKind.USER_INPUT and isinstance(node.meta.get("val"), Tensor)
    ]
    for node in user_inputs:  # before any tensor: one of the same name would hide an input from the code
        copies[node] = graph.placeholder(_input_name(node.name))
        inputs.append(copies[node])
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = names[node.name]
            if spec.kind != InputKind.USER_INPUT:
                assert spec.target is not None
                attribute = _attribute_name(spec.target.removeprefix(f"{ROOT}."), tensors)
                tensors[attribute] = held[spec.target]
                copies[node] = graph.get_attr(attribute)
                if spec.kind == InputKind.PARAMETER:
                    parameters.add(attribute)
        elif node.op == "get_attr":
            attribute = _attribute_name(str(node.target), tensors)
            tensors[attribute] = getattr(program.graph_module, str(node.target))
            copies[node] = graph.get_attr(attribute)
        elif node.op == "call_function":
            if _CHECKS.match(str(node.target)):
                continue
            if (same := returned_as_is(node)) is not None:
                copies[node] = copies[same]
                continue
            copies[node] = graph.node_copy(node, copies.__getitem__)
            spell_for_any_batch(copies[node])
            origins[copies[node]] = _origin(node)
        if node in copies:
            copies[node].meta = {"val": node.meta.get("val")}
    by_name = {node.name: copy for node, copy in copies.items()}
    output = by_name[outputs[select]]
    graph.output(output)
    drop_unused(graph)
    kept = set(graph.nodes)
    origins = {node: origin for node, origin in origins.items() if node in kept}
    _rename(graph, origins)
    graph.lint()
    tensors = {name: originals.get(id(tensor), tensor) for name, tensor in tensors.items()}
    return Graph(graph, tuple(inputs), output, tensors, frozenset(parameters), origins)


def _attribute_name(path: str, taken: Mapping[str, Tensor]) -> str:
    """Name a tensor after its path, unlike any other tensor and any attribute modules have."""
    name = path.replace(".", "_")
    while name in taken or hasattr(fx.GraphModule, name):
        name += "_"
    return name


def _input_name(name: str) -> str:
    if name == "args_0":
        return "x"
    return re.sub(r"^(kw)?args_(?=[a-z])|^kwargs_", "", name)


def drop_unused(graph: fx.Graph) -> None:
    """Erase every node whose value nobody uses, inputs apart."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def _origin(node: fx.Node) -> Origin:
    stack = node.meta.get("nn_module_stack") or {}
    calls, kind = [], ""
    for key, (path, module_type) in stack.items():
        if path == _NO_MODULE:
            continue
        calls.append((key, path.removeprefix(ROOT).removeprefix(".")))
        kind = module_type if isinstance(module_type, str) else f"{module_type.__module__}.{module_type.__name__}"
    path = calls[-1][1] if calls else ""
    return Origin(path, kind, tuple(calls), _source_line(node.meta.get("stack_trace") or ""))


def _source_line(trace: str) -> str:
    """Return the innermost line of a stack trace outside of torch itself (or the innermost one)."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*([^\n]*)', trace)
    outside = [frame for frame in frames if not frame[0].startswith(_NOT_THE_MODEL)]
    if not (outside or frames):
        return ""
    file, line, code = (outside or frames)[-1]
    return f"{file}:{line}: {code.strip()}"


def _rename(graph: fx.Graph, origins: Mapping[fx.Node, Origin]) -> None:
    """Name nodes after their modules: the path alone for a module's only operation, else path and operation."""
    alone: dict[str, int] = {}
    for origin in origins.values():
        alone[origin.path] = alone.get(origin.path, 0) + 1
    for node, origin in origins.items():
        operation = operation_name(node)
        path = re.sub(r"\W", "_", origin.path)
        name = path if path and alone[origin.path] == 1 else f"{path}_{operation}".lstrip("_")
        node._rename(name if not name[0].isdigit() else f"_{name}")


def operation_name(node: fx.Node) -> str:
    """Short name of a node's operation, as in ``layer_norm``."""
    target: Any = node.target
    if target is operator.getitem:
        return "getitem"
    if isinstance(target, OpOverload):
        return str(target.overloadpacket.__name__).strip("_")
    return str(getattr(target, "__name__", target))
