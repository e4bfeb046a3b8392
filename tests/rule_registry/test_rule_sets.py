"""The rule sets people know, each against its paper's formula: W and b of the operation, and lines of linear algebra.

Nothing here knows how a rule is coded. ``x``, ``w`` (outputs, inputs) and ``b`` are an operation's own, found by
evaluating and differentiating it; ``c`` are the contributions ``x_i w_ij``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import relprop
import rule_registry
from rule_registry.lrp.layers import alpha_beta
from tests.helpers.matrix_form import FRONT, SEEDS, apply_rule, contributions, slots
from tests.helpers.models import distance
from tests.helpers.operations import CONVOLUTIONS, PRODUCTS, RESIZES, TRANSPOSED

aten = torch.ops.aten
EPSILON = 1e-6


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def away_from_zero(z: Tensor, epsilon: float = EPSILON) -> Tensor:
    moved = z + epsilon * torch.where(z >= 0, 1.0, -1.0).double()
    return torch.where(moved == 0, torch.inf, moved)  # nothing is shared where nothing was read


# Layers with a weight

Layer = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From ``x``, ``w``, ``b`` and the relevance at the output, ``(S, outputs)``, to that at the input."""


def proportional(c: Tensor, z: Tensor, r: Tensor, epsilon: float = EPSILON) -> Tensor:
    return (r / away_from_zero(z, epsilon)) @ c


def by_epsilon(epsilon: float) -> Layer:
    return lambda x, w, b, r: proportional(w * x, w @ x + b, r, epsilon)


