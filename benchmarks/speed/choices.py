"""Ways of computing that the code prefers because they are faster, each beside the plain one that it replaces.

A comment in the code names its row: ``benchmarks choices: blocks``. To justify one more, add it to `CHOICES`.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from benchmarks.conditions import Conditions
from benchmarks.records.tables import markdown_table
from benchmarks.speed.jobs import Job
from benchmarks.speed.timing import seconds, take_turns
from relprop.cli.garbage import NEW_OBJECTS
from relprop.rewrite.step import widen
from rule_registry.abslrp.linear import BLOCK, _positive
from rule_registry.operations.linear_maps import _pointwise
from rule_registry.orientation import halves

Pair = Callable[[], tuple[Job, Job]]
"""Makes the job as the code does it, and the plain one."""


@dataclass(frozen=True)
class ChoiceRow:
    """One choice.

    Attributes
    ----------
    choice, taken
        Its name in `CHOICES`, and what the code does.
    seconds, plain
        Of the way that is taken, and of the plain one.
    ratio
        How many times longer the plain one takes.
    """

    KEYS: ClassVar = ("choice",)

    choice: str
    taken: str
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
    for name, (taken, make) in CHOICES.items():
        chosen, plain = make()
        rounds = take_turns({"chosen": chosen, "plain": plain}, repeats, conditions, name)
        ours, theirs = seconds(rounds, "chosen"), seconds(rounds, "plain")
        rows.append(ChoiceRow(name, taken, ours, theirs, theirs / ours))
    return rows


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table of recorded rows."""
    lines = [
        [
            row["choice"],
            row["taken"],
            *(f"{1000 * float(row[name]):.4g}" for name in ("seconds", "plain")),
            f"{float(row['ratio']):.2f}",
        ]
        for row in rows
    ]
    return markdown_table([["choice", "what the code does", "ms", "plain way, ms", "times longer"], *lines], 3)


def _blocks() -> tuple[Job, Job]:
    weight, s = torch.randn(4096, 25088), torch.randn(4, 4096)  # VGG's first dense layer
    rows = BLOCK // weight.shape[1]

    def in_blocks() -> Tensor:
        product = torch.zeros(len(s), weight.shape[1])
        for part, seeds in zip(weight.split(rows), s.split(rows, 1), strict=True):
            product += seeds @ part.clamp(min=0)
        return product

    return in_blocks, lambda: s @ weight.clamp(min=0)


def _few_channels() -> tuple[Job, Job]:
    weight, s = torch.randn(64, 3, 7, 7), torch.randn(8, 64, 112, 112)  # ResNet's first layer
    up, down = weight.clamp(min=0), weight.clamp(max=0)
    pull = partial(_pulled, s, side=224, stride=2)
    return lambda: pull(torch.cat([up, down], 1)).chunk(2, 1), lambda: (pull(up), pull(down))


def _pulled(s: Tensor, weight: Tensor, side: int, stride: int = 1) -> Tensor:
    """Transpose a convolution that is padded by half its kernel, ``(B, channels, side, side)``."""
    like, padding = s.new_empty(len(s), weight.shape[1], side, side), weight.shape[-1] // 2
    rest = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [True, False, False])
    found: Tensor = torch.ops.aten.convolution_backward(s, like, weight, None, *rest)[0]
    return found


def _signs() -> tuple[Job, Job]:
    x, up, down = (torch.randn(8, 256, 56, 56) for _ in range(3))
    return lambda: _positive(x, up.clone(), down), lambda: torch.where(x > 0, up, down).mul_(x)


def _halves() -> tuple[Job, Job]:
    s, sign = torch.randn(1, 8, 256, 56, 56), torch.randn(8, 256, 56, 56).sign()
    return lambda: halves(s, sign), lambda: (torch.where(sign > 0, s, 0.0), torch.where(sign > 0, 0.0, s))


def _pointwise_products() -> tuple[Job, Job]:
    weight, s = torch.randn(512, 2048, 1, 1), torch.randn(1, 8, 512, 7, 7)  # ResNet's last layers
    return lambda: _pointwise(weight.flatten(1), s)[0], lambda: _pulled(s[0], weight, side=7)


def _pooling() -> tuple[Job, Job]:
    x = torch.randn(8, 64, 112, 112)
    pool = partial(functional.max_pool2d_with_indices, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    return lambda: pool(x.contiguous(memory_format=torch.channels_last)), lambda: pool(x)


def _layouts() -> tuple[Job, Job]:
    x, s = torch.randn(8, 256, 56, 56).to(memory_format=torch.channels_last), torch.randn(8, 256, 56, 56)

    def alike() -> Tensor:
        laid_out = s.contiguous(memory_format=torch.channels_last)
        return laid_out * x + laid_out / x + laid_out * x

    return alike, lambda: s * x + s / x + s * x


def _in_place() -> tuple[Job, Job]:
    x, y = torch.randn(8, 256, 56, 56), torch.ones(8, 256, 56, 56)
    return lambda: x.mul_(y), lambda: x * y


def _imports() -> tuple[Job, Job]:
    def imports(threshold: int) -> Job:
        return partial(subprocess.run, [sys.executable, "-c", f"import gc; gc.set_threshold({threshold}); import timm"])

    return imports(NEW_OBJECTS), imports(gc.get_threshold()[0])


def _widening() -> tuple[Job, Job]:
    values = [torch.randn(1), [torch.randn(1).half(), 2], None]
    return lambda: [widen(values) for _ in range(1000)], lambda: [pytree.tree_map(widen, values) for _ in range(1000)]


CHOICES: Mapping[str, tuple[str, Pair]] = {
    "blocks": ("parts of a large weight by blocks of rows", _blocks),
    "few channels": ("both parts of a weight for pictures in one product", _few_channels),
    "signs": ("parts of an activation by clamping, not by a condition", _signs),
    "halves": ("halves of relevance by clamping signs, not by a condition", _halves),
    "pointwise": ("1x1 convolutions as matrix products", _pointwise_products),
    "pooling": ("winners of a pooling found with channels last", _pooling),
    "layouts": ("relevance laid out as its activation, then three operations", _layouts),
    "in place": ("entries overwritten, not put into fresh memory", _in_place),
    "imports": ("timm imported with cycles searched for seldom", _imports),
    "widening": ("precision of nested values by hand, not by pytree", _widening),
}
