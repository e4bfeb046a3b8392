"""No rule has a scale of its own: a model whose activations or weights have another unit has the same maps.

Inputs times a, weights times b and bias times ab make the output ab times as large; shares stay the same, under LRP if
its absolute stabilisers grow as what they are added to does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rule_registry
from tests.helpers.matrix_form import apply_rule, slots

aten = torch.ops.aten

SCALES = [(1e-8, 1.0), (1e8, 1.0), (1.0, 1e-8), (1.0, 1e8), (1e-8, 1e-8), (1e8, 1e8), (1e-8, 1e8), (1e8, 1e-8)]
Arguments = Callable[[float, float], tuple[Any, ...]]

RESULTS: dict[str, tuple[Any, list[str], Arguments]] = {
    # operation, activations, and arguments from a and b, of an operation whose output is ab times as large
    "linear": (aten.linear.default, ["input"], lambda a, b: (a * X, b * W, a * b * B)),
    "dense layer with few outputs": (aten.linear.default, ["input"], lambda a, b: (a * X, b * W[:3], a * b * B[:3])),
    "convolution": (aten.conv2d.default, ["input"], lambda a, b: (a * P, b * K, a * b * B[:4], [1, 1], [1, 1])),
    "depthwise convolution": (
        aten.conv2d.default,
        ["input"],
        lambda a, b: (a * P, b * K[:2, :1], a * b * B[:2], [1, 1], [1, 1], [1, 1], 2),
    ),
    "transposed convolution": (aten.conv_transpose2d.input, ["input"], lambda a, b: (a * P, b * K[:2], a * b * B[:2])),
    "matrix product": (aten.matmul.default, ["self", "other"], lambda a, b: (a * M, b * N)),
    "matrix product with few terms": (aten.bmm.default, ["self", "mat2"], lambda a, b: (a * M, b * N[:, :, :2])),
    "product": (aten.mul.Tensor, ["self", "other"], lambda a, b: (a * X, b * Y)),
    "product with constants": (aten.mul.Tensor, ["self"], lambda a, b: (a * X, b * Y[0])),
    "sum": (aten.add.Tensor, ["self", "other"], lambda a, b: (a * b * X, a * b * Y)),
    "difference": (aten.sub.Tensor, ["self", "other"], lambda a, b: (a * b * X, a * b * Y)),
    "sum with a constant": (aten.add.Tensor, ["self"], lambda a, b: (a * b * X, a * b * Y[0])),
    "average pooling": (aten.avg_pool2d.default, ["self"], lambda a, b: (a * b * P, [2, 2])),
    "mean": (aten.mean.dim, ["self"], lambda a, b: (a * b * X, [1])),
    "bicubic": (aten.upsample_bicubic2d.vec, ["input"], lambda a, b: (a * b * P, [7, 6], False, None)),
    "running sum": (aten.cumsum.default, ["self"], lambda a, b: (a * b * X, 1)),
}
NORMS: dict[str, tuple[Any, list[str], Arguments]] = {
    # inputs times a, eps times a^2, gain and bias times b
    "layer norm": (
        aten.layer_norm.default,
        ["input"],
        lambda a, b: (a * X, [20], b * Y[0], b * Y[1], 1e-3 * a**2),
    ),
    "rms norm": (aten.rms_norm.default, ["input"], lambda a, b: (a * X, [20], b * Y[0], 1e-3 * a**2)),
    "group norm": (aten.group_norm.default, ["input"], lambda a, b: (a * P, 1, b * B[:2], b * B[2:4], 1e-3 * a**2)),
    "instance norm": (
        aten.instance_norm.default,
        ["input"],
        lambda a, b: (a * P, b * B[:2], b * B[2:4], None, None, True, 0.1, 1e-3 * a**2, False),
    ),
    "batch norm": (
        aten._native_batch_norm_legit_no_training.default,
        ["input"],
        lambda a, b: (a * P, b * B[:2], b * B[2:4], a * B[4:6], a**2 * B[6:8].square(), 0.1, 1e-3 * a**2),
    ),
}

_generator = torch.Generator().manual_seed(0)


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator, dtype=torch.float64)


X, Y, W, B = _randn(2, 20), _randn(2, 20), _randn(20, 20), _randn(20)
P, K = _randn(2, 2, 5, 5), _randn(4, 2, 3, 3)
M, N = _randn(2, 20, 3), _randn(2, 3, 20)


def shares(
    case: tuple[Any, list[str], Arguments], dtype: torch.dtype, a: float, b: float, rules: str, **parameters: Any
) -> Tensor:
    op, active, make = case
    args = tuple(value.to(dtype) if isinstance(value, Tensor) else value for value in make(a, b))
    output = op(*args)
    relevance = torch.ones_like(output[0] if isinstance(output, tuple) else output).unsqueeze(0)
    first = bool(parameters.pop("first", False))
    several = isinstance(output, tuple)
    applied = apply_rule(
        op,
        args,
        {},
        slots(active),
        (relevance, None, None) if several else relevance,
        rules=rules,
        output_batch=(rule_registry.BatchAxis(0), None, None) if several else rule_registry.BatchAxis(0),
        first=first,
        **parameters,
    )
    return torch.cat([value.flatten() for value in applied.values])


def assert_alike(found: Tensor, expected: Tensor) -> None:
    assert expected.isfinite().all()
    assert expected.any()
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-6


dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


@pytest.mark.sweep(every=4)
@dtypes
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("delta", [0.0, 1e-2])
@pytest.mark.parametrize("case", [*RESULTS.values(), *NORMS.values()], ids=[*RESULTS, *NORMS])
def test_absolute_magnitudes_have_no_scale(
    case: tuple[Any, list[str], Arguments], delta: float, signed: bool, dtype: torch.dtype
) -> None:
    expected = shares(case, dtype, 1, 1, "abslrp", delta=delta, signed=signed)
    for a, b in SCALES:
        # Powers of two, or the inputs themselves would be rounded to other numbers
        a, b = (2.0 ** round(torch.tensor(scale).log2().item()) for scale in (a, b))
        assert_alike(shares(case, dtype, a, b, "abslrp", delta=delta, signed=signed), expected)


LRP = {
    "epsilon": {"epsilon": 1e-3, "stabilizer": 1e-3},
    "gamma": {"epsilon": 1e-3, "stabilizer": 1e-3},
    "alpha-beta": {"stabilizer": 1e-3},
    "z-plus": {"stabilizer": 1e-3},
    "z-box": {"stabilizer": 1e-3, "low": -4.0, "high": 4.0},
    "excitation-backprop": {"stabilizer": 1e-3},
}


@pytest.mark.sweep(every=5)
@dtypes
@pytest.mark.parametrize("case", RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("rules", LRP)
def test_lrp_scales_with_its_stabilisers(
    rules: str, case: tuple[Any, list[str], Arguments], dtype: torch.dtype
) -> None:
    first = rules == "z-box"
    expected = shares(case, dtype, 1, 1, rules, first=first, **LRP[rules])
    for a, b in SCALES:
        a, b = (2.0 ** round(torch.tensor(scale).log2().item()) for scale in (a, b))
        scaled = {name: value * (a if name in ("low", "high") else a * b) for name, value in LRP[rules].items()}
        assert_alike(shares(case, dtype, a, b, rules, first=first, **scaled), expected)


@pytest.mark.parametrize("delta", [0.0, 1e-2])
@pytest.mark.parametrize("case", RESULTS.values(), ids=RESULTS)
def test_samples_of_zeros_have_no_relevance_and_leave_the_others_alone(
    case: tuple[Any, list[str], Arguments], delta: float
) -> None:
    op, active, make = case
    args = [value.clone() if isinstance(value, Tensor) else value for value in make(1, 1)]
    names = [argument.name for argument in op._schema.arguments]
    for position, name in enumerate(names[: len(args)]):
        if name in active:
            args[position][0] = 0
        elif name == "bias":
            args[position] = None
    if op == aten.add.Tensor and active == ["self"]:
        args[1] = torch.zeros_like(args[1])
    relevance = torch.ones_like(op(*args)).unsqueeze(0)
    applied = apply_rule(op, args, {}, slots(active), relevance, delta=delta)
    for value in applied.values:
        assert value.isfinite().all()
        assert not value[:, 0].any()
        assert value[:, 1].any()
    torch.testing.assert_close(applied.lost[0, 0], relevance[:, 0].sum())


def test_an_output_of_zero_gives_its_mass_to_the_others() -> None:
    """Without delta nothing can be shared where an output alone is zero; what arrived there is shared with the rest."""
    x = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    relevance = torch.tensor([[[5.0, 1.0]]], dtype=torch.float64)
    found = apply_rule(aten.linear.default, (x, weight), {}, slots(["input"]), relevance, delta=0.0).values[0]
    torch.testing.assert_close(found, torch.tensor([[[0.0, 2.0, 4.0]]], dtype=torch.float64))
