"""The mass of each sample: what is stabilised and what is lost, wherever the samples lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rule_registry import BatchAxis
from tests.helpers.matrix_form import (
    FRONT,
    SEEDS,
    apply_rule,
    compare_with_formula,
    sample_of_each,
    slots,
)
from tests.helpers.operations import deltas, randn

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("shape", "mark"),
    [
        ((8, 3, 5), BatchAxis(0, 4)),
        ((2, 6, 5), BatchAxis(1, 3)),
        ((4, 2, 5), BatchAxis(1)),
        ((3, 4, 2, 5), BatchAxis(2)),
        ((6, 3, 5), BatchAxis(0, 1, 3)),
        ((2, 12, 5), BatchAxis(1, 2, 3)),
    ],
    ids=str,
)
def test_stabiliser_and_mass_per_sample(shape: tuple[int, ...], mark: BatchAxis) -> None:
    """Samples of very different magnitude, wherever the batch lies and whatever it is merged with."""
    x = randn(*shape)
    entries = sample_of_each(shape[mark.axis], mark)
    scale = torch.logspace(-2, 2, int(entries.max()) + 1, dtype=torch.float64)[entries]
    x *= scale.reshape(-1, *(1,) * (len(shape) - mark.axis - 1))
    marks: dict[str, Any] = {"input_batch": [mark], "output_batch": mark}
    two: dict[str, Any] = {**marks, "active": ["self", "other"], "input_batch": [mark, mark]}
    compare_with_formula(aten.linear.default, x, randn(3, 5), randn(3), **marks)
    compare_with_formula(aten.mul.Tensor, x, randn(5), **marks)
    compare_with_formula(aten.add.Tensor, x, randn(5), **marks)
    compare_with_formula(aten.add.Tensor, x, x.flip(-1), **two)
    compare_with_formula(aten.mul.Tensor, x, x.flip(-1), **two)
    compare_with_formula(aten.mean.dim, x, [-1], True, **marks)
    if mark.axis < x.ndim - 2:
        compare_with_formula(aten.matmul.default, x, x.transpose(-1, -2).contiguous(), **two)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    x, weight = randn(3, 5), randn(4, 5)
    relevance = torch.rand(SEEDS, 3, 4, dtype=torch.float64)
    whole = apply_rule(aten.linear.default, (x, weight), {}, slots(["input"]), relevance).values[0]
    for k in range(3):
        args = (x[k : k + 1], weight)
        alone = apply_rule(aten.linear.default, args, {}, slots(["input"]), relevance[:, k : k + 1]).values[0]
        torch.testing.assert_close(alone, whole[:, k : k + 1])


LOSING: dict[str, tuple[Any, ...]] = {
    "linear": (aten.linear.default, (torch.ones(2, 3), -torch.ones(4, 3)), ["input"]),
    "conv2d": (aten.conv2d.default, (torch.ones(2, 1, 3, 3), -torch.ones(1, 1, 2, 2)), ["input"]),
    "matmul": (aten.matmul.default, (torch.ones(2, 3, 2), -torch.ones(2, 2, 3)), ["self", "other"]),
    "mul": (aten.mul.Tensor, (torch.ones(2, 3), -torch.ones(2, 3)), ["self", "other"]),
    "div": (aten.div.Tensor, (torch.ones(2, 3), -torch.ones(3)), ["self"]),
    "add": (aten.add.Tensor, (-torch.ones(2, 3), -torch.ones(2, 3)), ["self", "other"]),
    "constant minus": (aten.rsub.Scalar, (torch.ones(2, 3), 5.0), ["self"]),
    "mean": (aten.mean.dim, (-torch.ones(2, 3), [1]), ["self"]),
    "zeros": (aten.linear.default, (torch.zeros(2, 3), torch.ones(4, 3)), ["input"]),
    "zero sum": (aten.add.Tensor, (torch.zeros(2, 3), torch.zeros(2, 3)), ["self", "other"]),
}


@deltas
@pytest.mark.parametrize("case", LOSING.values(), ids=LOSING.keys())
def test_lost_mass_is_counted(case: tuple[Any, ...], delta: float) -> None:
    op, args, active = case
    args = tuple(a.double() if isinstance(a, Tensor) else a for a in args)
    relevance = torch.rand(SEEDS, *op(*args).shape, dtype=torch.float64)
    applied = apply_rule(op, args, {}, slots(active), relevance, delta=delta, signed=False)
    assert all(torch.equal(value, torch.zeros_like(value)) for value in applied.values)
    torch.testing.assert_close(applied.lost, FRONT.sum(relevance))
    torch.testing.assert_close(applied.arrived, applied.lost)


@deltas
@pytest.mark.parametrize("case", [case for name, case in LOSING.items() if "zero" not in name])
def test_nothing_is_lost_where_contributions_are_negative_as_the_output_is(case: tuple[Any, ...], delta: float) -> None:
    """But for a constant minus an activation below it, which speaks against a positive output."""
    op, args, active = case
    args = tuple(a.double() if isinstance(a, Tensor) else a for a in args)
    relevance = torch.rand(SEEDS, *op(*args).shape, dtype=torch.float64)
    applied = apply_rule(op, args, {}, slots(active), relevance, delta=delta)
    assert bool(applied.lost.any()) is (op == aten.rsub.Scalar)


def test_mass_is_lost_for_one_sample_alone() -> None:
    x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    relevance = torch.ones(1, 2, 1, dtype=torch.float64)
    weight = torch.ones(1, 2, dtype=torch.float64)
    applied = apply_rule(aten.linear.default, (x, weight), {}, slots(["input"]), relevance, signed=False)
    torch.testing.assert_close(applied.values[0].sum(-1), torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(applied.lost, torch.tensor([[0.0, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize(("part", "lost"), [(2e-6, False), (5e-7, True)])
def test_threshold_of_loss(part: float, lost: bool) -> None:
    """Below 1e-6 of all contributions, positive and negative ones, the mass counts as lost."""
    x = torch.ones(1, 2, dtype=torch.float64)
    weight = torch.tensor([[part, -1.0]], dtype=torch.float64)
    relevance = torch.ones(1, 1, 1, dtype=torch.float64)
    applied = apply_rule(aten.linear.default, (x, weight), {}, slots(["input"]), relevance, signed=False)
    assert bool(applied.lost.any()) is lost
    assert float(applied.values[0].sum() + applied.lost.sum()) == pytest.approx(1)
