"""Interpolation against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.matrix_form import (
    compare_with_formula,
)
from tests.helpers.operations import RESIZES, both_signs, values

aten = torch.ops.aten


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
