"""Assignment: every operation between source and target gets its rule, or one error lists all that have none."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from relprop.errors import CaptureError, InputError, MissingRuleError
from relprop.graph import Graph, Marks
from relprop.masked import masked_nodes
from relprop.merging import layers_to_merge
from relprop.modules import matching_modules, module_outputs
from relprop.paths import between, carries_relevance, is_complex
from relprop.signs import nonnegative_nodes
from rule_registry import BatchAxis, Rule, RuleSet, Site, Slot
from rule_registry.operations.linear_maps import LAYERS
from rule_registry.operations.products import FACTORS

_WEIGHTS: dict[Any, tuple[str, ...]] = {**dict.fromkeys(LAYERS, ("weight",)), **FACTORS}
"""Arguments that may be a layer's weight, by operation."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A graph with a rule for each operation that carries relevance.

    Parameters
    ----------
    graph : Graph
        What was captured.
    rules : RuleSet
        Where the rules come from.
    sources : tuple of fx.Node
        The nodes whose relevance is asked for.
    sites : mapping of fx.Node to Site
        The operations on a path from a source to the output, in graph order. Picking a part of a tuple is no
        operation of its own.
    assigned : mapping of fx.Node to Rule
        The rule of each.
    merged : mapping of fx.Node to fx.Node
        Layers that are one with the batch norm behind them, and that batch norm.
    """

    graph: Graph
    rules: RuleSet
    sources: tuple[fx.Node, ...]
    sites: dict[fx.Node, Site]
    assigned: dict[fx.Node, Rule]
    merged: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def why(self, name: str) -> str:
        """Say which rule an operation has, and which entry of the rule set it comes from.

        Parameters
        ----------
        name : str
            Of the operation, as programs, tables and the report on conservation call it.

        Raises
        ------
        KeyError
            If no operation of that name carries relevance.
        """
        found = {row.name: row.why for row in self.rows()}
        if name not in found:
            raise KeyError(f"no operation {name!r} carries relevance; there are: {', '.join(found)}")
        return found[name]

    def rows(self) -> list[Row]:
        """Return for every operation, in graph order, which rule it has and why."""
        layers = {norm: layer.name for layer, norm in self.merged.items()}
        return [
            Row(
                node.name,
                str(site.op),
                f"one layer with {layers[node]}, whose rule holds for both"
                if node in layers
                else str(self.rules.explain(site)),
            )
            for node, site in self.sites.items()
        ]

    def __str__(self) -> str:
        return table(self.rows())


class Row(NamedTuple):
    """The rule of one operation, and the entry of the rule set it comes from: ``name``, ``operation``, ``why``."""

    name: str
    operation: str
    why: str


def table(rows: Sequence[Row]) -> str:
    """Write rows in columns."""
    widths = [max((len(row[k]) for row in rows), default=0) for k in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {op:<{widths[1]}}  {why}" for name, op, why in rows)


def assign(graph: Graph, rules: RuleSet, at: str | None = None) -> Plan:
    """Give every operation between the source and the target its rule.

    Parameters
    ----------
    graph : Graph
        From `relprop.capture`.
    rules : RuleSet
        From `rule_registry.get`.
    at : str, optional
        Path of the module whose output is the source. By default the floating-point inputs are.

    Raises
    ------
    MissingRuleError
        If an operation has no rule; the one error lists all of them.
    CaptureError
        If the target does not depend on the source, or ``at`` names no module.
    """
    sources = _sources(graph, at)
    reached = between(graph, sources, carries_relevance)
    if not reached:
        raise CaptureError("the target does not depend on the source: no path leads from one to the other")
    nonnegative, masked = nonnegative_nodes(graph), masked_nodes(graph)
    carrying = [n for n in graph.calls() if n in reached and n not in sources and n.target is not operator.getitem]
    layers = _layers(graph, carrying)
    entrances = _without_layer_before(graph, layers)
    sites, assigned, missing = {}, {}, []
    for node in carrying:
        site = _site(graph, node, reached, nonnegative)
        first, last = node in layers[:1], node in layers[-1:]
        sites[node] = replace(site, first=first, last=last, input=node in entrances, masked=node in masked)
        rule = rules.find(sites[node])
        if rule is None or not (rule.complex or _is_real(node)):
            missing.append(node)
        else:
            assigned[node] = rule
    if missing:
        raise MissingRuleError(_explain_missing(graph, rules, missing))
    merged = layers_to_merge(sites, assigned, (graph.output,))
    return Plan(graph, rules, sources, sites, assigned, merged)


def _sources(graph: Graph, at: str | None) -> tuple[fx.Node, ...]:
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
    if not sources:
        raise InputError(
            "no input is a floating-point tensor with a batch axis, so there is nothing to differentiate. Give "
            "pictures as floats, normalised as the model expects; for token indices name the module whose "
            'output is to be explained, as in at="embeddings"'
        )
    return sources


def _is_real(node: fx.Node) -> bool:
    return not any(map(is_complex, (node, *node.all_input_nodes)))


def _site(graph: Graph, node: fx.Node, reached: set[fx.Node], nonnegative: set[fx.Node]) -> Site:
    given = argument_nodes(node)
    active = tuple((slot, value) for slot, value in given if value in reached and carries_relevance(value))
    origin = graph.origins[node]
    batch = graph.batch[node]
    assert batch is not None
    return Site(
        op=node.target,  # type: ignore[arg-type]
        path=origin.path,
        module_type=origin.module_type,
        active=tuple(slot for slot, _ in active),
        nonnegative=tuple(value in nonnegative for _, value in active),
        input_batch=tuple(_single(graph.batch[value]) for _, value in active),
        output_batch=batch,
    )


def _layers(graph: Graph, carrying: Sequence[fx.Node]) -> list[fx.Node]:
    """Operations with a weight: a parameter, or what is computed from parameters alone, as a normed weight is."""
    weights: set[fx.Node] = set()
    for node in graph.graph.nodes:
        held = node.op == "get_attr" and str(node.target) in graph.parameters
        if held or (graph.batch.get(node) is None and not weights.isdisjoint(node.all_input_nodes)):
            weights.add(node)
    return [node for node in carrying if any(value in weights for value in _matrices(node))]


def _matrices(node: fx.Node) -> list[fx.Node]:
    names = _WEIGHTS.get(node.target, ())
    return [value for slot, value in argument_nodes(node) if slot.name in names and value.meta["val"].ndim >= 2]


def _without_layer_before(graph: Graph, layers: Sequence[fx.Node]) -> set[fx.Node]:
    reached, behind = set(layers), set()
    for node in graph.calls():
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
            behind.add(node)
    return set(layers) - behind


def _single(mark: Marks) -> BatchAxis:
    assert isinstance(mark, BatchAxis), "an operation takes tensors, not tuples"
    return mark


def argument_nodes(node: fx.Node) -> list[tuple[Slot, fx.Node]]:
    """Return the nodes among the arguments of an operation, by slot, in the order of its schema."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    bound = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    found = []
    for name in names:
        value = bound.get(name)
        if isinstance(value, fx.Node):
            found.append((Slot(name), value))
        elif isinstance(value, list | tuple):
            found += [(Slot(name, k), item) for k, item in enumerate(value) if isinstance(item, fx.Node)]
    return [(slot, value) for slot, value in found if isinstance(value.meta.get("val"), Tensor)]


