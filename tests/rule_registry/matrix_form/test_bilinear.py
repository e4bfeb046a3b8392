"""Products of activations against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rule_registry import BatchAxis
from tests.helpers.matrix_form import (
    FRONT,
    SEEDS,
    apply_rule,
    compare_with_formula,
    slots,
)
from tests.helpers.operations import PRODUCTS, both_signs, deltas, randn, signed, values

aten = torch.ops.aten


@both_signs
@deltas
@pytest.mark.parametrize("case", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_product_of_activations(case: tuple[Any, ...], positive: bool, delta: float) -> None:
    op, left, right, active = case
    a, b = values(left, positive), values(right, positive)
    compare_with_formula(op, a, b, active=active, nonnegative=positive, delta=delta)


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_attention_times_values(first: bool, second: bool) -> None:
    """One factor known to be non-negative (attention after its softmax), the other one not."""
    a, v = values((2, 2, 3, 3), first), values((2, 2, 3, 2), second)
    compare_with_formula(aten.matmul.default, a, v, active=["self", "other"], nonnegative=(first, second))


CONSTANT_FACTORS: dict[str, tuple[Any, ...]] = {
    # left, right, which is the activation, batch axis of the output
    "matrix right": ((2, 3, 4), (4, 2), "self"),
    "matrix left": ((3, 4), (2, 4, 2), "other"),
    "batch of vectors": ((2, 4), (4, 3), "self"),
    "vector right": ((2, 3, 4), (4,), "self"),
    "vector left": ((3,), (2, 3, 4), "other"),
    "constant with more axes": ((5, 1, 3, 4), (2, 4, 2), "other"),
}


@both_signs
@pytest.mark.parametrize("case", CONSTANT_FACTORS.values(), ids=CONSTANT_FACTORS.keys())
def test_product_with_a_constant(case: tuple[Any, ...], positive: bool) -> None:
    left, right, name = case
    factors = {"self": randn(*left), "other": randn(*right)}
    factors[name] = values(tuple(factors[name].shape), positive)
    mark = BatchAxis(1) if len(left) == 4 else FRONT
    compare_with_formula(aten.matmul.default, *factors.values(), active=[name], nonnegative=positive, output_batch=mark)


def test_mm_of_samples_with_a_constant() -> None:
    compare_with_formula(aten.mm.default, signed(3, 4), randn(4, 2))


@pytest.mark.parametrize("alpha", [1, 0.5, -2.0])
def test_product_with_a_constant_summand(alpha: float) -> None:
    compare_with_formula(
        aten.addmm.default, randn(4), signed(3, 5), randn(5, 4), active=["mat1"], beta=0.5, alpha=alpha
    )
    active = ["batch1", "batch2"]
    compare_with_formula(
        aten.baddbmm.default, randn(2, 3, 4), signed(2, 3, 2), signed(2, 2, 4), active=active, alpha=alpha
    )


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (2, 3, 1)), ((2, 3, 1, 1), (2, 3, 2, 3))]
)
def test_gate(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    compare_with_formula(aten.mul.Tensor, randn(*left), randn(*right), active=["self", "other"])


@pytest.mark.parametrize(("left", "right"), [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (2, 3, 1))])
def test_quotient_of_activations(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    compare_with_formula(aten.div.Tensor, randn(*left), randn(*right), active=["self", "other"])


def test_quotient_by_hand() -> None:
    """The numerator enlarges a quotient of either sign, the denominator none; by the letter they are z^+, (-z)^+."""
    a = torch.tensor([[6.0, -6.0]], dtype=torch.float64)
    b = torch.tensor([[2.0, 2.0]], dtype=torch.float64)
    relevance = torch.tensor([[[1.0, 3.0]]], dtype=torch.float64)
    applied = apply_rule(aten.div.Tensor, (a, b), {}, slots(["self", "other"]), relevance, delta=0.0)
    torch.testing.assert_close(applied.values[0], torch.tensor([[[1.0, 3.0]]], dtype=torch.float64))
    assert not applied.values[1].any()
    applied = apply_rule(aten.div.Tensor, (a, b), {}, slots(["self", "other"]), relevance, delta=0.0, signed=False)
    torch.testing.assert_close(applied.values[0], torch.tensor([[[1.0, 0.0]]], dtype=torch.float64))
    torch.testing.assert_close(applied.values[1], torch.tensor([[[0.0, 3.0]]], dtype=torch.float64))


@pytest.mark.parametrize("dim", [1, -1])
def test_gated_linear_unit(dim: int) -> None:
    """Fused and written out are the same; the gate's sigmoid passes, so its contribution is that of its value."""
    x = randn(2, 4, 6)
    a, b = x.chunk(2, dim)
    relevance = torch.rand(SEEDS, *a.shape, dtype=torch.float64)
    fused = apply_rule(aten.glu.default, (x, dim), {}, slots(["self"]), relevance)
    parts = apply_rule(aten.mul.Tensor, (a, b.sigmoid()), {}, slots(["self", "other"]), relevance)
    torch.testing.assert_close(fused.values[0], torch.cat(parts.values, dim % 3 + 1))
    assert fused.record is not None
    assert parts.record is not None
    torch.testing.assert_close(fused.record[:4], parts.record[:4])
