"""Where relevance arrives at positive outputs alone, by the graph: below a rectifier.

A rule that hands relevance on by contributions gives none to an input that is zero. So relevance arrives at a ReLU's
output where that is positive, and at its input where that is. From there the proof goes on through moves, positive
scalars, maxima and norms with gains that are not negative, and through sums, averages and products with a factor that
is never negative: where their result is positive, a positive term alone contributes. A hook that changes relevance,
the target, or another rule ends it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

import rule_registry
from relprop.graph.arguments import argument_nodes, bind_arguments
from relprop.graph.dataflow import is_complex
from relprop.graph.graph import Graph
from relprop.graph.rectifiers import is_rectifier
from rule_registry import Rule, Site
from rule_registry.operations import norms, products, winners
from rule_registry.operations.elementwise import DIFFERENCES, PRODUCTS, QUOTIENTS, REVERSED_DIFFERENCES, SUMS
from rule_registry.operations.linear_maps import AVERAGES, BICUBIC, LAYERS
from rule_registry.operations.sampling import SAMPLERS

aten = torch.ops.aten

Gains = frozenset[fx.Node]
"""What must hold of a run if something is to hold: gains of norms that may not be negative, nodes with hooks that may
not change relevance."""


@dataclass(frozen=True)
class Arrival:
    """Where relevance arrives at a node.

    Parameters
    ----------
    apart_from_zero : bool
        Only where its value is not zero.
    positive : Gains, optional
        Only where it is positive, if these gains and hooks are as they must be; None where that is not known.
    """

    apart_from_zero: bool = False
    positive: Gains | None = None


ANYWHERE = Arrival()
BY_CONTRIBUTION = Arrival(apart_from_zero=True)
NOWHERE = Arrival(apart_from_zero=True, positive=frozenset())


def rectified_nodes(
    graph: Graph,
    sites: Mapping[fx.Node, Site],
    assigned: Mapping[fx.Node, Rule],
    merged: Mapping[fx.Node, fx.Node],
    nonnegative: Collection[fx.Node],
    stops: Collection[fx.Node],
) -> dict[fx.Node, Gains]:
    """Return operations at which relevance arrives only where their output is not negative, and for which gains.

    Parameters
    ----------
    graph : Graph
        As captured.
    sites, assigned, merged : mapping
        As in `relprop.assign.plan.Plan`.
    nonnegative : collection of fx.Node
        Nodes that are never negative.
    stops : collection of fx.Node
        Nodes where anything may happen to relevance: those with hooks, unless these only observe.
    """
    handed: dict[tuple[fx.Node, fx.Node], list[Arrival]] = {}
    found: dict[fx.Node, Gains] = {}
    for node in reversed(list(graph.calls())):
        if node not in sites and node.target is not operator.getitem:
            continue
        arrival = _together([given for user in node.users for given in handed.get((user, node), ())])
        if node is graph.output:
            arrival = ANYWHERE
        elif arrival.apart_from_zero and node in nonnegative:
            arrival = NOWHERE
        if node in stops:
            arrival = Arrival(positive=None if arrival.positive is None else arrival.positive | {node})
        if node in sites and (arrival.positive is not None or node in nonnegative):
            found[node] = frozenset() if arrival.positive is None else arrival.positive
        if node not in sites or node in merged.values():
            given = [(node.all_input_nodes[0], arrival)]
        else:
            given = _hand_on(node, sites[node], assigned[node], arrival, nonnegative)
        for source, arriving in given:
            handed.setdefault((node, source), []).append(arriving)
    return found


def _together(arrivals: Sequence[Arrival]) -> Arrival:
    """Return what holds for the relevance that several operations hand on."""
    gains = [arrival.positive for arrival in arrivals if arrival.positive is not None]
    positive = frozenset[fx.Node]().union(*gains) if len(gains) == len(arrivals) else None
    return Arrival(all(arrival.apart_from_zero for arrival in arrivals), positive)


def _hand_on(
    node: fx.Node, site: Site, rule: Rule, arrival: Arrival, nonnegative: Collection[fx.Node]
) -> list[tuple[fx.Node, Arrival]]:
    """Return the inputs of an operation, and where its rule hands relevance to in each."""
    inputs = [(slot, source) for slot, source in argument_nodes(node) if slot in site.active]
    target: Any = node.target
    if rule.kind == "blocks":
        return [(source, NOWHERE) for _, source in inputs]
    keeps = (rule.moves and target in rule_registry.get("structural").table) or (
        rule.contributes and target in _WINNERS
    )
    if is_complex(node) or any(is_complex(source) for _, source in inputs):
        return [(source, ANYWHERE) for _, source in inputs]
    if keeps:  # an input has the value of the output that it receives the relevance of
        return [(source, arrival) for _, source in inputs]
    arguments = bind_arguments(node, node.args, node.kwargs)
    if rule.kind == "passes" and is_rectifier(target, arguments):
        rectified = ANYWHERE if arrival.positive is None else Arrival(True, arrival.positive)
        return [(source, rectified) for _, source in inputs]
    transfer = _TRANSFERS.get(target) if rule.contributes else None
    if transfer is None:
        return [(source, ANYWHERE) for _, source in inputs]
    if site.evidence:  # contributions of that sign count, whatever that of the output is
        arrival = replace(arrival, positive=frozenset() if site.evidence > 0 else None)

    def is_nonnegative(value: Any) -> bool:
        return value in nonnegative if isinstance(value, fx.Node) else isinstance(value, int | float) and value >= 0

    return [(source, transfer(slot.name, site, arguments, arrival, is_nonnegative)) for slot, source in inputs]


_WINNERS = {*winners.EXTREMES, *(operation for operations, _ in winners.WINNERS for operation in operations)}


IsNonnegative = Callable[[Any], bool]
Transfer = Callable[[str, Site, Mapping[str, Any], Arrival, IsNonnegative], Arrival]
"""From an input's name, the site, its arguments, and where relevance arrives, to where the input receives some."""