def _explain_missing(graph: Graph, rules: RuleSet, missing: Sequence[fx.Node]) -> str:
    unreal = [node for node in missing if not _is_real(node)]
    places = "\n".join(f"  {graph.describe(node)}{', of complex numbers' * (node in unreal)}" for node in missing)
    operations = sorted({str(node.target) for node in missing})
    found = f"rule set {rules.name!r} has no rule for {len(missing)} operations ({', '.join(operations)}):\n{places}\n"
    if unreal:
        return found + _OF_COMPLEX_NUMBERS.format(op=unreal[0].target)
    advice = [_ADVICE.format(name=rules.name, op=operations[0])]
    if all(torch.Tag.pointwise in node.target.tags for node in missing):  # type: ignore[union-attr]
        advice.append(_PASSING.format(op=operations[0]))
    if rules.conserves:
        advice.append(_GENERAL)
    return found + "\n".join(advice)


_ADVICE = """\
Register one, for example:
  @rule_registry.register("{name}", torch.ops.{op})
  def my_rule(call, relevance):
      return relevance  # one tensor (S, *input) per activation input, or rule_registry.share(call, ...)"""
_PASSING = """\
or pass rules=rule_registry.get(...).derive({{torch.ops.{op}: rule_registry.passes}}) if relevance is to pass \
unchanged."""
_GENERAL = "absLRP's formula through Jacobians is rules=...derive(default=rule_registry.positive_contribution)."
_OF_COMPLEX_NUMBERS = """\
Rules are for real numbers unless they say otherwise. Write the model with real numbers there, or derive rules that
hand one real number of relevance to each complex entry, for example:
  rule_registry.get(...).derive({{torch.ops.{op}: rule_registry.Rule("mine", my_rule, complex=True)}})
The rule set "gradient" and those built on it hold for complex numbers too."""
