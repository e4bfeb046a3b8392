"""Normalisations, whose statistics are held fixed, against the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.helpers.matrix_form import (
    apply_rule,
    compare_with_formula,
    slots,
)
from tests.helpers.operations import both_signs, randn, signed, values

aten = torch.ops.aten


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
