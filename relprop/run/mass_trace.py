"""Following the mass of relevance from the output to the sources, from what the steps of a run have recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.rewrite.checkpoints import Checkpoint
from relprop.rewrite.signed import net, total_mass
from relprop.run.conservation import HOOK, Cut

WEAK = 1e-2
"""A rule that hands on less than this part of what arrives, before rescaling, is suspect."""


@dataclass(frozen=True)
class Records:
    """What was measured in a run, of all samples.

    Parameters
    ----------
    steps : mapping of str to Tensor or None
        The record of each step, see `relprop.rewrite.step.Step`.
    seeds, unit : Tensor
        Mass of the seeds, and the unit of masses, ``(S, B)``.
    arrived : mapping of str to Tensor
        Mass at each source, ``(S, B)``.
    hooked : mapping of str to sequence of Tensor
        Masses before and behind each hook at a node, ``(2, S, B)``.
    """

    steps: Mapping[str, Tensor | None]
    seeds: Tensor
    unit: Tensor
    arrived: Mapping[str, Tensor]
    hooked: Mapping[str, Sequence[Tensor]]


def follow(stops: Sequence[Checkpoint], records: Records, output: str) -> tuple[Cut, ...]:
    """Follow the mass through the stops of a plan.

    Parameters
    ----------
    stops : sequence of Checkpoint
        Of the plan that was run.
    records : Records
        Of the run.
    output : str
        Name of the node that the seeds are at.
    """
    trace = _MassTrace(records, output)
    for stop in stops:
        trace.visit(stop)
    return tuple(trace.cuts)


class _MassTrace:
    """The mass on the cut that has been reached, and the mass that is expected at the nodes behind it.

    Parameters
    ----------
    records : Records
        Of the run.
    output : str
        Name of the node that the seeds are at.

    Attributes
    ----------
    mass : Tensor
        On the cut, ``(S, B)``.
    expected : dict of str to Tensor
        At each node, as those before handed on, ``(S, B)``.
    untouched : bool
        Whether no hook has changed the mass so far.
    cuts : list of Cut
        Behind all nodes visited.
    """

    def __init__(self, records: Records, output: str) -> None:
        self.records = records
        self.mass = records.seeds
        self.expected = {output: records.seeds}
        self.untouched = True
        self.cuts: list[Cut] = []

    def visit(self, stop: Checkpoint) -> None:
        """Follow the mass through the hooks at a node, and then through the node itself."""
        self._pass_hooks(stop)
        if stop.name in self.records.arrived:
            self._arrive(stop)
        elif stop.name not in self.expected:
            return
        elif (record := self.records.steps.get(stop.name)) is not None:
            self._pass_step(stop, record)
        elif stop.blocks:
            lost = self.expected[stop.name]
            self.mass = self.mass - lost
            self._cut(stop, "blocks", torch.zeros_like(self.mass), lost)
        else:
            self._hand(stop.receivers[0], self.expected[stop.name])

    def _pass_hooks(self, stop: Checkpoint) -> None:
        for (path, called), (before, behind) in zip(stop.hooks, self.records.hooked.get(stop.name, ()), strict=True):
            self.mass = self.mass + behind - self.expected.get(stop.name, torch.zeros_like(behind))
            self.expected[stop.name] = behind
            self.untouched = self.untouched and torch.equal(before, behind)
            factor = behind / torch.where(before == 0, 1.0, before)
            unit = self.records.unit
            self.cuts.append(Cut(stop.name, path, HOOK, called, self.mass / unit, factor, (before - behind) / unit))

    def _arrive(self, stop: Checkpoint) -> None:
        """Take the mass that was measured at a source."""
        measured = self.records.arrived[stop.name]
        self.mass = self.mass + measured - self.expected.get(stop.name, torch.zeros_like(measured))
        self._cut(stop, "", torch.ones_like(self.mass), torch.zeros_like(self.mass))

    def _pass_step(self, stop: Checkpoint, record: Tensor) -> None:
        """Take the masses that a step recorded, ``(4 + inputs, S or 2 S, B)``."""
        seeds = len(self.records.seeds)
        suspect = _suspicion(record, self.untouched, stop) if stop.conserves else ""
        measured, _, _, lost, *emitted = net(record, seeds, 1)
        arrived, raw = total_mass(record, seeds, 1)[:2]
        self.mass = self.mass + (measured - self.expected[stop.name]) + (sum(emitted) - measured)
        for receiver, amount in zip(stop.receivers, emitted, strict=True):
            self._hand(receiver, amount)
        self._cut(stop, stop.rule, raw / torch.where(arrived == 0, 1.0, arrived), lost, suspect)

    def _cut(self, stop: Checkpoint, rule: str, factor: Tensor, lost: Tensor, suspect: str = "") -> None:
        """Note the cut behind a node; factor and lost mass are ``(S, B)``."""
        unit = self.records.unit
        where = (stop.name, stop.path, stop.operation, rule)
        self.cuts.append(Cut(*where, self.mass / unit, factor, lost / unit, suspect, stop.conserves))

    def _hand(self, name: str, amount: Tensor) -> None:
        """Add mass ``(S, B)`` to what is expected at a node."""
        self.expected[name] = self.expected[name] + amount if name in self.expected else amount


def _suspicion(record: Tensor, untouched: bool, stop: Checkpoint) -> str:
    """Return the sign of a rule that deletes relevance, in words, by its record ``(4 + inputs, S or 2 S, B)``.

    Only samples count whose mass arrived and was not lost. An input may receive nothing for good reasons:

    * A hook took most of the relevance away, or all of one branch. That says nothing about rules.
    * The rule has no choice (``settled``): nobody reads that part of a move, or that input never wins a maximum.
    * In a quotient ``z = a / b`` the numerator contributes ``z`` and the denominator ``-z``. Where relevance lies at
      ``z > 0`` alone, ``b`` receives nothing. The positive contributions are then half of all.
    """
    measured, raw, total, lost, *emitted = record
    alive = (measured > 0) & (lost == 0)
    if not alive.any():
        return ""
    if (raw[alive] > total[alive] * 1.001).any():
        return "its positive contributions are smaller than the sum of all contributions"
    if not untouched:
        return ""
    if (raw[alive] < WEAK * measured[alive]).all():
        return f"it handed on {float((raw / measured)[alive].max()):.1e} of the mass before rescaling"
    one_sided = stop.opposed and bool((2.001 * raw[alive] >= total[alive]).all())
    if len(emitted) > 1 and not stop.settled and not one_sided:
        silent = [k for k, amount in enumerate(emitted) if not amount[alive].any()]
        if silent:
            return f"input {silent[0]} of {len(emitted)} received nothing"
    return ""
