"""The nodes that relevance comes to, as far as they are known before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from relprop.assign.plan import Plan
from relprop.graph.arguments import argument_nodes
from relprop.rewrite.hooks import RelevanceHook


@dataclass(frozen=True)
class Checkpoint:
    """A node that relevance comes to: what is known of it without a run, and without the model, which stays free.

    Parameters
    ----------
    name, path, operation, rule : str
        As in `relprop.run.conservation.Cut`; a node that only passes all on has no operation.
    receivers : tuple of str
        Names of the nodes it hands relevance to.
    blocks : bool
        Whether it hands nothing on, by its rule.
    settled : bool
        Whether there is no choice who receives nothing.
    opposed : bool
        Whether what one input contributes the other one takes away.
    conserves : bool
        Whether its rule hands on the mass that arrives.
    hooks : tuple of (str, str)
        Module path, and name of the function, of every hook that relevance goes through before.
    """

    name: str
    path: str = ""
    operation: str = ""
    rule: str = ""
    receivers: tuple[str, ...] = ()
    blocks: bool = False
    settled: bool = False
    opposed: bool = False
    conserves: bool = True
    hooks: tuple[tuple[str, str], ...] = ()


def list_checkpoints(plan: Plan, hooks: Mapping[fx.Node, Sequence[RelevanceHook]]) -> tuple[Checkpoint, ...]:
    """List the nodes that relevance comes to, from the output on; sources are last."""
    reached = {plan.graph.output, *hooks}
    stops = []
    for node in reversed(list(plan.graph.calls())):
        if node not in reached or node in plan.sources:
            continue
        passed = tuple((hook.info.path, hook.called) for hook in hooks.get(node, ()))
        if node in plan.sites:
            site, rule = plan.sites[node], plan.assigned[node]
            by_slot = dict(argument_nodes(node))
            inputs = [by_slot[slot] for slot in site.active]
            settled = rule.moves or rule.picks
            opposed = len(site.active) == 2 and rule.opposed
            names = (node.name, site.path, str(site.op), str(rule), tuple(source.name for source in inputs))
            conserves = plan.rules.mass_of(rule) == "conserved"
            stops.append(Checkpoint(*names, rule.kind == "blocks", settled, opposed, conserves, passed))
        else:
            inputs = [node.args[0]]  # type: ignore[list-item]
            stops.append(Checkpoint(node.name, receivers=(inputs[0].name,), hooks=passed))
        reached.update(inputs)
    for node in plan.sources:
        passed = tuple((hook.info.path, hook.called) for hook in hooks.get(node, ()))
        stops.append(Checkpoint(node.name, operation="source", hooks=passed))
    return tuple(stops)
