"""Every affine and bilinear rule against DESIGN 4.1's formula, built from the operation's own Jacobian.

Nothing here knows how a rule is coded: the oracle is `support.formula`, three lines of linear algebra in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from relprop.errors import RuleError
from rule_registry import BatchAxis, Slot
from rule_registry.abslrp import alternatives, linear
from rule_registry.lrp import residuals
from tests.helpers.matrix_form import (
    FRONT,
    SEEDS,
    apply_rule,
    bind,
    compare_with_formula,
    contributions,
    formula,
    function_of,
    sample_of_each,
    samples,
    slots,
)
from tests.helpers.models import Lambda

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(1)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def signed(*shape: int) -> Tensor:
    """Values of both signs, among them exact zeros."""
    x = randn(*shape)
    x.view(-1)[::7] = 0
    return x


both_signs = pytest.mark.parametrize("positive", [False, True], ids=["signed", "nonnegative"])
deltas = pytest.mark.parametrize("delta", [0.0, 1e-2])


def values(shape: tuple[int, ...], positive: bool) -> Tensor:
    return signed(*shape).abs() if positive else signed(*shape)


# Affine layers with weights


@pytest.fixture(params=["whole", "in blocks", "both at once"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of weights taken whole, an output at a time as large ones in blocks, and together as those of pictures."""
    if request.param == "in blocks":
        monkeypatch.setattr(linear, "BLOCK", 1)
    if request.param != "both at once":
        monkeypatch.setattr(linear, "FEW", 0)


@pytest.mark.usefixtures("blocks")
@both_signs
@deltas
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 5), (2, 3, 2, 5)])
def test_linear(shape: tuple[int, ...], bias: bool, positive: bool, delta: float) -> None:
    x = values(shape, positive)
    offset = randn(4) if bias else None
    compare_with_formula(aten.linear.default, x, randn(4, 5), offset, nonnegative=positive, delta=delta)


CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    # operation, input, weight, then stride, padding, dilation, groups
    "1d": (aten.conv1d.default, (2, 2, 6), (3, 2, 3), [1], [1], [1], 1),
    "1d strided": (aten.conv1d.default, (2, 2, 7), (3, 2, 3), [2], [0], [1], 1),
    "2d": (aten.conv2d.default, (2, 2, 4, 5), (3, 2, 3, 3), [1, 1], [1, 1], [1, 1], 1),
    "2d strided": (aten.conv2d.default, (2, 2, 6, 5), (3, 2, 3, 2), [2, 3], [1, 0], [1, 1], 1),
    "2d, end unread": (aten.conv2d.default, (2, 1, 6, 6), (2, 1, 3, 3), [2, 2], [0, 0], [1, 1], 1),
    "2d dilated": (aten.conv2d.default, (2, 2, 5, 6), (2, 2, 2, 3), [1, 1], [1, 2], [2, 2], 1),
    "2d groups": (aten.conv2d.default, (2, 4, 4, 4), (6, 2, 3, 3), [1, 1], [1, 1], [1, 1], 2),
    "2d depthwise": (aten.conv2d.default, (2, 3, 4, 4), (3, 1, 3, 3), [1, 1], [1, 1], [1, 1], 3),
    "2d depth multiplier": (aten.conv2d.default, (2, 3, 4, 4), (6, 1, 3, 3), [2, 2], [1, 1], [1, 1], 3),
    "2d pointwise": (aten.conv2d.default, (2, 3, 3, 3), (4, 3, 1, 1), [1, 1], [0, 0], [1, 1], 1),
    "3d": (aten.conv3d.default, (2, 2, 3, 3, 4), (2, 2, 2, 3, 2), [1, 2, 1], [1, 1, 0], [1, 1, 2], 1),
    "1d valid": (aten.conv1d.padding, (2, 2, 6), (3, 2, 3), [2], "valid", [1], 1),
    "1d same": (aten.conv1d.padding, (2, 2, 6), (3, 2, 3), [1], "same", [1], 1),
    "1d same, even kernel": (aten.conv1d.padding, (2, 2, 6), (3, 2, 4), [1], "same", [1], 1),
    "2d valid": (aten.conv2d.padding, (2, 2, 5, 4), (3, 2, 3, 2), [2, 1], "valid", [1, 1], 1),
    "2d same": (aten.conv2d.padding, (2, 2, 4, 5), (3, 2, 3, 5), [1, 1], "same", [1, 1], 1),
    "2d same, even kernel": (aten.conv2d.padding, (2, 2, 4, 5), (3, 2, 2, 4), [1, 1], "same", [1, 1], 1),
    "2d same, one even": (aten.conv2d.padding, (2, 2, 4, 5), (3, 2, 3, 2), [1, 1], "same", [1, 1], 1),
    "2d same, even, dilated": (aten.conv2d.padding, (2, 2, 4, 5), (3, 2, 2, 4), [1, 1], "same", [3, 1], 1),
    "2d same, depthwise": (aten.conv2d.padding, (2, 3, 4, 4), (3, 1, 2, 2), [1, 1], "same", [1, 1], 3),
    "3d same": (aten.conv3d.padding, (2, 1, 3, 3, 3), (2, 1, 2, 3, 2), [1, 1, 1], "same", [1, 1, 1], 1),
}


