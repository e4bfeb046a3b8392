"""Accounting: the mass of relevance at every cut of the graph, and what was lost where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

import rule_registry
from relprop.assign import Plan, argument_nodes
from relprop.flows import gross, net
from relprop.hooks import RelevanceHook
from rule_registry import Site

DEVIATION = 1e-3
"""A mass that is further from one than this is no rounding, not even in half precision."""
WEAK = 1e-2
"""A rule that hands on less than this part of what arrives, before rescaling, is suspect."""
HOOK = "hook"
"""Stands for the operation at the cut behind a hook."""


@dataclass(frozen=True)
class Cut:
    """The cut of the graph behind one operation, or one hook (towards the input).

    Parameters
    ----------
    name, path, operation, rule : str
        The operation's name in the program, its module path, ATen operation and rule; of a hook ``"hook"`` is the
        operation, and the rule the name of its function.
    mass : Tensor
        ``(S, B)``, sum of all relevance on this cut over the relevance at the output.
    factor : Tensor
        ``(S, B)``, mass the rule handed on before rescaling over the mass that arrived.
    lost : Tensor
        ``(S, B)``, mass lost at this operation; what a hook took away (negative where it added).
    suspect : str
        Why the rule seems to delete relevance; empty if it does not.
    """

    name: str
    path: str
    operation: str
    rule: str
    mass: Tensor
    factor: Tensor
    lost: Tensor
    suspect: str = ""


@dataclass(frozen=True)
class Conservation:
    """Where the relevance went: one row per cut, from the output to the source.

    Parameters
    ----------
    cuts : tuple of Cut
        Empty under rule sets that neither conserve mass nor measure it.
    conserves : bool
        Whether the rule set is meant to conserve it. Where it only measures it, relevance has both signs, and what
        an operation's bias and stabiliser absorb counts as lost there (negative where they add to it).
    """

    cuts: tuple[Cut, ...]
    conserves: bool = True

    @property
    def masses(self) -> Tensor:
        """Mass at every cut over the mass at the output, ``(cuts, S, B)``."""
        return torch.stack([cut.mass for cut in self.cuts]) if self.cuts else torch.empty(0, 0, 0)

    @property
    def lost(self) -> float:
        """Largest share of a seed's mass that was lost on the way, counted over all operations but not hooks."""
        lost = [cut.lost for cut in self.cuts if cut.operation != HOOK]
        return float(sum(lost).abs().max()) if lost else 0.0  # type: ignore[union-attr]

    @property
    def errors(self) -> Tensor:
        """Largest deviation of a cut's mass from one in each sample, losses and hooks' work put back, ``(B,)``."""
        return self._deviations().amax((0, 1)) if self.cuts else torch.empty(0)

    @property
    def error(self) -> float:
        """Largest of the ``errors``; NaN if nothing is conserved or measured."""
        return float(self.errors.max()) if self.cuts else float("nan")

    def _deviations(self) -> Tensor:
        lost = torch.stack([cut.lost for cut in self.cuts]).cumsum(0)
        return (self.masses + lost - 1).abs()

    @property
    def losses(self) -> tuple[Cut, ...]:
        """The cuts at which an operation lost mass."""
        return tuple(cut for cut in self.cuts if cut.operation != HOOK and bool((cut.lost != 0).any()))

    @property
    def masked(self) -> tuple[Cut, ...]:
        """The cuts at which a hook took mass away or added some."""
        return tuple(cut for cut in self.cuts if cut.operation == HOOK and bool((cut.lost != 0).any()))

    @property
    def suspects(self) -> tuple[Cut, ...]:
        """The cuts at which a rule seems to delete relevance, whatever rescaling made of it."""
        return tuple(cut for cut in self.cuts if cut.suspect)

    def __str__(self) -> str:
        if not self.conserves:
            return self._absorption() if self.cuts else "conservation: this rule set does not conserve mass"
        lines = [
            f"conservation: {len(self.cuts)} cuts, largest error {self.error:.1e}, lost {self.lost:.1e} of the mass"
        ]
        deviating = (self._deviations().amax((1, 2)) > DEVIATION).nonzero()
        if len(deviating):
            cut = self.cuts[int(deviating[0])]
            lines.append(f"  the mass deviates from {cut.name} ({cut.operation}) on: see the rules just behind it")
        lines += [f"  lost {float(cut.lost.max()):.1e} at {cut.name} ({cut.operation})" for cut in self.losses]
        lines += self._mask_lines()
        lines += [f"  suspect: {cut.name} ({cut.operation}): {cut.suspect}" for cut in self.suspects]
        return "\n".join(lines)

    def _absorption(self) -> str:
        reached = self.masses[-1]
        most = max((cut for cut in self.cuts if cut.operation != HOOK), key=lambda cut: float(cut.lost.abs().max()))
        line = (
            f"conservation: not rescaled; {float(reached.min()):.1%} to {float(reached.max()):.1%} of the output's "
            f"relevance reaches the source, biases and stabilisers absorb the rest, most of it {most.name} "
            f"({most.operation})"
        )
        return "\n".join([line, *self._mask_lines()])

    def _mask_lines(self) -> list[str]:
        lines = []
        for cut in self.masked:
            changed = float(cut.lost.flatten()[cut.lost.abs().argmax()])
            what = f"{changed:.1e} of the mass taken away" if changed > 0 else f"{-changed:.1e} of the mass added"
            lines.append(f"  masked at {cut.path or cut.name}: {what} by the hook {cut.rule}")
        return lines


