"""Sums, means, deviations, extremes and products along axes against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import relprop
import rule_registry
from rule_registry import BatchAxis
from rule_registry.abslrp import alternatives
from tests.helpers.matrix_form import (
    FRONT,
    SEEDS,
    apply_rule,
    compare_with_formula,
    contributions,
    formula,
    samples,
    slots,
)
from tests.helpers.operations import both_signs, deltas, randn, signed, values

aten = torch.ops.aten


@both_signs
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dims", [[1], [-1], [1, 2], [-1, 1], [2, -1], [3, 1, 2]])
@pytest.mark.parametrize("op", [aten.mean.dim, aten.sum.dim_IntList], ids=["mean", "sum"])
def test_mean_and_sum(op: Any, dims: list[int], keepdim: bool, positive: bool) -> None:
    compare_with_formula(op, values((2, 3, 2, 4), positive), dims, keepdim, nonnegative=positive)


@pytest.mark.parametrize("op", [aten.mean.dim, aten.sum.dim_IntList], ids=["mean", "sum"])
def test_mean_and_sum_in_front_of_the_batch(op: Any) -> None:
    mark = (BatchAxis(1),)
    compare_with_formula(op, signed(4, 3, 5), [0], input_batch=mark, output_batch=FRONT)
    compare_with_formula(op, signed(4, 3, 5), [0], True, input_batch=mark, output_batch=BatchAxis(1))


@both_signs
@pytest.mark.parametrize("dim", [1, -1])
def test_running_sum(dim: int, positive: bool) -> None:
    compare_with_formula(aten.cumsum.default, values((2, 3, 4), positive), dim, nonnegative=positive)


STATISTICS: dict[str, tuple[Any, ...]] = {
    "variance": (aten.var.dim, [1]),
    "variance, biased": (aten.var.dim, [-1, 1], False, True),
    "variance, corrected": (aten.var.correction, [2], {"correction": 2, "keepdim": True}),
    "variance, corrected by default": (aten.var.correction, [1], {}),
    "deviation": (aten.std.dim, [1]),
    "deviation, biased": (aten.std.dim, [1, 2], False),
    "deviation, corrected": (aten.std.correction, [-1], {"correction": 0}),
    "length": (aten.linalg_vector_norm.default, 2, [1]),
    "length of all axes but the first": (aten.linalg_vector_norm.default, 2, [1, 2], True),
    "sum of magnitudes": (aten.linalg_vector_norm.default, 1, [-1]),
    "length in another norm": (aten.linalg_vector_norm.default, 2.5, [2], True),
}


@both_signs
@pytest.mark.parametrize("case", STATISTICS.values(), ids=STATISTICS.keys())
def test_variance_deviation_and_length(case: tuple[Any, ...], positive: bool) -> None:
    """As an output of its own, not inside a norm: contributions ``x_i dz/dx_i`` as of anything differentiable."""
    op, *arguments = case
    kwargs = arguments.pop() if isinstance(arguments[-1], dict) else {}
    compare_with_formula(op, values((2, 3, 4), positive) + 0.1, *arguments, nonnegative=positive, **kwargs)


def test_deviation_of_equal_entries_hands_nothing_on() -> None:
    relevance = torch.ones(1, 2, dtype=torch.float64)
    applied = apply_rule(aten.std.dim, (torch.ones(2, 3).double(), [1]), {}, slots(["self"]), relevance)
    assert not applied.values[0].any()
    torch.testing.assert_close(applied.lost, relevance)


def test_length_of_nothing_hands_nothing_on_and_of_the_largest_is_refused() -> None:
    relevance, zeros, where = torch.ones(1, 2, dtype=torch.float64), torch.zeros(2, 3).double(), slots(["self"])
    applied = apply_rule(aten.linalg_vector_norm.default, (zeros, 2, [1]), {}, where, relevance)
    assert not applied.values[0].any()
    torch.testing.assert_close(applied.lost, relevance)
    with pytest.raises(relprop.RuleError, match="ord=inf: its rule is for positive finite ones"):
        apply_rule(aten.linalg_vector_norm.default, (zeros, float("inf"), [1]), {}, where, relevance)


SIMILARITIES: dict[str, tuple[Any, ...]] = {
    # both vectors, which of them are activations, along which axis
    "two activations": ((3, 4), (3, 4), ["x1", "x2"], 1),
    "a constant for all": ((3, 4), (1, 4), ["x1"], -1),
    "a constant in front": ((4,), (3, 4), ["x2"], 1),
    "pixels": ((2, 4, 3), (2, 4, 3), ["x1", "x2"], 1),
    "one for every pixel": ((2, 4, 3), (2, 4, 1), ["x1", "x2"], -2),
}


@deltas
@pytest.mark.parametrize("case", SIMILARITIES.values(), ids=SIMILARITIES.keys())
def test_cosine_similarity(case: tuple[Any, ...], delta: float) -> None:
    """A product of two vectors over their lengths, which are held as the deviation of a norm is."""
    left, right, active, dim = case
    a, b = signed(*left), signed(*right)
    axis = dim % max(a.ndim, b.ndim) - max(a.ndim, b.ndim)
    lengths = a.square().sum(axis).sqrt() * b.square().sum(axis).sqrt()

    def held(*changed: Tensor) -> Tensor:
        vectors = {"x1": a, "x2": b, **dict(zip(active, changed, strict=True))}
        return (vectors["x1"] * vectors["x2"]).sum(axis) / lengths

    torch.testing.assert_close(held(*({"x1": a, "x2": b}[name] for name in active)), F.cosine_similarity(a, b, dim))
    compare_with_formula(aten.cosine_similarity.default, a, b, dim, active=active, held=held, delta=delta)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dims", [[1], [-1], [1, 2], [3, 1]])
def test_amax_ties_go_to_the_first(dims: list[int], keepdim: bool) -> None:
    x = torch.ones(2, 2, 3, 2, dtype=torch.float64)
    z = aten.amax.default(x, dims, keepdim)
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    applied = apply_rule(aten.amax.default, (x, dims, keepdim), {}, slots(["self"]), relevance)
    expected = torch.zeros(SEEDS, *x.shape, dtype=torch.float64)
    first = [0 if d in [k % 4 for k in dims] else slice(None) for d in range(4)]
    expected[(slice(None), *first)] = relevance if not keepdim else relevance.reshape(SEEDS, *z.squeeze(dims).shape)
    torch.testing.assert_close(applied.values[0], expected)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (aten.amax.default, ([-1],)),
        (aten.amax.default, ([1, 2], True)),
        (aten.adaptive_max_pool1d.default, ([2],)),
        (aten.adaptive_max_pool2d.default, ([2, 2],)),
        (aten.adaptive_max_pool3d.default, ([2, 1, 3],)),
        (aten.max.dim, (-1,)),
        (aten.max.dim, (1, True)),
        (aten.topk.default, (2, -1)),
        (aten.topk.default, (2, 1, False)),
        (aten.amin.default, ([1, 2], True)),
        (aten.min.dim, (1,)),
        (aten.median.dim, (-1, True)),
        (aten.nanmedian.dim, (2,)),
        (aten.mode.default, (1,)),
        (aten.kthvalue.default, (2, 1)),
        (aten.sort.default, (-1, True)),
        (aten.cummax.default, (1,)),
        (aten.cummin.default, (2,)),
        (aten.max_pool2d_with_indices.default, ([2, 2], [1, 2], [1, 0])),
        (aten.max_pool3d_with_indices.default, ([2, 1, 2],)),
    ],
)
def test_selection(op: Any, args: tuple[Any, ...]) -> None:
    """Without ties, what autograd returns."""
    shape = (2, 12, 5) if op == aten.adaptive_max_pool1d.default else (2, 3, 4, 5)
    x = randn(*shape).requires_grad_()
    output = op(x, *args)
    several = isinstance(output, tuple)
    z = output[0] if several else output
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    applied = apply_rule(
        op,
        (x.detach(), *args),
        {},
        slots(["self"]),
        (relevance, None) if several else relevance,
        output_batch=(FRONT, None) if several else FRONT,
    )
    for found, seed in zip(applied.values[0], relevance, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(z, x, seed, retain_graph=True)[0])


def test_a_sort_that_is_stable() -> None:
    x = randn(2, 4, 3)
    relevance = torch.rand(SEEDS, 2, 4, 3, dtype=torch.float64)
    kwargs = {"stable": True, "dim": 1}
    applied = apply_rule(aten.sort.stable, (x,), kwargs, slots(["self"]), (relevance, None), output_batch=(FRONT, None))
    order = aten.sort.stable(x, **kwargs)[1]
    torch.testing.assert_close(applied.values[0].gather(2, order.expand(SEEDS, -1, -1, -1)), relevance)


@pytest.mark.parametrize("rules", ["abslrp", "epsilon"])
@pytest.mark.parametrize(("dims", "keepdim"), [([1], False), ([-1], True), ([1, 2], False)])
def test_smooth_maximum_is_its_parts(dims: list[int], keepdim: bool, rules: str) -> None:
    """``log(sum(exp(x)))``: the outer functions pass, the sum shares in proportion."""
    x = randn(2, 3, 4)
    z = aten.logsumexp.default(x, dims, keepdim)
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    found = apply_rule(aten.logsumexp.default, (x, dims, keepdim), {}, slots(["self"]), relevance, rules=rules)
    parameters = {"delta": 0.0} if rules == "abslrp" else {"stabilizer": 0.0}
    parts = (aten.sum.dim_IntList, (x.exp(), dims, keepdim), {}, slots(["self"]), relevance)
    expected = apply_rule(*parts, rules=rules, **parameters)
    torch.testing.assert_close(found.values[0], expected.values[0], rtol=1e-7, atol=1e-9)


def test_smooth_maximum_of_what_is_masked() -> None:
    x = torch.tensor([[1.0, -torch.inf], [-torch.inf, -torch.inf]], dtype=torch.float64)
    relevance = torch.ones(SEEDS, 2, dtype=torch.float64)
    found = apply_rule(aten.logsumexp.default, (x, [1]), {}, slots(["self"]), relevance)
    torch.testing.assert_close(found.values[0][0], torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(found.lost[0], torch.tensor([0.0, 1.0], dtype=torch.float64))


@deltas
@pytest.mark.parametrize("args", [(1, False), (-1, True)])
def test_product_along_an_axis(args: tuple[Any, ...], delta: float) -> None:
    compare_with_formula(aten.prod.dim_int, randn(2, 3, 4), *args, delta=delta)


@deltas
@pytest.mark.parametrize("dim", [1, -1])
def test_running_product(dim: int, delta: float) -> None:
    compare_with_formula(aten.cumprod.default, randn(2, 3, 4), dim, delta=delta)


@pytest.mark.parametrize("op", [aten.prod.dim_int, aten.cumprod.default], ids=str)
def test_factors_share_alike_under_epsilon(op: Any) -> None:
    x = randn(2, 3, 4)
    z = op(x, 1)
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    found = apply_rule(op, (x, 1), {}, slots(["self"]), relevance, rules="epsilon", stabilizer=0.0).values[0]
    if op == aten.prod.dim_int:
        expected = (relevance / 3).unsqueeze(2).expand(SEEDS, 2, 3, 4)
    else:
        whole, half, third = relevance.unbind(2)
        expected = torch.stack([whole + half / 2 + third / 3, half / 2 + third / 3, third / 3], 2)
    torch.testing.assert_close(found, expected)


@deltas
@pytest.mark.parametrize(("shape", "dim"), [((3, 5), -1), ((2, 2, 4, 4), 3), ((2, 3, 4), 1)])
def test_softmax_by_first_order_expansion(shape: tuple[int, ...], dim: int, delta: float) -> None:
    x = signed(*shape)
    z = x.softmax(dim)
    relevance = torch.rand(SEEDS, *shape, dtype=torch.float64)
    rules = rule_registry.get("abslrp", delta=delta).derive({aten.softmax.int: alternatives.softmax})
    applied = apply_rule(aten.softmax.int, (x, dim), {}, slots(["self"]), relevance, rules=rules)
    parts, samples_ = contributions(lambda x: x.softmax(dim), [x]), samples(shape, FRONT)
    (expected,), mass, every = formula(parts, z.flatten(), relevance.flatten(1), delta, [samples_], samples_)
    torch.testing.assert_close(applied.values[0], expected.reshape(SEEDS, *shape), rtol=1e-9, atol=1e-11)
    assert applied.record is not None
    torch.testing.assert_close(applied.record[1:3], torch.stack([mass, every]))


def test_softmax_by_first_order_expansion_under_a_mask() -> None:
    rules = rule_registry.get("abslrp").derive({aten.softmax.int: alternatives.softmax})
    x, relevance = randn(2, 5), torch.rand(SEEDS, 2, 4, dtype=torch.float64)
    x[:, 4] = -torch.inf
    padded = F.pad(relevance, (0, 1))
    with_mask = apply_rule(aten.softmax.int, (x, -1), {}, slots(["self"]), padded, rules=rules).values[0]
    assert with_mask.isfinite().all()
    assert not with_mask[..., 4].any()
    rules = rule_registry.get("abslrp", delta=0.0).derive({aten.softmax.int: alternatives.softmax})
    with_mask = apply_rule(aten.softmax.int, (x, -1), {}, slots(["self"]), padded, rules=rules).values[0]
    without = apply_rule(aten.softmax.int, (x[:, :4], -1), {}, slots(["self"]), relevance, rules=rules).values[0]
    torch.testing.assert_close(with_mask[..., :4], without)