@pytest.mark.usefixtures("blocks")
@both_signs
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolution(case: tuple[Any, ...], bias: bool, positive: bool) -> None:
    op, shape, weight, *rest = case
    x, offset = values(shape, positive), randn(weight[0]) if bias else None
    compare_with_formula(op, x, randn(*weight), offset, *rest, nonnegative=positive)


TRANSPOSED: dict[str, tuple[Any, ...]] = {
    # operation, input, weight, then stride, padding, output_padding, groups, dilation
    "1d": (aten.conv_transpose1d.default, (2, 2, 4), (2, 3, 3), [2], [1], [1], 1, [1]),
    "2d": (aten.conv_transpose2d.input, (2, 2, 3, 3), (2, 3, 2, 2), [2, 2], [0, 0], [0, 0], 1, [1, 1]),
    "2d padded": (aten.conv_transpose2d.input, (2, 2, 3, 2), (2, 3, 3, 3), [2, 3], [1, 1], [1, 2], 1, [1, 1]),
    "2d groups": (aten.conv_transpose2d.input, (2, 4, 3, 3), (4, 2, 3, 2), [1, 2], [1, 0], [0, 1], 2, [1, 1]),
    "2d dilated": (aten.conv_transpose2d.input, (2, 2, 3, 3), (2, 2, 2, 2), [1, 1], [1, 1], [0, 0], 1, [2, 2]),
    "3d": (
        aten.conv_transpose3d.input, (2, 2, 2, 2, 3), (2, 2, 2, 3, 2), [2, 1, 2], [0, 1, 0], [1, 0, 0], 1, [1] * 3,
    ),
}  # fmt: skip


@pytest.mark.usefixtures("blocks")
@both_signs
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", TRANSPOSED.values(), ids=TRANSPOSED.keys())
def test_transposed_convolution(case: tuple[Any, ...], bias: bool, positive: bool) -> None:
    op, shape, weight, *rest = case
    x, offset = values(shape, positive), randn(weight[1] * rest[3]) if bias else None
    compare_with_formula(op, x, randn(*weight), offset, *rest, nonnegative=positive)


@both_signs
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3), (2, 4, 2, 3), (2, 4, 2, 2, 2)])
def test_batch_norm(shape: tuple[int, ...], affine: bool, positive: bool) -> None:
    x, mean, var = values(shape, positive), randn(4), randn(4).abs() + 0.1
    weight, bias = (randn(4), randn(4)) if affine else (None, None)
    compare_with_formula(
        aten._native_batch_norm_legit_no_training.default,
        *(x, weight, bias, mean, var, 0.1, 1e-5),
        held=lambda x: F.batch_norm(x, mean, var, weight, bias, False, 0.1, 1e-5),
        nonnegative=positive,
    )


# Pooling and reductions

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


