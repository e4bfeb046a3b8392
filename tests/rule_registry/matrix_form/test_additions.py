"""Sums of tensors, and sums at an index, against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import rule_registry
from relprop.errors import RuleError
from rule_registry.lrp import residuals
from tests.helpers.matrix_form import (
    FRONT,
    SEEDS,
    apply_rule,
    bind,
    compare_with_formula,
    contributions,
    function_of,
    slots,
)
from tests.helpers.operations import both_signs, deltas, randn, signed, values

aten = torch.ops.aten


@both_signs
@pytest.mark.parametrize(
    "windows",
    [([2, 2], [1, 1], [0, 0], [1, 1]), ([3, 2], [1, 2], [1, 0], [2, 1]), ([2, 2], [1, 1], [0, 0], [2, 2])],
    ids=["overlapping", "padded", "apart"],
)
def test_sum_of_patches(windows: tuple[list[int], ...], positive: bool) -> None:
    count = F.unfold(randn(1, 2, 4, 4), *windows).shape[-1]
    x = values((2, 2 * windows[0][0] * windows[0][1], count), positive)
    compare_with_formula(aten.col2im.default, x, [4, 4], *windows, nonnegative=positive)


@deltas
@pytest.mark.parametrize("alpha", [1, 0.5, -2])
@pytest.mark.parametrize("op", [aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor], ids=["add", "sub", "rsub"])
@pytest.mark.parametrize(("left", "right"), [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (2, 1, 4)), ((2, 1, 1), (2, 3, 4))])
def test_sum_of_activations(op: Any, left: tuple[int, ...], right: tuple[int, ...], alpha: float, delta: float) -> None:
    compare_with_formula(op, randn(*left), randn(*right), active=["self", "other"], alpha=alpha, delta=delta)


@pytest.mark.parametrize("alpha", [1, 2.5])
@pytest.mark.parametrize("name", ["self", "other"])
@pytest.mark.parametrize("op", [aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor], ids=["add", "sub", "rsub"])
def test_sum_with_a_constant(op: Any, name: str, alpha: float) -> None:
    terms = {"self": randn(3, 4), "other": randn(3, 4)}
    terms[name] = signed(2, 3, 4)
    compare_with_formula(op, *terms.values(), active=[name], alpha=alpha)


@pytest.mark.parametrize("number", [1.5, -2])
@pytest.mark.parametrize("op", [aten.add.Scalar, aten.sub.Scalar, aten.rsub.Scalar], ids=["add", "sub", "rsub"])
def test_sum_with_a_number(op: Any, number: float) -> None:
    compare_with_formula(op, signed(2, 5), number)
    compare_with_formula(op, signed(2, 5), number, 3)


@pytest.mark.parametrize("number", [1.5, -2])
@pytest.mark.parametrize("op", [aten.add.Tensor, aten.sub.Tensor], ids=["add", "sub"])
def test_sum_with_a_number_as_a_tensor_argument(op: Any, number: float) -> None:
    compare_with_formula(op, signed(2, 5), number)


def test_constant_minus_activation_by_hand() -> None:
    """By the letter ``c - x`` hands on to the negative entries of x alone, else also to a positive one above c."""
    x = torch.tensor([[2.0, -1.0, -3.0]], dtype=torch.float64)
    relevance = torch.ones(1, 1, 3, dtype=torch.float64)
    for first, signed_ in ((0.0, False), (2.0, True)):
        applied = apply_rule(aten.rsub.Scalar, (x, 1.0), {}, slots(["self"]), relevance, delta=0.0, signed=signed_)
        raw = torch.tensor([[first, 1 / 2, 3 / 4]], dtype=torch.float64)
        torch.testing.assert_close(applied.values[0][0], 3 * raw / raw.sum())


def test_masked_logits_stay_out_of_the_stabiliser() -> None:
    """An additive mask of -inf, or of the most negative number, changes nothing for the entries it leaves."""
    x, relevance = randn(2, 4), torch.rand(SEEDS, 2, 4, dtype=torch.float64)
    x[:, 0], relevance[..., 3] = 1, 0
    open_ = torch.zeros(2, 4, dtype=torch.float64)
    found = []
    for masked in (-torch.inf, torch.finfo(torch.float64).min):
        mask = open_.clone()
        mask[:, 3] = masked
        applied = apply_rule(aten.add.Tensor, (x, mask), {}, slots(["self"]), relevance)
        assert applied.values[0].isfinite().all()
        assert not applied.lost.any()
        found.append(applied.values[0])
    left = apply_rule(aten.add.Tensor, (x[:, :3], open_[:, :3]), {}, slots(["self"]), relevance[..., :3])
    for value in found:
        torch.testing.assert_close(value[..., :3], left.values[0])
        assert not value[..., 3].any()


def test_activation_that_is_masked_already() -> None:
    """A position bias added to logits in which -inf was filled in before: no NaN."""
    x, relevance = randn(2, 4), torch.rand(SEEDS, 2, 4, dtype=torch.float64)
    x[:, 0], x[:, 3], relevance[..., 3] = 1, -torch.inf, 0
    for op, args in ((aten.add.Tensor, (x, randn(4))), (aten.mul.Tensor, (x, randn(4).abs()))):
        applied = apply_rule(op, args, {}, slots(["self"]), relevance)
        assert applied.values[0].isfinite().all()
        torch.testing.assert_close(applied.values[0].sum(-1), relevance.sum(-1))


INDEX = torch.tensor([[[0, 2, 0], [1, 2, 0]], [[2, 1, 1], [2, 0, 1]]])


ADDITIONS: dict[str, tuple[Any, ...]] = {
    # operation, arguments but what is added, what that is called, its shape, keywords
    "scatter": (aten.scatter_add.default, (1, INDEX), "src", (2, 2, 3), {}),
    "scatter, narrow": (aten.scatter_add.default, (-2, INDEX[:, :, :2]), "src", (2, 2, 2), {}),
    "index": (aten.index_add.default, (1, torch.tensor([2, 0, 2, 2])), "source", (2, 4, 3), {}),
    "index, less": (aten.index_add.default, (1, torch.tensor([2, 0])), "source", (2, 2, 3), {"alpha": -0.5}),
    "put": (aten.index_put.default, ([None, torch.tensor([2, 2])],), "values", (2, 2, 3), {"accumulate": True}),
    "put, stretched": (
        aten.index_put.default,
        ([None, torch.tensor([2, 0])],),
        "values",
        (2, 1, 3),
        {"accumulate": True},
    ),
    "sum": (aten.scatter_reduce.two, (1, INDEX), "src", (2, 2, 3), {"reduce": "sum"}),
    "mean": (aten.scatter_reduce.two, (1, INDEX), "src", (2, 2, 3), {"reduce": "mean"}),
    "mean, alone": (aten.scatter_reduce.two, (1, INDEX), "src", (2, 2, 3), {"reduce": "mean", "include_self": False}),
    "sum, alone": (aten.scatter_reduce.two, (1, INDEX), "src", (2, 2, 3), {"reduce": "sum", "include_self": False}),
}


@pytest.mark.parametrize("which", ["both", "before", "added"])
@pytest.mark.parametrize("case", ADDITIONS.values(), ids=ADDITIONS.keys())
def test_sums_at_an_index(case: tuple[Any, ...], which: str) -> None:
    op, where, name, shape, kwargs = case
    x, added = signed(2, 3, 3), signed(*shape)
    active = {"both": ["self", name], "before": ["self"], "added": [name]}[which]
    compare_with_formula(op, x, *where, added, active=active, **kwargs)


@pytest.mark.parametrize("case", ADDITIONS.values(), ids=ADDITIONS.keys())
def test_sums_at_an_index_under_epsilon(case: tuple[Any, ...]) -> None:
    """In proportion to contributions: ``x_i dz_j/dx_i R_j / z_j``."""
    op, where, name, shape, kwargs = case
    x, added = randn(2, 3, 3), randn(*shape)
    args, active = (x, *where, added), slots(["self", name])
    z = op(*args, **kwargs)
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    arguments = bind(op, args, kwargs)
    parts = contributions(function_of(op, arguments, active), [x, added])
    found = apply_rule(op, args, kwargs, active, relevance, rules="epsilon", stabilizer=0.0).values
    for value, part in zip(found, parts, strict=True):
        torch.testing.assert_close(value.flatten(1), (relevance / z).flatten(1) @ part)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("reduce", ["amax", "amin"])
def test_extremes_at_an_index(reduce: str, include_self: bool) -> None:
    """Without ties what autograd returns; a constant's share goes to the activation."""
    x, added = randn(2, 3, 3).requires_grad_(), randn(2, 2, 3).requires_grad_()
    kwargs = {"reduce": reduce, "include_self": include_self}
    z = aten.scatter_reduce.two(x, 1, INDEX, added, **kwargs)
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    args = (x.detach(), 1, INDEX, added.detach())
    found = apply_rule(aten.scatter_reduce.two, args, kwargs, slots(["self", "src"]), relevance).values
    for k, seed in enumerate(relevance):
        for value, expected in zip(found, torch.autograd.grad(z, (x, added), seed, retain_graph=True), strict=True):
            torch.testing.assert_close(value[k], expected)
    alone = apply_rule(aten.scatter_reduce.two, args, kwargs, slots(["src"]), relevance)
    torch.testing.assert_close(FRONT.sum(alone.values[0]) + alone.lost, FRONT.sum(relevance))


