"""Ways of computing that the code prefers because they are faster, each beside the plain one that it replaces.

A comment in the code names its row. To justify one more, add a row to `CHOICES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from benchmarks.conditions import Conditions
from benchmarks.records.tables import markdown_table
from benchmarks.speed.jobs import Job
from benchmarks.speed.timing import seconds, take_turns
from relprop.rewrite.step import widen
from rule_registry.abslrp.linear import BLOCK

Pair = Callable[[], tuple[Job, Job]]
"""Makes the job as the code does it, and the plain one."""


@dataclass(frozen=True)
class ChoiceRow:
    """One choice.

    Attributes
    ----------
    choice
        Its name in `CHOICES`.
    seconds, plain
        Of the way that is taken, and of the plain one.
    ratio
        How many times longer the plain one takes.
    """

    KEYS: ClassVar = ("choice",)

    choice: str
    seconds: float
    plain: float
    ratio: float


def measure_choices(repeats: int, conditions: Conditions) -> list[ChoiceRow]:
    """Measure each choice; both ways take turns.

    Parameters
    ----------
    repeats
        Rounds; the median counts.
    conditions
        In force already.
    """
    rows = []
    for name, make in CHOICES.items():
        chosen, plain = make()
        rounds = take_turns({"chosen": chosen, "plain": plain}, repeats, conditions, name)
        ours, theirs = seconds(rounds, "chosen"), seconds(rounds, "plain")
        rows.append(ChoiceRow(name, ours, theirs, theirs / ours))
    return rows


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table of recorded rows."""
    lines = [
        [
            row["choice"],
            *(f"{1000 * float(row[name]):.3g}" for name in ("seconds", "plain")),
            f"{float(row['ratio']):.2f}",
        ]
        for row in rows
    ]
    return markdown_table([["choice", "ms", "plain way, ms", "times longer"], *lines], 3)


def _weight_in_blocks() -> tuple[Job, Job]:
    weight, s = torch.randn(4096, 25088), torch.randn(4, 4096)  # VGG's first dense layer
    rows = BLOCK // weight.shape[1]

    def in_blocks() -> Tensor:
        product = torch.zeros(len(s), weight.shape[1])
        for part, seeds in zip(weight.split(rows), s.split(rows, 1), strict=True):
            product += seeds @ part.clamp(min=0)
        return product

    return in_blocks, lambda: s @ weight.clamp(min=0)


def _parts_at_once() -> tuple[Job, Job]:
    weight, s = torch.randn(64, 3, 7, 7), torch.randn(8, 64, 112, 112)  # ResNet's first layer
    pull = partial(torch.nn.functional.conv_transpose2d, stride=2, padding=3, output_padding=1)
    up, down = weight.clamp(min=0), weight.clamp(max=0)
    return lambda: pull(s, torch.cat([up, down], 1)).chunk(2, 1), lambda: (pull(s, up), pull(s, down))


def _signs_by_clamping() -> tuple[Job, Job]:
    x, up, down = (torch.randn(8, 256, 56, 56) for _ in range(3))
    return (
        lambda: (up * x.clamp(min=0)).addcmul_(down, x.clamp(max=0)),
        lambda: torch.where(x > 0, up, down) * x,
    )


def _halves_by_clamping() -> tuple[Job, Job]:
    s, z = (torch.randn(8, 256, 56, 56) for _ in range(2))

    def clamped() -> tuple[Tensor, Tensor]:
        raised = s * z.sign().clamp(min=0)
        return raised, s - raised

    return clamped, lambda: (torch.where(z > 0, s, 0.0), torch.where(z > 0, 0.0, s))


def _product_at_each_position() -> tuple[Job, Job]:
    weight, s = torch.randn(256, 64, 1, 1), torch.randn(8, 256, 56, 56)
    like = torch.empty(8, 64, 56, 56)
    rest = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False])
    return (
        lambda: (weight.flatten(1).T @ s.flatten(2)).unflatten(2, s.shape[2:]),
        lambda: torch.ops.aten.convolution_backward(s, like, weight, None, *rest)[0],
    )


def _memory_in_place() -> tuple[Job, Job]:
    x, y = torch.randn(8, 256, 56, 56), torch.ones(8, 256, 56, 56)
    return lambda: x.mul_(y), lambda: x * y


def _widening_by_hand() -> tuple[Job, Job]:
    values = [torch.randn(1), [torch.randn(1), 2], None]

    def wide(value: object) -> object:
        return value.float() if isinstance(value, Tensor) and value.dtype.itemsize < 4 else value

    return lambda: [widen(values) for _ in range(1000)], lambda: [pytree.tree_map(wide, values) for _ in range(1000)]


CHOICES: Mapping[str, Pair] = {
    "parts of a large weight by blocks, not at once": _weight_in_blocks,
    "both parts of few channels in one product, not two": _parts_at_once,
    "parts of an activation by clamping, not by where": _signs_by_clamping,
    "halves of relevance by clamping signs, not by where": _halves_by_clamping,
    "1x1 convolutions as matrix products, not by the general kernel": _product_at_each_position,
    "entries overwritten, not put into fresh memory": _memory_in_place,
    "precision of nested values by hand, not by pytree": _widening_by_hand,
}
