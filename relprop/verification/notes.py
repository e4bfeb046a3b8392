"""Remarks on a plan that a reader of its maps should see."""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx
from torch._ops import OpOverload

from relprop.assign.plan import Plan
from relprop.graph.dataflow import between
from relprop.graph.graph import Graph, operation_name

aten = torch.ops.aten


def notes_of(plan: Plan) -> tuple[str, ...]:
    """Return remarks on fallbacks, on rules that hold nowhere, and on norms written out by hand."""
    fallen = Counter((str(plan.sites[n].op), str(rule)) for n, rule in plan.assigned.items() if rule.kind == "fallback")
    general = tuple(
        f"{operation} has no rule of its own: {count} of them under the fallback {rule}"
        for (operation, rule), count in sorted(fallen.items())
    )
    unused = tuple(
        f"the rule {rule} for {selector} holds nowhere in this model"
        for selector, rule in plan.rules.own
        if not any(selector.matches(site) for site in plan.sites.values())
    )
    return (
        general
        + unused
        + _without_relevance(plan)
        + tuple(
            f"{plan.graph.describe(node)} looks like a normalisation written out by hand: relevance also goes through "
            "its statistics, which nn.LayerNorm and its kin hold constant"
            for node in plan.sites
            if node.target in (aten.div.Tensor, aten.mul.Tensor)
            and any(_is_scale(n, plan.graph) for n in node.all_input_nodes)
        )
    )


def _without_relevance(plan: Plan) -> tuple[str, ...]:
    """Name the inputs of samples that the target depends on, and that bring no value which could have relevance."""
    graph = plan.graph
    if any(node not in graph.inputs and node not in plan.lookups.values for node in plan.sources):
        return ()  # a module's output is explained
    others = [node for node in graph.inputs if graph.batch.get(node) is not None and node not in plan.reported]
    return tuple(
        f"the input {node.name} has no relevance of its own: it looks nothing up, and chooses among what others bring"
        for node in others
        if between(graph, (node,), lambda _: True)
    )


_SCALE = {"sqrt", "rsqrt", "reciprocal", "pow", "add", "clamp", "clamp_min", "mul", "sub"}
_STATISTICS = {"var", "std", "mean"}


def _is_scale(node: fx.Node, graph: Graph, root: bool = False, depth: int = 5) -> bool:
    """Whether a value is a root of a variance or mean of the activations, as norms divide by."""
    if depth == 0 or not isinstance(node.target, OpOverload) or graph.batch.get(node) is None:
        return False
    name = operation_name(node)
    if name in _STATISTICS:
        return root or name == "std"
    if name not in _SCALE:
        return False
    root = root or name in ("sqrt", "rsqrt") or (name == "pow" and node.args[1] in (0.5, -0.5))
    return any(_is_scale(source, graph, root, depth - 1) for source in node.all_input_nodes)