# Interpolation

NEAREST, EXACT = aten.upsample_nearest2d.vec, aten._upsample_nearest_exact2d.vec
RESIZES: dict[str, tuple[Any, ...]] = {
    "nearest, size": (NEAREST, [6, 7], None),
    "nearest, scale": (NEAREST, None, [2.0, 1.5]),
    "nearest, smaller": (NEAREST, [2, 3], None),
    "nearest exact": (EXACT, [7, 3], None),
    "nearest exact, scale": (EXACT, None, [1.5, 0.5]),
    "bilinear, size": (aten.upsample_bilinear2d.vec, [6, 7], False, None),
    "bilinear, corners": (aten.upsample_bilinear2d.vec, [6, 7], True, None),
    "bilinear, scale": (aten.upsample_bilinear2d.vec, None, False, [2.0, 0.7]),
    "bilinear, scale, corners": (aten.upsample_bilinear2d.vec, None, True, [1.7, 2.0]),
    "bilinear, smaller": (aten.upsample_bilinear2d.vec, [2, 3], False, None),
    "bicubic, size": (aten.upsample_bicubic2d.vec, [6, 7], False, None),
    "bicubic, corners": (aten.upsample_bicubic2d.vec, [6, 7], True, None),
    "bicubic, scale": (aten.upsample_bicubic2d.vec, None, False, [1.5, 2.0]),
    "bicubic, smaller": (aten.upsample_bicubic2d.vec, [3, 2], False, None),
    "bilinear, antialias": (aten._upsample_bilinear2d_aa.vec, [2, 3], False, None),
    "bilinear, antialias, scale": (aten._upsample_bilinear2d_aa.vec, None, False, [0.6, 0.5]),
    "bicubic, antialias": (aten._upsample_bicubic2d_aa.vec, [2, 3], False, None),
    "bicubic, antialias, corners": (aten._upsample_bicubic2d_aa.vec, [3, 6], True, None),
}


@both_signs
@pytest.mark.parametrize("case", RESIZES.values(), ids=RESIZES.keys())
def test_interpolate(case: tuple[Any, ...], positive: bool) -> None:
    op, *arguments = case
    compare_with_formula(op, values((2, 2, 4, 5), positive), *arguments, nonnegative=positive)


OTHER_DIMENSIONS: dict[str, tuple[Any, ...]] = {
    "nearest 1d": (aten.upsample_nearest1d.vec, (2, 2, 5), [7], None),
    "nearest 1d, scale": (aten.upsample_nearest1d.vec, (2, 2, 5), None, [1.5]),
    "nearest exact 1d": (aten._upsample_nearest_exact1d.vec, (2, 2, 5), [3], None),
    "linear 1d": (aten.upsample_linear1d.vec, (2, 2, 5), [7], False, None),
    "linear 1d, corners, scale": (aten.upsample_linear1d.vec, (2, 2, 5), None, True, [1.7]),
    "nearest 3d": (aten.upsample_nearest3d.vec, (2, 2, 2, 3, 3), [3, 4, 2], None),
    "nearest exact 3d, scale": (aten._upsample_nearest_exact3d.vec, (2, 2, 2, 3, 3), None, [1.5, 2.0, 0.7]),
    "trilinear": (aten.upsample_trilinear3d.vec, (2, 2, 2, 3, 3), [3, 2, 5], False, None),
    "trilinear, corners, scale": (aten.upsample_trilinear3d.vec, (2, 1, 2, 3, 2), None, True, [2.0, 1.4, 1.5]),
}


@both_signs
@pytest.mark.parametrize("case", OTHER_DIMENSIONS.values(), ids=OTHER_DIMENSIONS.keys())
def test_interpolate_in_other_dimensions(case: tuple[Any, ...], positive: bool) -> None:
    op, shape, *arguments = case
    compare_with_formula(op, values(shape, positive), *arguments, nonnegative=positive)


@both_signs
@pytest.mark.parametrize("dim", [1, -1])
def test_running_sum(dim: int, positive: bool) -> None:
    compare_with_formula(aten.cumsum.default, values((2, 3, 4), positive), dim, nonnegative=positive)


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


