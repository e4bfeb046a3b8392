"""A plan: a graph with a rule for each operation that carries relevance."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import fx

from relprop.graph.ending import Ending
from relprop.graph.graph import Graph
from relprop.graph.lookups import Lookups
from rule_registry import BatchAxis, Rule, RuleSet, Site


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
        The nodes whose relevance is explained, looked-up values among them.
    sites : mapping of fx.Node to Site
        The operations on a path from a source to the output, in graph order. Picking a part of a tuple is no
        operation of its own.
    assigned : mapping of fx.Node to Rule
        The rule of each.
    merged : mapping of fx.Node to fx.Node
        Layers that are one with the batch norm behind them, and that batch norm.
    gains : mapping of fx.Node to tuple of fx.Node
        Operations that relevance arrives at only where their output is not negative, if no gain of these norms is, and
        no hook at these nodes changes relevance.
    scores : Ending, optional
        Where relevance starts at the scores before the model's last softmax: what is behind these.
    lookups : Lookups
        Integer inputs and the values they look up, whose relevance is reported as that of the inputs.
    """

    graph: Graph
    rules: RuleSet
    sources: tuple[fx.Node, ...]
    sites: dict[fx.Node, Site]
    assigned: dict[fx.Node, Rule]
    merged: dict[fx.Node, fx.Node] = field(default_factory=dict)
    gains: dict[fx.Node, tuple[fx.Node, ...]] = field(default_factory=dict)
    scores: Ending | None = None
    lookups: Lookups = field(default_factory=Lookups)

    @property
    def reported(self) -> tuple[fx.Node, ...]:
        """The nodes whose relevance is reported: sources, with integer inputs in place of what they look up."""
        return (*(node for node in self.sources if node not in self.lookups.values), *self.lookups.inputs)

    def carries(self, node: fx.Node) -> bool:
        """Whether relevance passes a node, as a single tensor that holds the samples."""
        if not isinstance(self.graph.batch.get(node), BatchAxis):
            return False
        return node in self.sources or (node.args[0] if node.target is operator.getitem else node) in self.sites

    @property
    def conserves(self) -> bool:
        """Whether every operation hands on the mass that arrives: then relevance of either sign can flow apart."""
        return all(self.rules.mass_of(rule) == "conserved" for rule in self.assigned.values())

    @property
    def measures(self) -> bool:
        """Whether mass is followed: conserved or measured by some operation that is more than a move."""
        return any(self.rules.mass_of(rule) != "ignored" for rule in self.assigned.values() if not rule.moves)

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
        behind_scores = () if self.scores is None else self.scores.behind_scores

        def why(node: fx.Node, site: Site) -> str:
            if node in layers:
                return f"one layer with {layers[node]}, whose rule holds for both"
            if node in behind_scores:
                return f"{self.assigned[node].describe()}, as the contrast starts at the scores before the softmax"
            return str(self.rules.explain(site))

        return [Row(node.name, str(site.op), why(node, site)) for node, site in self.sites.items()]

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
