"""Integer arithmetic stays integer arithmetic: what it computes says which rows are read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop
from tests.helpers.models import CLASSES, Lambda, distance, gradient, seeded

Index = Callable[[Tensor], Tensor]

ROWS: dict[str, Index] = {
    "div floor": lambda i: torch.div(i, 4, rounding_mode="floor"),
    "div trunc": lambda i: (23 - i).div(4, rounding_mode="trunc"),
    "div in place": lambda i: i.clone().div_(4, rounding_mode="floor"),
    "div by a tensor": lambda i: torch.div(i, torch.tensor(4), rounding_mode="floor"),
    "div, 32 bits": lambda i: torch.div(i.int(), 4, rounding_mode="floor").long(),
    "//": lambda i: i // 4,
    "%": lambda i: (-i) % 6,
    "divmod": lambda i: torch.unravel_index(i, (6, 4))[0],
    "extremes": lambda i: torch.stack(torch.div(i, 4, rounding_mode="floor").aminmax(dim=1), 1)[:, [0, 1, 0]],
    "of a mask": lambda i: torch.div((i > 8).cumsum(1), 2, rounding_mode="floor"),
}
"""Of the places of the three largest of 24 scores, (B, 3), which of 6 rows is read: (B, 3)."""


def _gather(rows: Tensor, i: Tensor) -> Tensor:
    return rows.gather(1, i.unsqueeze(-1).expand(-1, -1, 4))


def _index(rows: Tensor, i: Tensor) -> Tensor:
    return rows[torch.arange(rows.shape[0])[:, None], i]


@pytest.mark.full
def test_rows_chosen_by_integer_arithmetic() -> None:
    """All spellings in one model, so that they cost one capture."""

    def forward(m: Lambda, x: Tensor) -> Tensor:
        best = m.scores(x).topk(3, 1).indices
        rows = m.rows(x).unflatten(1, (6, 4))
        read = [(_gather, _index)[k % 2](rows, index(best)) for k, index in enumerate(ROWS.values())]
        return m.head(torch.cat(read, 1).flatten(1))

    width = 12 * len(ROWS)
    model = seeded(
        lambda: Lambda(forward, scores=nn.Linear(8, 24), rows=nn.Linear(8, 24), head=nn.Linear(width, CLASSES))
    ).double()
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9
    e = relprop.explain(model, x)
    assert e.relevance.abs().flatten(1).sum(1).min() > 0
    assert e.conservation.error <= 1e-9


def test_a_rounded_quotient_of_activations_is_a_quotient_and_a_rounding() -> None:
    """It has no gradient; what it is added to has."""

    def forward(m: Lambda, x: Tensor) -> Tensor:
        y, z = m.body(x).chunk(2, 1)
        return m.head(y + y // 0.1 + torch.div(y, z.abs() + 0.1, rounding_mode="trunc"))

    model = seeded(lambda: Lambda(forward, body=nn.Linear(8, 24), head=nn.Linear(12, CLASSES))).double()
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = relprop.explain(model, x, rules="gradient")
    torch.testing.assert_close(found.output, model(x).detach())
    plain = Lambda(lambda m, x: m.head(m.body(x).chunk(2, 1)[0]), body=model.body, head=model.head)
    assert distance(found.relevance, gradient(plain, x, found.target)) <= 1e-9
    assert relprop.explain(model, x).conservation.error <= 1e-9