def test_another_reduction_is_refused() -> None:
    args, kwargs = (randn(2, 3, 3), 1, INDEX, randn(2, 2, 3)), {"reduce": "prod"}
    with pytest.raises(RuleError, match="reduce='prod'"):
        apply_rule(aten.scatter_reduce.two, args, kwargs, slots(["src"]), torch.rand(SEEDS, 2, 3, 3).double())


@pytest.mark.parametrize("alpha", [1, -2])
@pytest.mark.parametrize(("left", "right"), [((2, 3, 4), (2, 3, 4)), ((2, 1, 4), (2, 3, 1))])
@pytest.mark.parametrize("rule", [residuals.by_magnitude, residuals.by_positive_part, residuals.in_halves])
def test_terms_of_a_sum_share(rule: Any, left: tuple[int, ...], right: tuple[int, ...], alpha: float) -> None:
    a, b = signed(*left), randn(*right)
    spread_a, spread_b = (
        torch.autograd.functional.jacobian(lambda t: t.expand(2, 3, 4), t).reshape(24, -1) for t in (a, b)
    )
    terms = spread_a @ a.flatten(), alpha * (spread_b @ b.flatten())
    weights = {
        residuals.by_magnitude: [term.abs() for term in terms],
        residuals.by_positive_part: [term * (term > 0) for term in terms],
        residuals.in_halves: [torch.ones(24, dtype=torch.float64)] * 2,
    }[rule]
    r = torch.rand(SEEDS, 24, dtype=torch.float64)
    fractions = [weight / (weights[0] + weights[1] + 1e-12) for weight in weights]
    rules = rule_registry.get("epsilon", stabilizer=1e-12).derive({aten.add.Tensor: rule})
    where = slots(["self", "other"])
    applied = apply_rule(aten.add.Tensor, (a, b), {"alpha": alpha}, where, r.reshape(SEEDS, 2, 3, 4), rules=rules)
    for value, fraction, spread in zip(applied.values, fractions, (spread_a, spread_b), strict=True):
        torch.testing.assert_close(value.flatten(1), r * fraction @ spread)


@pytest.mark.parametrize("rule", [residuals.by_magnitude, residuals.by_positive_part, residuals.in_halves])
def test_terms_of_a_sum_share_all_that_arrived(rule: Any) -> None:
    rules = rule_registry.get("abslrp").derive({aten.add.Tensor: rule})
    r = torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    two = apply_rule(aten.add.Tensor, (randn(2, 3), randn(2, 3)), {}, slots(["self", "other"]), r, rules=rules)
    torch.testing.assert_close(sum(value.sum(2) for value in two.values), r.sum(2))
    one = apply_rule(aten.add.Tensor, (randn(2, 3).abs(), randn(2, 3)), {}, slots(["self"]), r, rules=rules)
    torch.testing.assert_close(one.values[0], r, rtol=1e-4, atol=1e-6)  # a constant receives nothing
