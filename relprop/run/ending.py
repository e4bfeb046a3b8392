"""How a model ends, by its graph and its output; rules are assigned with that in mind."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import torch

from relprop.assign.assign import assign
from relprop.assign.combined_targets import rules_of_target
from relprop.assign.contrasts import ContrastKind, rules_behind_scores
from relprop.assign.plan import Plan
from relprop.errors import TargetError
from relprop.graph.ending import Ending, are_probabilities, find_ending
from relprop.graph.graph import Graph
from relprop.graph.signs import nonnegative_nodes
from relprop.tracing.export import plain_mode
from relprop.tracing.inputs import Inputs
from rule_registry import RuleSet

_endings: WeakKeyDictionary[Graph, Ending] = WeakKeyDictionary()


def ending_of(graph: Graph, inputs: Inputs) -> Ending:
    """Return how a model ends, by its graph; where that could be probabilities, by its output for two samples too."""
    found = _endings.get(graph)
    if found is None:
        found = find_ending(graph)
        if found.kind == "scores" and graph.output in nonnegative_nodes(graph):
            with plain_mode(), torch.no_grad():
                few = inputs.samples(1 if graph.alone else 2).plain()
                output = graph.module()(*few.slice(0, few.batch_size))
            if are_probabilities(output):
                found = Ending("probabilities")
        _endings[graph] = found
    return found


def assign_rules(
    graph: Graph, rules: RuleSet, contrast: ContrastKind, inputs: Inputs, callable_target: bool, at: str | None
) -> Plan:
    """Assign the rules; relevance against the log-odds starts at the scores before a last softmax.

    Raises
    ------
    TargetError, MissingRuleError
    """
    if callable_target:
        return assign(graph, rules, at, rules_of_target(graph))
    if contrast != "log-odds" or (ending := ending_of(graph, inputs)).softmax is None:
        return assign(graph, rules, at)
    plan = assign(graph, rules, at, rules_behind_scores(ending))
    if ending.softmax not in plan.sites:
        raise TargetError(
            f"contrast 'log-odds' starts at the scores before the model's softmax, and at={at!r} is behind "
            "them: name a module before the softmax, or pass <contrast>",
            contrast='"rest"',
        )
    return replace(plan, scores=ending)
