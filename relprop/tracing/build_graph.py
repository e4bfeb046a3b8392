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
    built = _Builder(program)
    inputs = built.add_inputs(arguments)
    for node in program.graph.nodes:
        built.add(node)
    graph, output = built.graph, built.copies[program.outputs[select]]
    graph.output(output)
    drop_unused(graph)
    kept = set(graph.nodes)
    origins = {node: origin for node, origin in built.origins.items() if node in kept}
    _rename(graph, origins)
    graph.lint()
    tensors = {name: originals.get(id(tensor), tensor) for name, tensor in built.tensors.items()}
    return Graph(graph, inputs, output, tensors, frozenset(built.parameters), origins)


class _Builder:
    """A graph that is being built, and what each node of the program has become in it.

    Parameters
    ----------
    program : Program
        Which is rebuilt.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.tensors: dict[str, Tensor] = {}
        self.parameters: set[str] = set()
        self.origins: dict[fx.Node, Origin] = {}

    def add_inputs(self, arguments: Sequence[str]) -> tuple[fx.Node, ...]:
        """Add the inputs, before any tensor: one of the same name would hide an input from the code."""
        for node in self.program.graph.find_nodes(op="placeholder"):
            spec = self.program.inputs[node.name]
            if spec.kind == InputKind.USER_INPUT and isinstance(node.meta.get("val"), Tensor):
                self.copies[node] = self.graph.placeholder(_input_name(node.name, arguments))
        return tuple(self.copies.values())

    def add(self, node: fx.Node) -> None:
        """Add what a node of the program stands for; checks of sizes are left out."""
        if node.op == "placeholder":
            spec = self.program.inputs[node.name]
            if spec.kind != InputKind.USER_INPUT:
                assert spec.target is not None
                attribute = self._hold(spec.target.removeprefix(f"{ROOT}."), self.program.held[spec.target])
                self.copies[node] = self.graph.get_attr(attribute)
                if spec.kind == InputKind.PARAMETER:
                    self.parameters.add(attribute)
        elif node.op == "get_attr":
            path = str(node.target)
            self.copies[node] = self.graph.get_attr(self._hold(path, getattr(self.program.module, path)))
        elif node.op == "call_function":
            if _CHECKS.match(str(node.target)):
                return
            if (same := identity_argument(node)) is not None:
                self.copies[node] = self.copies[same]
                return
            self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)
            make_batch_generic(self.copies[node])
            self.origins[self.copies[node]] = _origin(node)
        if node in self.copies:
            self.copies[node].meta = {"val": node.meta.get("val")}

    def _hold(self, path: str, tensor: Tensor) -> str:
        """Keep a tensor of any shape under an attribute's name, which is returned."""
        attribute = _attribute_name(path, self.tensors)
        self.tensors[attribute] = tensor
        return attribute


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