def by_gamma(gamma: float) -> Layer:
    def rule(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        c, z = w * x, w @ x + b
        found = torch.zeros(len(r), len(x), dtype=torch.float64)
        for sign in (1, -1):
            favoured = c + gamma * sign * (sign * c).clamp(min=0)
            bias = b + gamma * sign * (sign * b).clamp(min=0)
            found += proportional(favoured, favoured.sum(1) + bias, r * (sign * z > 0))
        return found

    return rule


def by_alpha_beta(alpha: float, beta: float) -> Layer:
    def rule(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        up, down = (w * x).clamp(min=0), (w * x).clamp(max=0)
        positive = proportional(up, up.sum(1) + b.clamp(min=0), r)
        return alpha * positive - beta * proportional(down, down.sum(1) + b.clamp(max=0), r)

    return rule


def by_excitation(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
    up = (w * x).clamp(min=0)
    return proportional(up, up.sum(1), r)


def by_flat(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
    read = (w != 0).double()
    return proportional(read, read.sum(1), r)


def by_squares(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
    return proportional(w**2, (w**2).sum(1), r)


def by_box(low: float, high: float) -> Layer:
    def rule(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        c = w * x - low * w.clamp(min=0) - high * w.clamp(max=0)
        return proportional(c, c.sum(1), r)

    return rule


RULES: dict[str, tuple[str, dict[str, float], Layer]] = {
    "lrp-0": ("lrp-0", {}, by_epsilon(0)),
    "epsilon": ("epsilon", {}, by_epsilon(1e-6)),
    "epsilon 0.25": ("epsilon", {"epsilon": 0.25}, by_epsilon(0.25)),
    "gamma": ("gamma", {}, by_gamma(0.25)),
    "gamma 0.1": ("gamma", {"gamma": 0.1}, by_gamma(0.1)),
    "alpha-beta": ("alpha-beta", {}, by_alpha_beta(2, 1)),
    "alpha 3, beta 2": ("alpha-beta", {"alpha": 3, "beta": 2}, by_alpha_beta(3, 2)),
    "z-plus": ("z-plus", {}, by_alpha_beta(1, 0)),
    "flat": ("flat", {}, by_flat),
    "w-squared": ("w-squared", {}, by_squares),
    "z-box": ("z-box", {"low": -4.0, "high": 4.0}, by_box(-4, 4)),
    "excitation": ("excitation-backprop", {}, by_excitation),
    "attnlrp": ("attnlrp", {"conv_gamma": 0.3, "dense_gamma": 0.3}, by_gamma(0.3)),
    "attnlrp without gammas": ("attnlrp", {"conv_gamma": 0, "dense_gamma": 0}, by_epsilon(1e-6)),
    "cp-lrp": ("cp-lrp", {"conv_gamma": 0.3, "dense_gamma": 0.3}, by_gamma(0.3)),
    "reslrp": ("reslrp", {"conv_gamma": 0, "dense_gamma": 0}, by_epsilon(1e-6)),
}
SHAPES: dict[str, tuple[Any, ...]] = {
    "linear": (aten.linear.default, (3, 5), (4, 5)),
    "linear on tokens": (aten.linear.default, (2, 3, 5), (4, 5)),
    **{f"conv {name}": case for name, case in CONVOLUTIONS.items()},
    **{f"transposed {name}": case for name, case in TRANSPOSED.items()},
}


@pytest.mark.sweep(every=8)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("positive", [False, True], ids=["signed", "nonnegative"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_layers(shape: tuple[Any, ...], bias: bool, positive: bool) -> None:
    op, size, weight_size, *rest = shape
    x, weight = randn(*size).clamp(-3.9, 3.9), randn(*weight_size)
    x = x.abs() if positive else x
    with torch.no_grad():
        channels = op(x, weight, None, *rest).shape[-1 if op == aten.linear.default else 1]
    offset = randn(channels) if bias else None
    z = op(x, weight, offset, *rest)
    w = torch.autograd.functional.jacobian(lambda x: op(x, weight, None, *rest), x).reshape(z.numel(), -1)
    b = (z - op(x, weight, None, *rest)).flatten()
    relevance = torch.randn(SEEDS, *z.shape, dtype=torch.float64)
    for name, (rules, parameters, rule) in RULES.items():
        applied = apply_rule(
            op, (x, weight, offset, *rest), {}, slots(["input"]), relevance,
            rules=rules, nonnegative=positive, first=True, **parameters,
        )  # fmt: skip
        expected = rule(x.flatten(), w, b, relevance.flatten(1)).reshape(SEEDS, *x.shape)
        assert distance(applied.values[0], expected) <= 1e-10, name
        assert applied.record is not None
        torch.testing.assert_close(applied.lost, FRONT.sum(relevance) - FRONT.sum(applied.values[0]))


def test_bounds_per_channel() -> None:
    x, weight = torch.rand(2, 3, 4, 4, dtype=torch.float64) * 2 - 1, randn(2, 3, 3, 3)
    low, high = (-1.0, -2.0, -1.5), (1.0, 1.5, 2.0)
    z = aten.conv2d.default(x, weight)
    w = torch.autograd.functional.jacobian(lambda x: aten.conv2d.default(x, weight), x).reshape(z.numel(), -1)
    lowest, highest = (torch.tensor(v).double().reshape(1, 3, 1, 1).expand_as(x).flatten() for v in (low, high))
    c = w * x.flatten() - lowest * w.clamp(min=0) - highest * w.clamp(max=0)
    relevance = torch.randn(SEEDS, *z.shape, dtype=torch.float64)
    expected = proportional(c, c.sum(1), relevance.flatten(1)).reshape(SEEDS, *x.shape)
    where: Any = (aten.conv2d.default, (x, weight), {}, slots(["input"]), relevance)
    found = apply_rule(*where, rules="z-box", first=True, low=low, high=high).values[0]
    assert distance(found, expected) <= 1e-10
    with pytest.raises(
        relprop.RuleError, match=r"z_box refuses .*: the z.B rule has bounds for 2 channels and the input has 3"
    ):
        apply_rule(*where, rules="z-box", first=True, low=(0, 0), high=(1, 1))
    with pytest.warns(UserWarning, match="outside of the bounds"):
        apply_rule(*where, rules="z-box", first=True, low=0.0, high=1.0)


def test_alpha_and_beta_must_differ_by_one() -> None:
    for wrong in ({"beta": 2.0}, {"alpha": 3}, {"alpha": 0.5, "beta": -0.5}):
        with pytest.raises(ValueError, match="rule set 'alpha-beta': alpha - beta must be 1"):
            rule_registry.get("alpha-beta", **wrong)
    x, weight = randn(2, 3), randn(4, 3)
    mine = rule_registry.Rule("mine", partial(alpha_beta, alpha=1.0, beta=1.0, stabilizer=0.0))
    rules = rule_registry.get("epsilon").derive({aten.linear.default: mine})
    with pytest.raises(relprop.RuleError, match=r"mine refuses .*: alpha - beta must be 1"):
        apply_rule(aten.linear.default, (x, weight), {}, slots(["input"]), randn(1, 2, 4), rules=rules)


# Operations without a weight

ONE: dict[str, tuple[Any, ...]] = {
    "average": (aten.avg_pool2d.default, (2, 2, 5, 5), ([3, 3], [2, 2], [1, 1])),
    "average, 1d": (aten.avg_pool1d.default, (2, 2, 5), ([2],)),
    "adaptive average": (aten.adaptive_avg_pool2d.default, (2, 2, 5, 4), ([2, 3],)),
    "mean": (aten.mean.dim, (2, 3, 4), ([1],)),
    "sum": (aten.sum.dim_IntList, (2, 3, 4), ([-1], True)),
    "running sum": (aten.cumsum.default, (2, 3, 4), (1,)),
    "per-element scale": (aten.mul.Tensor, (2, 3, 4), (randn(3, 1),)),
    "per-element divisor": (aten.div.Tensor, (2, 3, 4), (randn(4),)),
    "constant added": (aten.add.Tensor, (2, 3, 4), (randn(3, 4),)),
    "number subtracted": (aten.rsub.Scalar, (2, 3, 4), (1.5,)),
    "matrix": (aten.matmul.default, (2, 3, 4), (randn(4, 2),)),
    "trilinear": (aten.upsample_trilinear3d.vec, (2, 1, 2, 3, 2), ([3, 2, 5], False, None)),
    **{f"resize, {name}": (op, (2, 2, 4, 5), tuple(rest)) for name, (op, *rest) in RESIZES.items()},
}  # fmt: skip
LRP = ["lrp-0", "epsilon", "gamma", "alpha-beta", "flat", "attnlrp", "cp-lrp", "reslrp"]


def stabiliser(rules: str) -> float:
    return 0 if rules == "lrp-0" else EPSILON


@pytest.mark.parametrize("rules", ["lrp-0", "epsilon"])
@pytest.mark.parametrize("case", ONE.values(), ids=ONE.keys())
def test_one_input(case: tuple[Any, ...], rules: str) -> None:
    op, shape, arguments = case
    x = randn(*shape)
    z = op(x, *arguments)
    (c,) = contributions(lambda x: op(x, *arguments), [x])
    relevance = torch.randn(SEEDS, *z.shape, dtype=torch.float64)
    (found,) = apply_rule(op, (x, *arguments), {}, slots([op._schema.arguments[0].name]), relevance, rules=rules).values
    expected = proportional(c, z.flatten(), relevance.flatten(1), stabiliser(rules)).reshape(SEEDS, *shape)
    assert distance(found, expected) <= 1e-10


def test_parameters_of_layers_leave_other_operations_alone() -> None:
    """A large epsilon is meant for layers: averages and sums keep their small stabiliser."""
    x = randn(2, 4)
    z, (c,) = x.mean(1), contributions(lambda x: x.mean(1), [x])
    relevance = torch.ones(1, 2, dtype=torch.float64)
    found = apply_rule(aten.mean.dim, (x, [1]), {}, slots(["self"]), relevance, rules="epsilon", epsilon=0.5).values[0]
    assert distance(found.flatten(1), proportional(c, z, relevance)) <= 1e-10


def half(c: Tensor, z: Tensor, r: Tensor, epsilon: float) -> Tensor:
    """Achtibat et al. 2024, Eq. 15: ``a_ik b_kj R_ij / (2 z_ij + epsilon)``."""
    return proportional(c, 2 * z, r, epsilon)


TWO: dict[str, tuple[Any, ...]] = {
    "sum": (aten.add.Tensor, (2, 3, 4), (2, 3, 4), ["self", "other"], proportional),
    "sum, broadcast": (aten.add.Tensor, (2, 3, 1), (2, 3, 4), ["self", "other"], proportional),
    "difference": (aten.sub.Tensor, (2, 3, 4), (2, 1, 4), ["self", "other"], proportional),
    "gate": (aten.mul.Tensor, (2, 3, 4), (2, 3, 1), ["self", "other"], half),
    **{f"product, {name}": (*case, half) for name, case in PRODUCTS.items()},
}


@pytest.mark.parametrize("rules", ["lrp-0", "epsilon", "attnlrp"])
@pytest.mark.parametrize("case", TWO.values(), ids=TWO.keys())
def test_two_inputs(case: tuple[Any, ...], rules: str) -> None:
    op, left, right, names, formula = case
    a, b = randn(*left), randn(*right)
    z = op(a, b)
    relevance = torch.randn(SEEDS, *z.shape, dtype=torch.float64)
    found = apply_rule(op, (a, b), {}, slots(names), relevance, rules=rules).values
    for value, c, x in zip(found, contributions(op, [a, b]), (a, b), strict=True):
        expected = formula(c, z.flatten(), relevance.flatten(1), stabiliser(rules)).reshape(SEEDS, *x.shape)
        assert distance(value, expected) <= 1e-10


@pytest.mark.parametrize("rules", ["lrp-0", "epsilon", "attnlrp"])
def test_cosine_similarity(rules: str) -> None:
    """A product of two vectors with their lengths held: half for each."""
    a, b = randn(3, 4), randn(3, 4)
    lengths = a.norm(dim=1) * b.norm(dim=1)
    z, relevance = F.cosine_similarity(a, b), torch.randn(SEEDS, 3, dtype=torch.float64)
    parts = contributions(lambda a, b: (a * b).sum(1) / lengths, [a, b])
    found = apply_rule(aten.cosine_similarity.default, (a, b), {}, slots(["x1", "x2"]), relevance, rules=rules).values
    for value, c in zip(found, parts, strict=True):
        assert distance(value.flatten(1), half(c, z, relevance, stabiliser(rules))) <= 1e-10


def slots_of_product(op: Any) -> list[rule_registry.Slot]:
    return [rule_registry.Slot(name) for name in rule_registry.weights_of(op)]


@pytest.mark.parametrize("weights", [0, 1, None], ids=["left", "right", "logits"])
@pytest.mark.parametrize("op", [aten.matmul.default, aten.bmm.default, aten.mul.Tensor])
def test_values_path(op: Any, weights: int | None) -> None:
    """Ali et al. 2022: the attention is held, all goes to the values; to queries and keys goes nothing."""
    a, b = randn(2, 3, 3), randn(2, 3, 3)
    z, parts = op(a, b), contributions(op, [a, b])
    active = slots(["self", "other" if op != aten.bmm.default else "mat2"])
    relevance = torch.randn(SEEDS, *z.shape, dtype=torch.float64)
    found = apply_rule(
        op, (a, b), {}, active, relevance,
        rules="cp-lrp", attention=True, attention_weights=None if weights is None else active[weights],
    ).values  # fmt: skip
    for k, (value, c) in enumerate(zip(found, parts, strict=True)):
        if weights is None or k == weights:
            assert not value.any()
        else:
            assert distance(value.flatten(1), proportional(c, z.flatten(), relevance.flatten(1))) <= 1e-10


@pytest.mark.parametrize("op", [aten.matmul.default, aten.bmm.default])
def test_products_outside_of_attention_are_in_halves(op: Any) -> None:
    a, b = randn(2, 3, 4), randn(2, 4, 3)
    z, relevance = op(a, b), torch.randn(SEEDS, 2, 3, 3, dtype=torch.float64)
    for rules in ("attnlrp", "cp-lrp", "reslrp"):
        found = apply_rule(op, (a, b), {}, slots_of_product(op), relevance, rules=rules).values
        for value, c in zip(found, contributions(op, [a, b]), strict=True):
            assert distance(value.flatten(1), half(c, z.flatten(), relevance.flatten(1), EPSILON)) <= 1e-10


DENSE: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str]] = {
    # operation, arguments of which None is the activation, further ones, its name
    "linear": (aten.linear.default, (None, randn(4, 3), randn(4)), {}, "input"),
    "matmul": (aten.matmul.default, (None, randn(3, 4)), {}, "self"),
    "matmul from the left": (aten.matmul.default, (randn(4, 2), None), {}, "other"),
    "several": (aten.matmul.default, (None, randn(2, 3, 4)), {}, "self"),
    "vector": (aten.matmul.default, (None, randn(3)), {}, "self"),
    "bmm": (aten.bmm.default, (None, randn(2, 3, 4)), {}, "self"),
    "addmm": (aten.addmm.default, (randn(4), None, randn(3, 4)), {"beta": -0.5, "alpha": -2}, "mat1"),
    "addmm from the left": (aten.addmm.default, (randn(3), randn(4, 2), None), {"alpha": 2}, "mat2"),
    "baddbmm": (aten.baddbmm.default, (randn(2, 2, 4), None, randn(2, 3, 4)), {}, "batch1"),
}


@pytest.mark.parametrize("positive", [False, True], ids=["signed", "nonnegative"])
@pytest.mark.parametrize("case", DENSE.values(), ids=DENSE.keys())
def test_dense_layers_inside_and_outside_of_attention(case: Any, positive: bool) -> None:
    """Whichever operation a layer is spelled as: gamma 0.05 outside of attention, epsilon inside."""
    op, given, further, name = case
    x = randn(2, 3) if op in (aten.addmm.default, aten.linear.default) else randn(2, 2, 3)
    x = x.abs() if positive else x

    def layer(x: Tensor) -> Tensor:
        return op(*(x if value is None else value for value in given), **further)

    z, (c,) = layer(x), contributions(layer, [x])
    w = c / x.flatten()
    b = z.flatten() - c.sum(1)
    relevance = torch.randn(SEEDS, *z.shape, dtype=torch.float64)
    arguments = tuple(x if value is None else value for value in given)
    axis = rule_registry.BatchAxis(1) if name == "mat2" else FRONT
    for rules in ("attnlrp", "cp-lrp", "reslrp"):
        for attention, rule in ((False, by_gamma(0.05)), (True, by_epsilon(EPSILON))):
            found = apply_rule(
                op, arguments, further, slots([name]), relevance,
                rules=rules, nonnegative=positive, attention=attention, input_batch=[axis], output_batch=axis,
            ).values[0]  # fmt: skip
            assert distance(found.flatten(1), rule(x.flatten(), w, b, relevance.flatten(1))) <= 1e-9


def test_gamma_of_convolutions_and_of_dense_layers() -> None:
    """The defaults of AttnLRP for vision transformers: 0.25 for the patch embedding, 0.05 for the rest."""
    assert dict(rule_registry.get("attnlrp").parameters) == {
        "conv_gamma": 0.25, "dense_gamma": 0.05, "epsilon": 1e-6, "stabilizer": 1e-6,
    }  # fmt: skip
    x, weight = randn(2, 3, 6), randn(4, 3, 2)
    relevance = torch.randn(SEEDS, 2, 4, 5, dtype=torch.float64)
    where: Any = (aten.conv1d.default, (x, weight), {}, slots(["input"]), relevance)
    expected = apply_rule(*where, rules="gamma", gamma=0.25).values[0]
    for rules in ("attnlrp", "cp-lrp", "reslrp"):
        for attention in (True, False):
            assert torch.equal(apply_rule(*where, rules=rules, attention=attention).values[0], expected)


SUMS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], dict[str, Any], tuple[float, float]]] = {
    "sum": (aten.add.Tensor, (2, 3, 4), (2, 3, 4), {}, (1, 1)),
    "sum, broadcast": (aten.add.Tensor, (2, 3, 1), (2, 3, 4), {}, (1, 1)),
    "multiple": (aten.add.Tensor, (2, 3, 4), (2, 3, 4), {"alpha": -0.5}, (1, -0.5)),
    "difference": (aten.sub.Tensor, (2, 3, 4), (2, 1, 4), {}, (1, -1)),
    "difference the other way round": (aten.rsub.Tensor, (2, 3, 4), (2, 3, 4), {"alpha": 2}, (-2, 1)),
}


@pytest.mark.parametrize("gamma", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("case", SUMS.values(), ids=SUMS.keys())
def test_residual_rule(case: Any, gamma: float) -> None:
    """A sum as a layer whose input is both terms, one behind the other: its matrix, and the gamma of equal signs."""
    op, left, right, further, factors = case
    a, b = randn(*left), randn(*right)
    z = op(a, b, **further)
    ones = [torch.autograd.functional.jacobian(lambda x, k=k: op(*((x, b) if k == 0 else (a, x)), **further), (a, b)[k])
            for k in (0, 1)]  # fmt: skip
    matrix = torch.cat([part.reshape(z.numel(), -1) for part in ones], 1)
    assert set(matrix.unique().tolist()) <= {0, *factors}
    c = matrix * torch.cat([a.flatten(), b.flatten()])
    favoured = c * (1 + gamma * (c.sign() == z.flatten().sign()[:, None]))
    relevance = torch.randn(SEEDS, *z.shape, dtype=torch.float64)
    expected = proportional(favoured, favoured.sum(1), relevance.flatten(1))
    found = apply_rule(
        op, (a, b), further, slots(["self", "other"]), relevance, rules="reslrp", residual_gamma=gamma
    ).values
    assert distance(torch.cat([value.flatten(1) for value in found], 1), expected) <= 1e-10
    # Conserving, but for the stabiliser, and linear in what arrives
    total = sum(value.flatten(1).sum(1) for value in found)
    torch.testing.assert_close(total, relevance.flatten(1).sum(1), rtol=1e-3, atol=1e-3)
    apart = apply_rule(
        op, (a, b), further, slots(["self", "other"]), -2 * relevance, rules="reslrp", residual_gamma=gamma
    )
    for value, scaled in zip(found, apart.values, strict=True):
        torch.testing.assert_close(scaled, -2 * value)


def test_residual_rule_where_terms_cancel_or_one_is_constant() -> None:
    a = torch.tensor([[2.0, -1.0, 0.0]], dtype=torch.float64)
    relevance = torch.ones(1, 1, 3, dtype=torch.float64)
    (x, y) = apply_rule(
        aten.add.Tensor, (a, -a), {}, slots(["self", "other"]), relevance, rules="reslrp", stabilizer=0.0
    ).values
    assert not x.any()
    assert not y.any()  # nothing is shared at a zero
    (alone,) = apply_rule(
        aten.add.Tensor, (a, torch.full_like(a, 2.0)), {}, slots(["self"]), relevance, rules="reslrp", stabilizer=0.0
    ).values
    torch.testing.assert_close(alone, torch.tensor([[[0.5, -1.0, 0.0]]], dtype=torch.float64))  # absorbed as by epsilon


def test_residual_rule_in_another_set() -> None:
    a, b = randn(2, 3), randn(2, 3)
    relevance = torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    derived = rule_registry.get("abslrp").derive({aten.add.Tensor: rule_registry.lrp.residuals.by_agreement})
    where: Any = (aten.add.Tensor, (a, b), {}, slots(["self", "other"]), relevance)
    for found, expected in zip(
        apply_rule(*where, rules=derived).values, apply_rule(*where, rules="reslrp").values, strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dim", [1, -1])
def test_softmax(dim: int) -> None:
    """Achtibat et al. 2024, Eq. 13, from the Jacobian ``J_ji`` of softmax: ``sum_j x_i J_ji R_j / s_j``."""
    x = randn(2, 3, 4)
    s, (c,) = x.softmax(dim), contributions(lambda x: x.softmax(dim), [x])
    relevance = torch.randn(SEEDS, 2, 3, 4, dtype=torch.float64)
    expected = ((relevance.flatten(1) / s.flatten()) @ c).reshape(SEEDS, 2, 3, 4)
    for rules in ("epsilon", "attnlrp"):
        found = apply_rule(aten.softmax.int, (x, dim), {}, slots(["self"]), relevance, rules=rules).values[0]
        assert distance(found, expected) <= 1e-10
    outside = apply_rule(aten.softmax.int, (x, dim), {}, slots(["self"]), relevance, rules="cp-lrp").values[0]
    assert distance(outside, expected) <= 1e-10  # class probabilities are no attention
    site = rule_registry.Site(
        aten.softmax.int, "", "", tuple(slots(["self"])), (False,), (FRONT,), FRONT, attention=True
    )
    assert str(rule_registry.get("cp-lrp").find(site)) == "blocks"


def test_masked_logits_receive_nothing() -> None:
    x = randn(2, 4)
    x[:, 1] = -torch.inf
    relevance = torch.randn(SEEDS, 2, 4, dtype=torch.float64)
    relevance[..., 1] = 0
    for op, arguments in (
        (aten.softmax.int, (-1,)), (aten.add.Tensor, (randn(4),)), (aten.mul.Tensor, (randn(4).abs(),)),
    ):  # fmt: skip
        (found,) = apply_rule(op, (x, *arguments), {}, slots(["self"]), relevance, rules="epsilon").values
        assert found.isfinite().all()
        assert not found[..., 1].any()


W, B = randn(6), randn(6)
GROUPS = (2, 2, 9)


def deviation(x: Tensor) -> Tensor:
    """Root of the variance along the last axis, held."""
    return (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt().detach()


def normed(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / deviation(x)


NORMS: dict[str, tuple[Any, ...]] = {
    # operation, shape of the input, arguments, the same written out with the deviation held
    "layer": (aten.layer_norm.default, (2, 3, 6), ([6], W, B, 1e-5), lambda x: normed(x) * W + B),
    "layer of two axes": (
        aten.layer_norm.default, (2, 3, 2), ([3, 2], W.reshape(3, 2)),
        lambda x: (normed(x.flatten(1)) * W).reshape(x.shape),
    ),
    "group": (
        aten.group_norm.default, (2, 6, 3), (2, W, B),
        lambda x: normed(x.reshape(GROUPS)).reshape(x.shape) * W[:, None] + B[:, None],
    ),
    "instance": (
        aten.instance_norm.default, (2, 6, 5), (W, B, None, None, True, 0.1, 1e-5, False),
        lambda x: normed(x) * W[:, None] + B[:, None],
    ),
    "instance, running": (
        aten.instance_norm.default, (2, 6, 5), (W, B, B, W.abs(), False, 0.1, 1e-5, False),
        lambda x: (x - B[:, None]) / (W.abs() + 1e-5).sqrt()[:, None] * W[:, None] + B[:, None],
    ),
    "root mean square": (
        aten.rms_norm.default, (2, 3, 6), ([6], W, 1e-5),
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt().detach() * W,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NORMS.values(), ids=NORMS.keys())
def test_norms(case: tuple[Any, ...]) -> None:
    """Ali et al. 2022, LN-rule: the deviation is held, centring is a sum as any other; AttnLRP says the same.

    Proposition 3.4 of Achtibat et al. 2024 lets the division by the deviation pass relevance on, whatever the deviation
    is; the rest is affine and under epsilon.
    """
    op, shape, arguments, held = case
    x = randn(*shape) + 0.5
    z = op(x, *arguments)
    torch.testing.assert_close(held(x), z)
    (c,) = contributions(held, [x])
    relevance = torch.randn(SEEDS, *shape, dtype=torch.float64)
    expected = proportional(c, z.flatten(), relevance.flatten(1)).reshape(SEEDS, *shape)
    for rules in ("epsilon", "attnlrp", "cp-lrp", "reslrp"):
        found = apply_rule(op, (x, *arguments), {}, slots(["input"]), relevance, rules=rules).values[0]
        assert distance(found, expected) <= 1e-10


@pytest.mark.parametrize(
    ("op", "arguments"), [(aten.var.dim, ([1],)), (aten.std.dim, ([1],)), (aten.linalg_vector_norm.default, (3, [1]))]
)
def test_variance_deviation_and_length(op: Any, arguments: tuple[Any, ...]) -> None:
    """In proportion to ``x_i dz/dx_i``; those of a variance sum to twice its value."""
    x = randn(2, 3, 4)
    z, (c,) = op(x, *arguments), contributions(lambda x: op(x, *arguments), [x])
    relevance = torch.randn(SEEDS, 2, 4, dtype=torch.float64)
    found = apply_rule(op, (x, *arguments), {}, slots(["self"]), relevance, rules="epsilon").values[0]
    torch.testing.assert_close(c.sum(1), (2 if op == aten.var.dim else 1) * z.flatten())
    assert distance(found.flatten(1), proportional(c, c.sum(1), relevance.flatten(1))) <= 1e-10


def test_gated_linear_unit() -> None:
    x = randn(2, 6)
    a, b = x.chunk(2, 1)
    relevance = torch.randn(SEEDS, 2, 3, dtype=torch.float64)
    found = apply_rule(aten.glu.default, (x, 1), {}, slots(["self"]), relevance, rules="attnlrp").values[0]
    parts = apply_rule(
        aten.mul.Tensor, (a, b.sigmoid()), {}, slots(["self", "other"]), relevance, rules="attnlrp"
    ).values
    torch.testing.assert_close(found, torch.cat(parts, 2))


def test_quotient_holds_its_denominator() -> None:
    a, b = randn(2, 3, 4), randn(2, 3, 1)
    relevance = torch.randn(SEEDS, 2, 3, 4, dtype=torch.float64)
    found = apply_rule(aten.div.Tensor, (a, b), {}, slots(["self", "other"]), relevance, rules="epsilon").values
    assert distance(found[0], relevance * (a / b) / away_from_zero(a / b)) <= 1e-10
    assert found[1].shape == (SEEDS, 2, 3, 1)
    assert not found[1].any()
    (alone,) = apply_rule(aten.div.Tensor, (randn(3, 4), b), {}, slots(["other"]), relevance, rules="epsilon").values
    assert distance(alone, relevance.sum(-1, keepdim=True)) <= 1e-10


def test_excitation_of_a_sum() -> None:
    """A layer whose weights are one: winners in proportion to the positive terms."""
    a, b = randn(2, 3, 4), randn(2, 3, 4)
    relevance = torch.rand(SEEDS, 2, 3, 4, dtype=torch.float64)
    where: Any = (aten.add.Tensor, (a, b), {}, slots(["self", "other"]), relevance)
    found = apply_rule(*where, rules="excitation-backprop").values
    total = a.clamp(min=0) + b.clamp(min=0) + EPSILON
    for value, term in zip(found, (a, b), strict=True):
        assert distance(value, relevance * term.clamp(min=0) / total) <= 1e-10


# Through whole models
