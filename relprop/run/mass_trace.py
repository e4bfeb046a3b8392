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
        Mass of the seeds, and what masses are told in, ``(S, B)``.
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
    seeds, unit = records.seeds, records.unit
    expected = {output: seeds}
    mass, whole = seeds, True
    cuts: list[Cut] = []

    def cut(stop: Checkpoint, rule: str, factor: Tensor, lost: Tensor, suspect: str = "") -> None:
        where = (stop.name, stop.path, stop.operation, rule)
        cuts.append(Cut(*where, mass / unit, factor, lost / unit, suspect, stop.conserves))

    def hand(name: str, amount: Tensor) -> None:
        expected[name] = expected[name] + amount if name in expected else amount

    for stop in stops:
        for (path, called), record in zip(stop.hooks, records.hooked.get(stop.name, ()), strict=True):
            before, behind = record
            mass = mass + behind - expected.get(stop.name, torch.zeros_like(behind))
            expected[stop.name] = behind
            whole = whole and torch.equal(before, behind)
            factor = behind / torch.where(before == 0, 1.0, before)
            cuts.append(Cut(stop.name, path, HOOK, called, mass / unit, factor, (before - behind) / unit))
        if stop.name in records.arrived:
            measured = records.arrived[stop.name]
            mass = mass + measured - expected.get(stop.name, torch.zeros_like(measured))
            cut(stop, "", torch.ones_like(mass), torch.zeros_like(mass))
            continue
        if stop.name not in expected:
            continue
        steps = records.steps.get(stop.name)
        if steps is not None:
            suspect = _suspicion(steps, whole, stop) if stop.conserves else ""
            measured, _, _, lost, *emitted = net(steps, len(seeds), 1)
            arrived, raw = total_mass(steps, len(seeds), 1)[:2]
            mass = mass + (measured - expected[stop.name]) + (sum(emitted) - measured)
            for receiver, amount in zip(stop.receivers, emitted, strict=True):
                hand(receiver, amount)
            cut(stop, stop.rule, raw / torch.where(arrived == 0, 1.0, arrived), lost, suspect)
        elif stop.blocks:
            mass = mass - expected[stop.name]
            cut(stop, "blocks", torch.zeros_like(mass), expected[stop.name])
        else:
            hand(stop.receivers[0], expected[stop.name])
    return tuple(cuts)


def _suspicion(record: Tensor, whole: bool, stop: Checkpoint) -> str:
    """Return the sign of a rule that deletes relevance, in words, by its record ``(4 + inputs, S, B)``.

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
    if not whole:
        return ""
    if (raw[alive] < WEAK * measured[alive]).all():
        return f"it handed on {float((raw / measured)[alive].max()):.1e} of the mass before rescaling"
    one_sided = stop.opposed and bool((2.001 * raw[alive] >= total[alive]).all())
    if len(emitted) > 1 and not stop.settled and not one_sided:
        silent = [k for k, amount in enumerate(emitted) if not amount[alive].any()]
        if silent:
            return f"input {silent[0]} of {len(emitted)} received nothing"
    return ""
