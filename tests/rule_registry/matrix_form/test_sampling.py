"""Samples at positions against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from relprop.errors import RuleError
from tests.helpers.matrix_form import (
    SEEDS,
    apply_rule,
    compare_with_formula,
    contributions,
    slots,
)
from tests.helpers.operations import both_signs, randn, values

aten = torch.ops.aten


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
