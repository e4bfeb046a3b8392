"""Relevance of both signs, where rules need it non-negative: its two parts flow as seeds of their own.

A rule that conserves mass rescales what it hands on to the mass that arrived, which near zero means nothing for a
relevance whose parts cancel. So R+ and R- of S seeds go through it as 2 S non-negative flows. Where all rules of a plan
conserve and a hook makes relevance negative, the flows stay apart up to the sources, where their difference is the
relevance. In a plan that mixes rules they are subtracted behind every such rule, so that their number never grows.
Rules see more seeds, and nothing else. Flows are ``(S, ...)`` where nothing is negative, else ``(2 S, ...)``, the
positive parts first; ``axis`` is where they are counted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from relprop.assign.plan import Plan
from rule_registry.factored import Factored, plus, whole

Flows = Tensor | Factored


def split_signs(relevance: Any) -> Any:
    """Put the negative parts behind the positive ones, ``(2 S, ...)``; of a tuple those of each tensor in it."""
    if isinstance(relevance, tuple):
        return tuple(None if part is None else split_signs(part) for part in relevance)
    return torch.cat([relevance.clamp(min=0), relevance.clamp(max=0).neg()])


def net(flows: Tensor, seeds: int, axis: int = 0) -> Tensor:
    """Return ``R+ - R-``, ``(S, ...)``, of flows ``(2 S, ...)``; flows without negative parts stay as they are."""
    if flows.shape[axis] == seeds:
        return flows
    return flows.narrow(axis, 0, seeds) - flows.narrow(axis, seeds, seeds)


def total_mass(flows: Tensor, seeds: int, axis: int = 0) -> Tensor:
    """Return ``R+ + R-``, ``(S, ...)``, of flows ``(2 S, ...)``; flows without negative parts stay as they are."""
    if flows.shape[axis] == seeds:
        return flows
    return flows.narrow(axis, 0, seeds) + flows.narrow(axis, seeds, seeds)


def pad_flows(parts: Sequence[Flows | None], axis: int = 0) -> tuple[Any, ...]:
    """Give all parts as many flows as the longest, ``(S or 2 S, ...)``; a missing negative part is zero."""
    most = max(part.shape[axis] for part in parts if part is not None)

    def filled(part: Flows | None) -> Flows | None:
        if part is None or part.shape[axis] == most:
            return part
        missing = list(part.shape)
        missing[axis] = most - part.shape[axis]
        flows: Tensor = whole(part)
        return torch.cat([flows, flows.new_zeros(missing)], axis)

    return tuple(map(filled, parts))


def add_flows(first: Flows, second: Flows) -> Flows:
    """Sum of two relevances of one node, ``(S or 2 S, *output)``, whichever of them has a negative part."""
    return plus(*pad_flows((first, second)))


def stack_outputs(*parts: Flows | None) -> tuple[Flows | None, ...]:
    """Return the relevances of an operation's outputs, ``(S or 2 S, *output)`` each; None where nobody used one."""
    return pad_flows(parts)


def signed_nodes(plan: Plan, hooked: Collection[fx.Node], at_output: bool) -> set[fx.Node]:
    """Return the nodes that relevance of both signs may come to.

    Parameters
    ----------
    plan : Plan
        What is to be rewritten.
    hooked : collection of fx.Node
        Nodes whose relevance a hook may replace by anything.
    at_output : bool
        Whether the seeds have both signs.
    """
    signed = {*hooked, plan.graph.output} if at_output else set(hooked)
    for node in reversed(list(plan.graph.calls())):
        rule = plan.assigned.get(node)
        changes_signs = (
            rule is not None and rule.kind != "passes" and not rule.moves and plan.rules.mass_of(rule) != "conserved"
        )
        if node in signed or changes_signs:
            signed.update(node.all_input_nodes)
    return signed
