"""Assignment: every operation between source and target gets its rule, or one error lists all that have none."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import fx

from relprop.assign.folding import foldable_layers
from relprop.assign.missing_rules import explain_missing
from relprop.assign.plan import Plan
from relprop.assign.sources import find_sources
from relprop.errors import CaptureError, MissingRuleError
from relprop.graph.arguments import argument_nodes
from relprop.graph.arrival import rectified_nodes
from relprop.graph.attention import find_attention
from relprop.graph.class_scores import class_scores
from relprop.graph.dataflow import between, carries_relevance, is_real
from relprop.graph.graph import Graph
from relprop.graph.layers import input_layers, weighted_layers
from relprop.graph.lookups import Lookups, find_lookups
from relprop.graph.masks import masked_nodes
from relprop.graph.rectifiers import before_rectifiers
from relprop.graph.signs import nonnegative_nodes
from rule_registry import Rule, RuleSet, Site


def assign(graph: Graph, rules: RuleSet, at: str | None = None, settled: Mapping[fx.Node, Rule] | None = None) -> Plan:
    """Give every operation between the source and the target its rule.

    Parameters
    ----------
    graph : Graph
        From `relprop.capture`.
    rules : RuleSet
        From `rule_registry.get`.
    at : str, optional
        Path of the module whose output is the source. By default the floating-point inputs are.
    settled : mapping, optional
        Rules of some operations that the rule set has no say in.

    Raises
    ------
    MissingRuleError
        If an operation has no rule; the one error lists all of them.
    CaptureError
        If the target does not depend on the source, or ``at`` names no module.
    """
    sources = find_sources(graph, at)
    reached = between(graph, sources, carries_relevance)
    if not reached:
        raise CaptureError("the target does not depend on the source: no path leads from one to the other")
    nonnegative, masked = nonnegative_nodes(graph), masked_nodes(graph)
    carrying = [n for n in graph.calls() if n in reached and n not in sources and n.target is not operator.getitem]
    layers = weighted_layers(graph, carrying)
    entrances = input_layers(graph, layers)
    attention = find_attention(graph, carrying, reached, layers)
    scores = class_scores(graph, reached, layers, nonnegative)
    rectified = before_rectifiers(graph)
    sites, assigned, missing = {}, {}, []
    for node in carrying:
        site = _site(graph, node, reached, nonnegative)
        first, last = node in layers[:1], node in layers[-1:]
        sites[node] = replace(
            site,
            first=first,
            last=last,
            input=node in entrances,
            masked=node in masked,
            attention=node in attention.parts,
            attention_weights=attention.weights.get(node),
            evidence=scores.get(node, 0),
            before_rectifier=node in rectified,
        )
        rule = (settled or {}).get(node) or rules.find(sites[node])
        if rule is None or not (rule.complex or is_real(node)):
            missing.append(node)
        else:
            assigned[node] = rule
    if missing:
        raise MissingRuleError(explain_missing(graph, rules, missing))
    merged = foldable_layers(sites, assigned, (graph.output,))
    lookups = Lookups() if at is not None else find_lookups(graph)
    return Plan(graph, rules, sources, sites, assigned, merged, lookups=lookups)


def prove_rectified(plan: Plan, stops: Collection[fx.Node] = ()) -> Plan:
    """Find the sites that relevance arrives at only where their output is not negative.

    Parameters
    ----------
    plan : Plan
        From `assign`, which knows of none: there anything may happen to relevance on its way.
    stops : collection of fx.Node
        Where it may still: nodes with hooks.
    """
    nonnegative = nonnegative_nodes(plan.graph)
    found = rectified_nodes(plan.graph, plan.sites, plan.assigned, plan.merged, nonnegative, stops)
    sites = {node: replace(site, rectified=not found.get(node, True)) for node, site in plan.sites.items()}
    return replace(plan, sites=sites, gains={node: tuple(gains) for node, gains in found.items() if gains})


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
        input_batch=tuple(graph.axis(value) for _, value in active),
        output_batch=batch,
    )
