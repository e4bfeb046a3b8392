"""Products and quotients with constants and functions of two entries against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from rule_registry import BatchAxis
from tests.helpers.matrix_form import (
    FRONT,
    SEEDS,
    apply_rule,
    compare_with_formula,
    slots,
)
from tests.helpers.models import Lambda
from tests.helpers.operations import both_signs, deltas, randn, signed, values

aten = torch.ops.aten


@both_signs
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 1), (4,), (1, 3, 4)])
@pytest.mark.parametrize("op", [aten.mul.Tensor, aten.div.Tensor], ids=["mul", "div"])
def test_constant_per_element(op: Any, shape: tuple[int, ...], positive: bool) -> None:
    compare_with_formula(op, values((2, 3, 4), positive), randn(*shape), nonnegative=positive)


def test_constant_in_front() -> None:
    compare_with_formula(aten.mul.Tensor, randn(3, 1), signed(2, 3, 4), active=["other"])
    compare_with_formula(aten.mul.Tensor, randn(3, 4), signed(2, 1, 4), active=["other"])


def test_activation_that_a_constant_broadcasts() -> None:
    compare_with_formula(aten.mul.Tensor, signed(2, 1, 4), randn(3, 1))
    compare_with_formula(aten.div.Tensor, signed(2, 1, 4), randn(3, 4))
    compare_with_formula(aten.add.Tensor, signed(2, 1, 4), randn(3, 4))


def test_constant_over_activation() -> None:
    compare_with_formula(aten.div.Tensor, randn(3, 4), randn(2, 3, 4), active=["other"])


@pytest.mark.parametrize("scalar", [3.0, 0.25, -2.0, -1, torch.tensor(-0.5), torch.full((1, 1), -3.0)])
@pytest.mark.parametrize("op", [aten.mul.Tensor, aten.div.Tensor], ids=["mul", "div"])
def test_scalars_of_any_sign_are_inert(op: Any, scalar: Any) -> None:
    x, relevance = signed(2, 3), torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    applied = apply_rule(op, (x, scalar), {}, slots(["self"]), relevance)
    assert torch.equal(applied.values[0], relevance)


@pytest.mark.parametrize("rules", ["abslrp", "epsilon"])
@pytest.mark.parametrize("op", [aten.mul.Tensor, aten.div.Tensor], ids=["mul", "div"])
def test_a_number_of_each_sample_is_a_scalar(op: Any, rules: str) -> None:
    """Else maps of one sample, where it is a single number, are others than those of a batch."""
    x, relevance = signed(2, 2, 4), torch.rand(SEEDS, 2, 2, 4, dtype=torch.float64)
    for shape, mark in (((2, 1, 1), FRONT), ((2, 1), BatchAxis(1))):
        where = {"input_batch": [mark], "output_batch": mark}
        applied = apply_rule(op, (x, randn(*shape)), {}, slots(["self"]), relevance, rules=rules, **where)
        assert torch.equal(applied.values[0], relevance)


def test_a_number_of_each_window_is_none() -> None:
    mark = BatchAxis(0, 3)
    compare_with_formula(aten.mul.Tensor, signed(6, 4), randn(6, 1), input_batch=[mark], output_batch=mark)


def test_maps_do_not_depend_on_the_batch_where_a_constant_has_a_number_of_each_sample() -> None:
    def forward(m: Lambda, x: Tensor) -> Tensor:
        return m.head(m.stem(x) * m.gate(x).sigmoid())

    model = Lambda(forward, stem=nn.Linear(6, 6), gate=nn.Linear(6, 1), head=nn.Linear(6, 3)).eval()
    x = torch.randn(2, 6)
    for rules in ("abslrp", "epsilon"):
        one, two = (relprop.explain(model, x, at="stem", rules=rules, batch_size=n).relevance for n in (1, 2))
        torch.testing.assert_close(one, two)


def test_scalar_in_front_is_inert() -> None:
    x, relevance = signed(2, 3), torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    for scalar in (torch.tensor(-2.0), torch.tensor([4.0])):
        applied = apply_rule(aten.mul.Tensor, (scalar, x), {}, slots(["other"]), relevance)
        assert torch.equal(applied.values[0], relevance)


def test_scalar_with_more_axes_than_the_activation() -> None:
    x, relevance = signed(2, 3), torch.rand(SEEDS, 1, 2, 3, dtype=torch.float64)
    scalar = torch.full((1, 1, 1), -2.0)
    applied = apply_rule(aten.mul.Tensor, (x, scalar), {}, slots(["self"]), relevance, output_batch=BatchAxis(1))
    assert torch.equal(applied.values[0], relevance[:, 0])


def test_scalar_over_activation_is_the_reciprocal() -> None:
    """``1 / x`` is written ``reciprocal`` by Python and ``div`` by a tensor of one entry: the same relevance."""
    x, relevance = signed(2, 3).abs() + 0.1, torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    spelled = apply_rule(aten.div.Tensor, (torch.tensor(2.0), x), {}, slots(["other"]), relevance)
    reciprocal = apply_rule(aten.reciprocal.default, (x,), {}, slots(["self"]), relevance)
    assert torch.equal(spelled.values[0], reciprocal.values[0])


def test_negation_is_inert() -> None:
    relevance = torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    applied = apply_rule(aten.neg.default, (signed(2, 3),), {}, slots(["self"]), relevance)
    assert torch.equal(applied.values[0], relevance)


@pytest.mark.parametrize("op", [aten.maximum.default, aten.minimum.default], ids=["maximum", "minimum"])
@pytest.mark.parametrize("right", [(2, 3, 4), (2, 1, 4)])
def test_larger_and_smaller_of_two(op: Any, right: tuple[int, ...]) -> None:
    """Without ties what autograd returns; a tie goes to the first, what a constant wins to the activation."""
    a, b = randn(2, 3, 4).requires_grad_(), randn(*right).requires_grad_()
    z = op(a, b)
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    where: Any = (op, (a.detach(), b.detach()), {})
    both = apply_rule(*where, slots(["self", "other"]), relevance).values
    for k, seed in enumerate(relevance):
        for found, expected in zip(both, torch.autograd.grad(z, (a, b), seed, retain_graph=True), strict=True):
            torch.testing.assert_close(found[k], expected)
    alone = apply_rule(*where, slots(["self"]), relevance)
    torch.testing.assert_close(FRONT.sum(alone.values[0]), FRONT.sum(relevance))
    factor = FRONT.sum(relevance) / FRONT.sum(both[0])
    torch.testing.assert_close(alone.values[0], both[0] * FRONT.spread(factor, 3))
    tied = apply_rule(op, (a.detach(), a.detach()), {}, slots(["self", "other"]), relevance).values
    assert torch.equal(tied[0], relevance)
    assert not tied[1].any()


def test_clamp_between_tensors_passes() -> None:
    relevance = torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    args = (randn(2, 3), torch.zeros(3).double(), torch.ones(3).double())
    assert apply_rule(aten.clamp.Tensor, args, {}, slots(["self"]), relevance).values[0] is relevance


PAIRS: dict[str, Any] = {
    "power": aten.pow.Tensor_Tensor,
    "angle": aten.atan2.default,
    "remainder": aten.remainder.Tensor,
    "remainder of C": aten.fmod.Tensor,
    "sign of the other": aten.copysign.Tensor,
}


@deltas
@pytest.mark.parametrize("op", PAIRS.values(), ids=PAIRS)
def test_functions_of_two_entries(op: Any, delta: float) -> None:
    a, b = randn(2, 3, 4).abs() + 0.1, randn(2, 1, 4)
    compare_with_formula(op, a, b, active=["self", op._schema.arguments[1].name], delta=delta)


@pytest.mark.parametrize("rules", ["abslrp", "epsilon"])
@pytest.mark.parametrize("op", PAIRS.values(), ids=PAIRS)
def test_functions_of_one_entry_and_a_constant_pass(op: Any, rules: str) -> None:
    a, b = randn(2, 3).abs() + 0.1, randn(3)
    relevance = torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    second = op._schema.arguments[1].name
    for args, active in (((a, b), "self"), ((b.abs(), a), second)):
        assert torch.equal(apply_rule(op, args, {}, slots([active]), relevance, rules=rules).values[0], relevance)
    both = apply_rule(op, (a, a), {}, slots(["self", second]), relevance, rules="epsilon").values
    assert torch.equal(both[0], relevance)
    assert not both[1].any()
