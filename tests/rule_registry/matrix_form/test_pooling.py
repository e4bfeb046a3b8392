"""Averages and maxima of windows against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import rule_registry
from rule_registry.abslrp import alternatives
from tests.helpers.matrix_form import (
    FRONT,
    SEEDS,
    apply_rule,
    compare_with_formula,
    samples,
    slots,
)
from tests.helpers.operations import both_signs, randn, signed, values

aten = torch.ops.aten


AVERAGES: dict[str, tuple[Any, ...]] = {
    # kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
    "plain": ([2, 2],),
    "overlapping": ([3, 2], [1, 2]),
    "end unread": ([2, 2], [3, 2]),
    "padded": ([3, 3], [2, 2], [1, 1]),
    "padding not counted": ([3, 3], [2, 2], [1, 1], False, False),
    "ceil": ([2, 2], [2, 2], [0, 0], True),
    "ceil, padded": ([3, 3], [2, 2], [1, 0], True, True),
    "ceil, not counted": ([3, 3], [2, 2], [1, 1], True, False),
    "divisor": ([2, 3], [1, 1], [0, 1], False, True, 5),
}


@both_signs
@pytest.mark.parametrize("arguments", AVERAGES.values(), ids=AVERAGES.keys())
def test_avg_pool2d(arguments: tuple[Any, ...], positive: bool) -> None:
    compare_with_formula(aten.avg_pool2d.default, values((2, 2, 5, 5), positive), *arguments, nonnegative=positive)


@both_signs
@pytest.mark.parametrize(
    ("op", "shape", "arguments"),
    [
        (aten.avg_pool1d.default, (2, 2, 7), ([3],)),
        (aten.avg_pool1d.default, (2, 2, 7), ([3], [2], [1], False, False)),
        (aten.avg_pool1d.default, (2, 2, 7), ([2], [2], [1], True, True)),
        (aten.avg_pool3d.default, (2, 2, 3, 4, 3), ([2, 2, 3],)),
        (aten.avg_pool3d.default, (2, 2, 3, 4, 3), ([2, 2, 2], [2, 1, 2], [1, 0, 1], True, False, 3)),
        (aten.adaptive_avg_pool1d.default, (2, 2, 7), ([3],)),
        (aten.adaptive_avg_pool3d.default, (2, 2, 3, 4, 3), ([2, 3, 1],)),
        (aten.adaptive_avg_pool2d.default, (2, 2, 5, 4), ([1, 1],)),
        (aten.adaptive_avg_pool2d.default, (2, 2, 5, 4), ([2, 3],)),
        (aten.adaptive_avg_pool2d.default, (2, 2, 5, 4), ([5, 7],)),
        (aten.avg_pool1d.default, (2, 7), ([3], [2], [1])),
        (aten.avg_pool2d.default, (2, 5, 4), ([2], [1])),
        (aten.avg_pool3d.default, (2, 3, 4, 3), ([2],)),
        (aten.adaptive_avg_pool1d.default, (2, 7), ([3],)),
        (aten.adaptive_avg_pool2d.default, (2, 5, 4), ([2, 3],)),
        (aten.adaptive_avg_pool3d.default, (2, 3, 4, 3), ([2, 3, 1],)),
    ],
)
def test_average_pooling_in_other_dimensions_and_to_a_size(
    op: Any, shape: tuple[int, ...], arguments: tuple[Any, ...], positive: bool
) -> None:
    compare_with_formula(op, values(shape, positive), *arguments, nonnegative=positive)


POOLS = {
    1: (aten.max_pool1d.default, (2, 2, 6)),
    2: (aten.max_pool2d.default, (2, 2, 5, 6)),
    3: (aten.max_pool3d.default, (2, 1, 4, 4, 4)),
}


@pytest.mark.parametrize("dims", POOLS)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil_mode"),
    [(2, None, 0, 1, False), (3, 1, 1, 1, False), (2, 2, 1, 1, True), (2, 1, 0, 2, False)],
)
def test_max_pool(dims: int, kernel: int, stride: int | None, padding: int, dilation: int, ceil_mode: bool) -> None:
    """Without ties, what autograd returns."""
    op, shape = POOLS[dims]
    x = randn(*shape).requires_grad_()
    stride_argument = [] if stride is None else [stride] * dims
    args = (x, [kernel] * dims, stride_argument, [padding] * dims, [dilation] * dims, ceil_mode)
    z = op(*args)
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    applied = apply_rule(op, (x.detach(), *args[1:]), {}, slots(["self"]), relevance)
    for found, seed in zip(applied.values[0], relevance, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(z, x, seed, retain_graph=True)[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_max_pool_ties_go_to_the_first(layout: torch.memory_format) -> None:
    x = torch.zeros(2, 3, 4, 4, dtype=torch.float64).to(memory_format=layout)
    relevance = torch.rand(SEEDS, 2, 3, 2, 2, dtype=torch.float64)
    applied = apply_rule(aten.max_pool2d.default, (x, [2, 2]), {}, slots(["self"]), relevance)
    expected = torch.zeros(SEEDS, 2, 3, 4, 4, dtype=torch.float64)
    expected[..., ::2, ::2] = relevance
    torch.testing.assert_close(applied.values[0], expected)


@both_signs
@pytest.mark.parametrize("dims", POOLS)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil_mode"),
    [(2, None, 0, 1, False), (3, 1, 1, 1, False), (2, 2, 1, 1, True), (2, 1, 0, 2, False), (2, 3, 0, 1, False)],
)
def test_max_pool_shared_by_proportion(
    dims: int, kernel: int, stride: int | None, padding: int, dilation: int, ceil_mode: bool, positive: bool
) -> None:
    op, shape = POOLS[dims]
    x, steps = values(shape, positive), [] if stride is None else [stride] * dims
    window = ([kernel] * dims, steps, [padding] * dims, [dilation] * dims, ceil_mode)
    relevance = torch.rand(SEEDS, *op(x, *window).shape, dtype=torch.float64)
    # Which entries each window holds: those that decide its maximum when they alone are one.
    units = torch.eye(x.numel(), dtype=torch.float64).unflatten(1, shape)
    holds = torch.stack([op(unit, *window).flatten() for unit in units], 1)
    parts = holds * x.clamp(min=0).flatten()
    shares = parts / parts.sum(1, keepdim=True).clamp(min=1e-300)
    member = samples(shape, FRONT)
    raw = relevance.flatten(1) @ shares
    arrived = relevance.flatten(2).sum(2)
    expected = raw * (arrived / (raw @ member.T) @ member)
    rules = rule_registry.get("abslrp").derive({op: alternatives.max_pool})
    applied = apply_rule(op, (x, *window), {}, slots(["self"]), relevance, rules=rules)
    torch.testing.assert_close(applied.values[0].flatten(1), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["avg_pool", "adaptive_avg_pool", "max_pool", "adaptive_max_pool", "shared max_pool"])
@pytest.mark.parametrize("rules", ["abslrp", "epsilon"])
def test_pooling_of_samples_without_channels(rules: str, kind: str, axes: int) -> None:
    """torch takes (B, H, W) and one window for all axes too: the map is that of a single channel."""
    op = getattr(aten, f"{kind.removeprefix('shared ')}{axes}d").default
    chosen = rule_registry.get(rules)
    if kind.startswith("shared"):
        chosen = chosen.derive({op: alternatives.max_pool})
    arguments = [[2] * axes] if "adaptive" in kind else [[3], [2], [1]]
    x = signed(3, *(5,) * axes)
    output = op(x, *arguments)
    several = isinstance(output, tuple)
    relevance = torch.rand(SEEDS, *(output[0] if several else output).shape, dtype=torch.float64)

    def shared(x: Tensor, relevance: Tensor) -> Tensor:
        marks = (FRONT, None) if several else FRONT
        arrived = (relevance, None) if several else relevance
        return apply_rule(op, (x, *arguments), {}, slots(["self"]), arrived, rules=chosen, output_batch=marks).values[0]

    torch.testing.assert_close(shared(x, relevance), shared(x.unsqueeze(1), relevance.unsqueeze(2)).squeeze(2))
