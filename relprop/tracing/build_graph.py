"""From an exported program to a `Graph` with readable names and the model's own tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from relprop.graph.graph import ROOT, Graph, Origin, drop_unused, operation_name
from relprop.tracing.lowering.canonicalize import identity_argument, make_batch_generic
from relprop.tracing.lowering.program import Program

_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1] / "tracing" / "export.py"))
_CHECKS = re.compile(r"aten\.(_assert|sym_constrain)")


def build_graph(
    program: Program, select: int, originals: Mapping[int, Tensor], arguments: Sequence[str] = ("x",)
) -> Graph:
    """Rebuild an exported program's graph with the model's tensors as attributes and readable names.

    Parameters
    ----------
    program : Program
        Functional, see `relprop.tracing.lowering.lower.lower`.
    select : int
        Which of the program's flattened outputs is to be explained.
    originals : mapping
        The model's own tensor, of any shape, for the identity of each that is a copy in the program.
    arguments : sequence of str
        The names of inputs that are given by position.
    """
    names, held = program.inputs, program.held
    graph, copies = fx.Graph(), {}
    tensors: dict[str, Tensor] = {}
    parameters, inputs = set(), []
    origins: dict[fx.Node, Origin] = {}
    user_inputs = [
        node
        for node in program.graph.find_nodes(op="placeholder")
        if names[node.name].kind == InputKind.USER_INPUT and isinstance(node.meta.get("val"), Tensor)
    ]
    for node in user_inputs:  # before any tensor: one of the same name would hide an input from the code
        copies[node] = graph.placeholder(_input_name(node.name, arguments))
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
            tensors[attribute] = getattr(program.module, str(node.target))
            copies[node] = graph.get_attr(attribute)
        elif node.op == "call_function":
            if _CHECKS.match(str(node.target)):
                continue
            if (same := identity_argument(node)) is not None:
                copies[node] = copies[same]
                continue
            copies[node] = graph.node_copy(node, copies.__getitem__)
            make_batch_generic(copies[node])
            origins[copies[node]] = _origin(node)
        if node in copies:
            copies[node].meta = {"val": node.meta.get("val")}
    output = copies[program.outputs[select]]
    graph.output(output)
    drop_unused(graph)
    kept = set(graph.nodes)
    origins = {node: origin for node, origin in origins.items() if node in kept}
    _rename(graph, origins)
    graph.lint()
    tensors = {name: originals.get(id(tensor), tensor) for name, tensor in tensors.items()}
    return Graph(graph, tuple(inputs), output, tensors, frozenset(parameters), origins)


def _attribute_name(path: str, used: Mapping[str, Tensor]) -> str:
    """Name a tensor after its path, unlike any other tensor and any attribute modules have."""
    name = path.replace(".", "_")
    while name in used or hasattr(fx.GraphModule, name):
        name += "_"
    return name


def _input_name(name: str, arguments: Sequence[str]) -> str:
    if (position := re.fullmatch(r"args_(\d+)", name)) and int(position[1]) < len(arguments):
        return arguments[int(position[1])]
    return re.sub(r"^(kw)?args_(?=[a-z])|^kwargs_", "", name)


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
