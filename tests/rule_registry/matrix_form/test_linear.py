"""Layers with weights against the formula, built from the operation's own Jacobian."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from relprop.errors import RuleError
from rule_registry import BatchAxis
from rule_registry.abslrp import linear
from tests.helpers.matrix_form import (
    SEEDS,
    apply_rule,
    bind,
    compare_with_formula,
    contributions,
    function_of,
    slots,
)
from tests.helpers.operations import CONVOLUTIONS, TRANSPOSED, both_signs, deltas, randn, signed, values

aten = torch.ops.aten


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


@pytest.mark.sweep(every=11)
@pytest.mark.usefixtures("blocks")
@both_signs
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolution(case: tuple[Any, ...], bias: bool, positive: bool) -> None:
    op, shape, weight, *rest = case
    x, offset = values(shape, positive), randn(weight[0]) if bias else None
    compare_with_formula(op, x, randn(*weight), offset, *rest, nonnegative=positive)


@pytest.mark.sweep(every=4)
@pytest.mark.usefixtures("blocks")
@both_signs
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", TRANSPOSED.values(), ids=TRANSPOSED.keys())
def test_transposed_convolution(case: tuple[Any, ...], bias: bool, positive: bool) -> None:
    op, shape, weight, *rest = case
    x, offset = values(shape, positive), randn(weight[1] * rest[3]) if bias else None
    compare_with_formula(op, x, randn(*weight), offset, *rest, nonnegative=positive)


def test_batch_of_windows_in_a_convolution() -> None:
    mark = BatchAxis(0, 3)
    compare_with_formula(
        aten.conv2d.default,
        *(signed(6, 2, 4, 4), randn(3, 2, 3, 3), randn(3), [1, 1], [1, 1]),
        input_batch=[mark],
        output_batch=mark,
    )


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