# Norms: statistics held


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("normalized", [[4], [3, 4]])
def test_layer_norm(normalized: list[int], affine: bool) -> None:
    x = signed(2, 3, 4) + 0.5
    weight, bias = (randn(*normalized), randn(*normalized)) if affine else (None, None)
    dims = list(range(-len(normalized), 0))
    sigma, mean = x.std(dims, correction=0, keepdim=True), x.mean(dims, keepdim=True)

    def held(x: Tensor) -> Tensor:
        normed = (x - mean) / (sigma.square() + 1e-5).sqrt()
        return normed if weight is None else normed * weight + bias

    torch.testing.assert_close(held(x), F.layer_norm(x, normalized, weight, bias))
    compare_with_formula(aten.layer_norm.default, x, normalized, weight, bias, 1e-5, held=held)


def test_layer_norm_is_not_centred() -> None:
    """An entry below the mean but above zero is in proportion to itself: what it hands on depends on the mean's side.

    Below the mean its output is negative, which it makes no larger; by the paper's letter it receives relevance still.
    """
    x = torch.tensor([[1.0, 2.0, 9.0]], dtype=torch.float64)
    relevance = torch.ones(1, 1, 3, dtype=torch.float64)
    args = (aten.layer_norm.default, (x, [3]), {}, slots(["input"]), relevance)
    letter = apply_rule(*args, delta=0.0, signed=False)
    expected = x / (x - x.mean()).abs()
    torch.testing.assert_close(letter.values[0][0], 3 * expected / expected.sum())
    applied = apply_rule(*args, delta=0.0)
    torch.testing.assert_close(applied.values[0][0], torch.tensor([[0.0, 0.0, 3.0]], dtype=torch.float64))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3), (2, 6, 2, 3)])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_group_norm(count: int, shape: tuple[int, ...], affine: bool) -> None:
    if len(shape) == 2:
        count = min(count, 3)  # groups of one entry have no variance
    x = signed(*shape) + 0.3
    weight, bias = (randn(6), randn(6)) if affine else (None, None)
    column = (-1, *(1,) * (len(shape) - 2))
    groups = x.reshape(2, count, -1)

    def whole(statistic: Tensor) -> Tensor:
        return statistic.expand_as(groups).reshape(shape)

    mean = whole(groups.mean(2, keepdim=True))
    sigma = whole((groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt())

    def held(x: Tensor) -> Tensor:
        normed = (x - mean) / sigma
        return normed if weight is None else normed * weight.reshape(column) + bias.reshape(column)

    torch.testing.assert_close(held(x), F.group_norm(x, count, weight, bias))
    compare_with_formula(aten.group_norm.default, x, count, weight, bias, 1e-5, held=held)


@pytest.mark.parametrize("own", [True, False], ids=["own statistics", "running statistics"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 2, 3)])
def test_instance_norm(shape: tuple[int, ...], affine: bool, own: bool) -> None:
    """Statistics of each sample and channel; or, where running ones are tracked, batch norm by another name."""
    x = signed(*shape) + 0.3
    weight, bias = (randn(3), randn(3)) if affine else (None, None)
    column = (-1, *(1,) * (len(shape) - 2))
    running = None if own else (randn(3), randn(3).abs() + 0.1)
    dims = list(range(2, len(shape)))
    mean = x.mean(dims, keepdim=True) if own else running[0].reshape(column)
    variance = x.var(dims, correction=0, keepdim=True) if own else running[1].reshape(column)

    def held(x: Tensor) -> Tensor:
        normed = (x - mean) / (variance + 1e-5).sqrt()
        return normed if weight is None else normed * weight.reshape(column) + bias.reshape(column)

    arguments = (weight, bias, *(running or (None, None)), own, 0.1, 1e-5, False)
    torch.testing.assert_close(held(x), aten.instance_norm.default(x, *arguments))
    compare_with_formula(aten.instance_norm.default, x, *arguments, held=held)


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("normalized", [[4], [3, 4]])
def test_rms_norm(normalized: list[int], affine: bool, eps: float | None) -> None:
    x, weight = signed(2, 3, 4), randn(*normalized) if affine else None
    dims = list(range(-len(normalized), 0))
    square = x.square().mean(dims, keepdim=True)
    root = (square + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt()

    def held(x: Tensor) -> Tensor:
        return x / root if weight is None else x / root * weight

    torch.testing.assert_close(held(x), F.rms_norm(x, normalized, weight, eps))
    compare_with_formula(aten.rms_norm.default, x, normalized, weight, eps, held=held)


# Products with constants


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


# Products of activations

PRODUCTS: dict[str, tuple[Any, ...]] = {
    "bmm": (aten.bmm.default, (2, 3, 4), (2, 4, 2), ["self", "mat2"]),
    "matmul": (aten.matmul.default, (2, 3, 4), (2, 4, 2), ["self", "other"]),
    "heads": (aten.matmul.default, (2, 2, 3, 2), (2, 2, 2, 3), ["self", "other"]),
    "left broadcast": (aten.matmul.default, (2, 1, 3, 2), (2, 3, 2, 2), ["self", "other"]),
    "right broadcast": (aten.matmul.default, (2, 3, 2, 2), (2, 1, 2, 3), ["self", "other"]),
}


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
    """The numerator makes a quotient of either sign larger, the denominator none; by the letter z^+ and (-z)^+."""
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


# Sums


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


# Where the samples lie


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


def test_batch_of_windows_in_a_convolution() -> None:
    mark = BatchAxis(0, 3)
    compare_with_formula(
        aten.conv2d.default,
        *(signed(6, 2, 4, 4), randn(3, 2, 3, 3), randn(3), [1, 1], [1, 1]),
        input_batch=[mark],
        output_batch=mark,
    )


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    x, weight = randn(3, 5), randn(4, 5)
    relevance = torch.rand(SEEDS, 3, 4, dtype=torch.float64)
    whole = apply_rule(aten.linear.default, (x, weight), {}, slots(["input"]), relevance).values[0]
    for k in range(3):
        args = (x[k : k + 1], weight)
        alone = apply_rule(aten.linear.default, args, {}, slots(["input"]), relevance[:, k : k + 1]).values[0]
        torch.testing.assert_close(alone, whole[:, k : k + 1])


# Winners

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


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize(("dims", "last"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
def test_convolution_lays_out_relevance_like_the_activation(
    dims: int, last: torch.memory_format, kernel: int, stride: int, groups: int
) -> None:
    op = {2: aten.conv2d.default, 3: aten.conv3d.default}[dims]
    x, weight = randn(2, 4, *(4,) * dims), randn(8, 4 // groups, *(kernel,) * dims)
    z = op(x, weight, None, [stride] * dims, [kernel // 2] * dims, [1] * dims, groups)
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    settings = (weight, None, [stride] * dims, [kernel // 2] * dims, [1] * dims, groups)
    channels_last = x.contiguous(memory_format=last)
    for arrived in (relevance, relevance.flatten(0, 1).contiguous(memory_format=last).unflatten(0, (SEEDS, 2))):
        first = apply_rule(op, (x, *settings), {}, slots(["input"]), relevance).values[0]
        found = apply_rule(op, (channels_last, *settings), {}, slots(["input"]), arrived).values[0]
        torch.testing.assert_close(found, first)
        assert dims == 3 or found[0].is_contiguous(memory_format=last)  # of volumes torch returns either layout


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


def test_a_sort_that_is_stable() -> None:
    x = randn(2, 4, 3)
    relevance = torch.rand(SEEDS, 2, 4, 3, dtype=torch.float64)
    kwargs = {"stable": True, "dim": 1}
    applied = apply_rule(aten.sort.stable, (x,), kwargs, slots(["self"]), (relevance, None), output_batch=(FRONT, None))
    order = aten.sort.stable(x, **kwargs)[1]
    torch.testing.assert_close(applied.values[0].gather(2, order.expand(SEEDS, -1, -1, -1)), relevance)


# Reductions along an axis, sums at an index, samples at positions


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


SAMPLERS: dict[str, tuple[Any, ...]] = {
    # operation, input, grid, interpolation (bilinear, nearest), padding (zeros, border, reflection), corners
    "2d": (aten.grid_sampler_2d.default, (2, 3, 4, 5), (2, 3, 2, 2), 0, 0, False),
    "2d, nearest": (aten.grid_sampler_2d.default, (2, 1, 4, 5), (2, 3, 2, 2), 1, 1, True),
    "2d, either": (aten.grid_sampler.default, (2, 2, 3, 3), (2, 2, 3, 2), 0, 2, True),
    "3d": (aten.grid_sampler_3d.default, (2, 2, 3, 2, 4), (2, 2, 1, 2, 3), 0, 1, False),
    "3d, either": (aten.grid_sampler.default, (2, 1, 3, 2, 4), (2, 2, 1, 2, 3), 0, 0, False),
}


@both_signs
@pytest.mark.parametrize("case", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_samples_at_positions(case: tuple[Any, ...], positive: bool) -> None:
    op, shape, grid, *modes = case
    x, where = values(shape, positive), torch.rand(*grid, dtype=torch.float64) * 2.2 - 1.1
    alone = compare_with_formula(op, x, where, *modes, nonnegative=positive)
    relevance = torch.rand(
        SEEDS, *op(x, where, *modes).shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    both = apply_rule(op, (x, where, *modes), {}, slots(["input", "grid"]), relevance)
    torch.testing.assert_close(both.values[0], alone.values[0])
    assert not both.values[1].any(), "positions are held"
    found = apply_rule(op, (x, where, *modes), {}, slots(["input"]), relevance, rules="epsilon", stabilizer=1e-9)
    (part,) = contributions(lambda x: op(x, where, *modes), [x])
    z = op(x, where, *modes)
    s = relevance / torch.where(z < 0, z - 1e-9, z + 1e-9)
    torch.testing.assert_close(found.values[0].flatten(1), s.flatten(1) @ part)


@pytest.mark.parametrize(("active", "mode"), [("grid", 0), ("input", 2)])
def test_samples_that_there_is_no_rule_for(active: str, mode: int) -> None:
    args = (randn(2, 1, 4, 4), torch.zeros(2, 2, 2, 2).double(), mode, 0, False)
    with pytest.raises(RuleError, match="bicubic" if mode else "reads a constant"):
        apply_rule(aten.grid_sampler_2d.default, args, {}, slots([active]), torch.rand(SEEDS, 2, 1, 2, 2).double())


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


# Mass that can't be handed on

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


# Through the whole engine


class Alone(nn.Module):
    """A model that is one function of its input and a linear map to classes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


REUSED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "square": (lambda x: torch.mul(x, x), torch.mul),
    "twice": (lambda x: torch.add(x, x), torch.add),
    "one and a half": (lambda x: torch.add(x, x, alpha=0.5), lambda a, b: a + 0.5 * b),
    "autocorrelation": (
        lambda x: (x.unsqueeze(2) @ x.unsqueeze(1)).flatten(1),
        lambda a, b: (a.unsqueeze(2) @ b.unsqueeze(1)).flatten(1),
    ),
}


@pytest.mark.parametrize("case", REUSED.values(), ids=REUSED.keys())
def test_a_tensor_used_twice_by_one_operation(case: tuple[Any, ...]) -> None:
    """Each use is a factor of its own; the tensor receives what both of them do."""
    function, of_two = case
    x = randn(2, 4).abs() + 0.1
    found = relprop.explain(Alone(function).eval(), x, contrast=None)
    z = function(x)
    chosen = F.one_hot(z.argmax(1), z.shape[1]).double().flatten()
    inside = samples(x.shape, FRONT)
    expected, _, _ = formula(
        contributions(of_two, [x, x]),
        z.flatten(),
        chosen.unsqueeze(0),
        1e-2,
        [inside, inside],
        samples(z.shape, FRONT),
    )
    torch.testing.assert_close(found.relevance, (expected[0] + expected[1]).reshape(2, 4), rtol=1e-9, atol=1e-12)


def test_residual_block_through_the_engine() -> None:
    """Two operations that meet in a sum: the formula applied to each by hand gives the map."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.branch(x)

    model, x = Block().double().eval(), randn(2, 4)
    branch = model.branch(x).detach()
    whole = samples(x.shape, FRONT)
    z = (x + branch).detach()
    chosen = F.one_hot(z.argmax(1), 4).double().flatten().unsqueeze(0)
    terms = contributions(torch.add, [x, branch])
    (short, long), _, _ = formula(terms, z.flatten(), chosen, 1e-2, [whole] * 2, whole)
    through = contributions(lambda x: model.branch(x), [x])
    (long,), _, _ = formula(through, branch.flatten(), long, 1e-2, [whole], whole)
    expected = (short + long).reshape(2, 4)
    found = relprop.explain(model, x, contrast=None)
    torch.testing.assert_close(found.relevance, expected, rtol=1e-9, atol=1e-12)


def test_the_items_of_a_list_are_slots_of_their_own() -> None:
    assert str(Slot("tensors", 2)) == "tensors[2]"
    assert str(Slot("input")) == "input"


# Alternatives to absLRP's own rules, and ways for the terms of a sum to share


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


# Convolutions with a computed weight

COMPUTED: dict[str, tuple[Any, ...]] = {
    # operation, input, weight, bias, then stride, padding, dilation, groups; the samples are groups of channels
    "mixture of experts": (aten.conv2d.default, (1, 6, 4, 4), (8, 3, 3, 3), None, [1, 1], [1, 1], [1, 1], 2),
    "strided, with a bias": (aten.conv1d.default, (1, 4, 7), (4, 2, 3), 4, [2], [0], [1], 2),
}


@both_signs
@deltas
@pytest.mark.parametrize("case", COMPUTED.values(), ids=COMPUTED.keys())
def test_convolution_with_a_computed_weight(case: tuple[Any, ...], positive: bool, delta: float) -> None:
    op, shape, weight, offset, *rest = case
    channels, outputs = shape[1] // 2, weight[0] // 2
    compare_with_formula(
        op,
        values(shape, positive),
        signed(*weight),
        None if offset is None else randn(offset),
        *rest,
        active=["input", "weight"],
        nonnegative=[positive, False],
        input_batch=[BatchAxis(1, channels), BatchAxis(0, outputs)],
        output_batch=BatchAxis(1, outputs),
        delta=delta,
    )


def test_factors_of_a_convolution_share_alike_under_epsilon() -> None:
    x, weight = randn(1, 6, 4, 4), randn(8, 3, 3, 3)
    args, active = (x, weight, None, [1, 1], [1, 1], [1, 1], 2), slots(["input", "weight"])
    z = aten.conv2d.default(*args)
    relevance = torch.rand(SEEDS, *z.shape, dtype=torch.float64)
    marks = {"input_batch": [BatchAxis(1, 3), BatchAxis(0, 4)], "output_batch": BatchAxis(1, 4)}
    found = apply_rule(aten.conv2d.default, args, {}, active, relevance, rules="epsilon", epsilon=0.0, **marks).values
    parts = contributions(function_of(aten.conv2d.default, bind(aten.conv2d.default, args, {}), active), [x, weight])
    for value, part in zip(found, parts, strict=True):
        torch.testing.assert_close(value.flatten(1), (relevance / (2 * z)).flatten(1) @ part)


def test_a_computed_weight_and_padding_in_words_are_refused() -> None:
    args = (randn(1, 6, 4, 4), randn(8, 3, 3, 3), None, [1, 1], "same", [1, 1], 2)
    with pytest.raises(RuleError, match="padding='same': pad by number"):
        apply_rule(aten.conv2d.padding, args, {}, slots(["input", "weight"]), torch.rand(SEEDS, 1, 8, 4, 4).double())
