"""The formula, applied to each operation by hand, gives the map of the whole engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from rule_registry import Slot
from tests.helpers.matrix_form import (
    FRONT,
    contributions,
    formula,
    samples,
)
from tests.helpers.operations import randn


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