def _layer(name: str, site: Site, arguments: Mapping[str, Any], arrival: Arrival, holds: IsNonnegative) -> Arrival:
    return BY_CONTRIBUTION


def _average(name: str, site: Site, arguments: Mapping[str, Any], arrival: Arrival, holds: IsNonnegative) -> Arrival:
    return Arrival(True, arrival.positive)


def _sampler(name: str, site: Site, arguments: Mapping[str, Any], arrival: Arrival, holds: IsNonnegative) -> Arrival:
    return Arrival(True, arrival.positive) if name == "input" else NOWHERE


def _sum(name: str, site: Site, arguments: Mapping[str, Any], arrival: Arrival, holds: IsNonnegative) -> Arrival:
    signs = {"self": 1, "other": arguments.get("alpha", 1)}
    return Arrival(True, arrival.positive) if holds(signs[name]) else BY_CONTRIBUTION


def _difference(name: str, site: Site, arguments: Mapping[str, Any], arrival: Arrival, holds: IsNonnegative) -> Arrival:
    first = "other" if site.op in REVERSED_DIFFERENCES else "self"
    return Arrival(True, arrival.positive) if name == first and arguments.get("alpha", 1) == 1 else BY_CONTRIBUTION


def _product(name: str, site: Site, arguments: Mapping[str, Any], arrival: Arrival, holds: IsNonnegative) -> Arrival:
    left, right = products.FACTORS.get(site.op, ("self", "other"))
    if arguments.get("alpha", 1) != 1 or not holds(arguments[right if name == left else left]):
        return BY_CONTRIBUTION
    return Arrival(True, arrival.positive)


def _entries(name: str, site: Site, arguments: Mapping[str, Any], arrival: Arrival, holds: IsNonnegative) -> Arrival:
    """Say it of products and quotients of entries, through which relevance passes if one is a constant scalar."""
    if len(site.active) == 1 and site.evidence:
        return ANYWHERE
    if name == "other" and site.op in QUOTIENTS:
        return ANYWHERE
    positive = arrival.positive if holds(arguments["other" if name == "self" else "self"]) else None
    return Arrival(arrival.apart_from_zero or len(site.active) == 2, positive)


def _norm(name: str, site: Site, arguments: Mapping[str, Any], arrival: Arrival, holds: IsNonnegative) -> Arrival:
    gain = arguments.get("weight")
    if arrival.positive is None or gain is None:
        return Arrival(True, arrival.positive)
    return Arrival(True, arrival.positive | {gain})


_TRANSFERS: dict[Any, Transfer] = {
    **dict.fromkeys((*LAYERS, *BICUBIC, aten.cosine_similarity.default), _layer),
    **dict.fromkeys(AVERAGES, _average),
    **dict.fromkeys(SAMPLERS, _sampler),
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys((*DIFFERENCES, *REVERSED_DIFFERENCES), _difference),
    **dict.fromkeys(products.FACTORS, _product),
    **dict.fromkeys((*PRODUCTS, *QUOTIENTS), _entries),
    **dict.fromkeys((*norms.NORMS, norms.BATCH_NORM), _norm),
}
