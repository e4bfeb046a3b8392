"""Values and arguments of operations that several tests of rules share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

aten = torch.ops.aten


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


PRODUCTS: dict[str, tuple[Any, ...]] = {
    "bmm": (aten.bmm.default, (2, 3, 4), (2, 4, 2), ["self", "mat2"]),
    "matmul": (aten.matmul.default, (2, 3, 4), (2, 4, 2), ["self", "other"]),
    "heads": (aten.matmul.default, (2, 2, 3, 2), (2, 2, 2, 3), ["self", "other"]),
    "left broadcast": (aten.matmul.default, (2, 1, 3, 2), (2, 3, 2, 2), ["self", "other"]),
    "right broadcast": (aten.matmul.default, (2, 3, 2, 2), (2, 1, 2, 3), ["self", "other"]),
}
