"""Targets that combine outputs: folded into the last layer, or refused where rules would leave a part out."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from torch import fx

import rule_registry
from relprop.assign.sources import find_sources
from relprop.errors import TargetError
from relprop.graph.arguments import argument_nodes
from relprop.graph.class_scores import class_scores
from relprop.graph.combinations import find_combinations
from relprop.graph.dataflow import between, carries_relevance
from relprop.graph.folded_targets import fold_combinations
from relprop.graph.graph import Graph
from relprop.graph.layers import weighted_layers
from relprop.graph.lost_signs import find_lost_sign
from relprop.graph.signs import nonnegative_nodes
from rule_registry import Rule, RuleSet

_folded: WeakKeyDictionary[Graph, dict[str | None, Graph]] = WeakKeyDictionary()


def fold_target(graph: Graph, rules: RuleSet, at: str | None) -> Graph:
    """Return the graph in which every linear combination of a last layer's outputs is a layer with combined weights.

    So a difference of two scores is explained as the one score of a model whose weights are subtracted. Linear rules
    need none of this: under them relevance of either sign goes through a difference.

    Parameters
    ----------
    graph : Graph
        Captured with a target that is a function of the output.
    rules : RuleSet
        Under which it is explained.
    at : str, optional
        The module whose output is the source. A layer whose output that is, or comes before it, stays as it is.

    Raises
    ------
    TargetError
        If something is subtracted that can't be folded: these rules hand on positive contributions alone, and the map
        would be that of the rest.
    """
    if rules.linear:
        return graph
    kept = _folded.setdefault(graph, {})
    if at not in kept:
        kept[at] = _fold(graph, rules, at)
    return kept[at]


def _fold(graph: Graph, rules: RuleSet, at: str | None) -> Graph:
    sources = find_sources(graph, at)
    reached = between(graph, sources, carries_relevance)
    layers = weighted_layers(graph, [node for node in graph.calls() if node in reached])
    evidence = class_scores(graph, reached, layers, nonnegative_nodes(graph))
    # What combines the scores of one sample need not do so for as many as a layer has classes.
    found = [] if graph.alone else find_combinations(graph, layers, evidence)
    behind = {node for c in found for node in (*c.operations, *(layer.layer for layer in c.layers))}
    if behind.isdisjoint(sources) and found:
        graph = fold_combinations(graph, found)
        sources = find_sources(graph, at)
        reached = between(graph, sources, carries_relevance)
        layers = weighted_layers(graph, [node for node in graph.calls() if node in reached])
    lost = find_lost_sign(graph, reached, layers, nonnegative_nodes(graph))
    if lost is not None and not set(layers) <= set(sources):  # of the scores themselves a part of each sign is known
        node, what = lost
        raise TargetError(
            f"the target can't be explained under rule set {rules.name!r}: {what} {graph.describe(node)}. Its rules "
            "hand on positive contributions alone, so the map would be that of what is added. A linear combination of "
            "the outputs of one layer, before any softmax or sigmoid, is explained as a layer with combined weights; "
            "anything else needs linear rules: <rules>",
            rules='"epsilon-plus-flat"',
        )
    return graph


def rules_of_target(graph: Graph) -> Mapping[fx.Node, Rule]:
    """Return the rules by which a seed at a target that is a function comes to what it picks, as a class index would.

    Some rule sets have rules of their own for moves inside of a model, which depend on what is moved.
    """
    moves, found, node = rule_registry.get("structural").table, {}, graph.output
    while node.target in moves and len(values := argument_nodes(node)) == 1:
        found[node] = moves[node.target]  # type: ignore[index]
        node = values[0][1]
    return found