def account(
    plan: Plan,
    records: Mapping[str, Tensor | None],
    seeds: Tensor,
    arrived: Sequence[Tensor],
    hooked: Mapping[fx.Node, Sequence[tuple[RelevanceHook, Tensor]]],
) -> Conservation:
    """Follow the mass through a plan from the records of a run.

    Parameters
    ----------
    plan : Plan
        What was run.
    records : mapping
        The records of its steps, by node name.
    seeds : Tensor
        Mass of the seeds, ``(S, B)``.
    arrived : sequence of Tensor
        Mass measured at each source, ``(S, B)``.
    hooked : mapping
        The hooks at each node, and the masses ``(2, S, B)`` before and behind them.
    """
    rules = plan.rules
    if not (rules.conserves or rules.measures):
        return Conservation((), conserves=False)
    unit = torch.where(seeds == 0, 1.0, seeds)
    expected: dict[fx.Node, Tensor] = {plan.graph.output: seeds}
    mass, cuts, whole = seeds, [], True
    moves = rule_registry.get("structural").table

    def hand(node: fx.Node, amount: Tensor) -> None:
        expected[node] = expected[node] + amount if node in expected else amount

    def through_hooks(node: fx.Node) -> None:
        nonlocal mass, whole
        for hook, record in hooked.get(node, ()):
            before, behind = record
            mass = mass + behind - expected.get(node, torch.zeros_like(behind))
            expected[node] = behind
            whole = whole and torch.equal(before, behind)
            factor = behind / torch.where(before == 0, 1.0, before)
            cuts.append(
                Cut(node.name, hook.info.path, HOOK, hook.called, mass / unit, factor, (before - behind) / unit)
            )

    for node in reversed(list(plan.graph.calls())):
        if node in plan.sources:
            continue
        through_hooks(node)
        if node not in expected:
            continue
        if node not in plan.sites:
            hand(node.args[0], expected[node])  # type: ignore[arg-type]
            continue
        site, record = plan.sites[node], records.get(node.name)
        by_slot = dict(argument_nodes(node))
        inputs = [by_slot[slot] for slot in site.active]
        if record is None:
            if plan.assigned[node].kind == "blocks":
                mass, blocked = mass - expected[node], expected[node]
                factor = torch.zeros_like(mass)
                cuts.append(Cut(node.name, site.path, str(site.op), "blocks", mass / unit, factor, blocked / unit))
            else:
                hand(inputs[0], expected[node])
            continue
        settled = plan.assigned[node] is moves.get(site.op) or _positive_quotient(site)
        suspect = _suspicion(record, whole, settled) if rules.conserves else ""
        measured, _, _, lost, *emitted = net(record, len(seeds), 1)
        measured_gross, raw = gross(record, len(seeds), 1)[:2]
        mass = mass + (measured - expected[node]) + (sum(emitted) - measured)
        for source, amount in zip(inputs, emitted, strict=True):
            hand(source, amount)
        factor = raw / torch.where(measured_gross == 0, 1.0, measured_gross)
        rule = str(plan.assigned[node])
        cuts.append(Cut(node.name, site.path, str(site.op), rule, mass / unit, factor, lost / unit, suspect))
    for node, measured in zip(plan.sources, arrived, strict=True):
        through_hooks(node)
        mass = mass + measured - expected.get(node, torch.zeros_like(measured))
        zero, one = torch.zeros_like(mass), torch.ones_like(mass)
        cuts.append(Cut(node.name, "", "source", "", mass / unit, one, zero))
    return Conservation(tuple(cuts), rules.conserves)


def _positive_quotient(site: Site) -> bool:
    """Whether this is a quotient of two activations that are never negative."""
    return site.op == torch.ops.aten.div.Tensor and len(site.active) == 2 and all(site.nonnegative)


def _suspicion(record: Tensor, whole: bool, settled: bool) -> str:
    """Say what speaks for a deleting rule where mass arrived and was not counted as lost.

    What a hook has left over may be little, or of one branch alone: that says nothing about rules. Where it is settled
    who receives nothing there is no choice: in a move a part that nobody reads any more, as all but the class token of
    the last block; in a quotient that is never negative the denominator, whose contribution is ``-z``.
    """
    measured, raw, total, lost, *emitted = record
    alive = (measured > 0) & (lost == 0)
    if not alive.any():
        return ""
    if (raw[alive] > total[alive] * 1.001).any():
        return "its positive contributions are smaller than the sum of all contributions"
    if not whole:
        return ""
    if (raw[alive] < WEAK * measured[alive]).all():
        return f"it handed on {float((raw / measured)[alive].max()):.1e} of the mass before rescaling"
    if len(emitted) > 1 and not settled:
        silent = [k for k, amount in enumerate(emitted) if not amount[alive].any()]
        if silent:
            return f"input {silent[0]} of {len(emitted)} received nothing"
    return ""
