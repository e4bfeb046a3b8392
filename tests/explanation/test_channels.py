"""Maps are summed over the axis of the channels, wherever it lies: as the graph tells, or the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.explanation.display import as_pixels
from relprop.explanation.grids import LayoutError
from tests.helpers.models import Lambda, distance, seeded

SIZE = 6


def first(channels: int = 3) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Conv2d(channels, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(6 * (SIZE - 2) ** 2, 4))
    ).eval()


LAST: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "permuted": lambda m, x: m.inner(x.permute(0, 3, 1, 2)),
    "moved, normalised before": lambda m, x: m.inner(((x - 0.5) / x.new_tensor([0.2, 0.3, 0.4])).movedim(-1, 1)),
    "transposed twice": lambda m, x: m.inner(x.transpose(1, 3).transpose(-1, -2).contiguous()),
    "channels turned round": lambda m, x: m.inner(x[..., [2, 1, 0]].permute(0, 3, 1, 2)),
}


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("name", LAST)
def test_the_graph_tells_where_the_channels_lie(name: str) -> None:
    """Six by six with six channels, at the input or behind the convolution: no size tells anything."""
    x = torch.rand(2, SIZE, SIZE, 3)
    e = relprop.explain(Lambda(LAST[name], inner=first()).eval(), x, target=1, layers=["inner.0"])
    assert e.channels == {"x": 3, "inner.0": 1}
    assert torch.equal(e.summed(), e.relevance.sum(3))
    assert e.heatmap().shape == (2, SIZE, SIZE)
    assert torch.equal(e.summed("inner.0"), e.layers["inner.0"].sum(1))  # type: ignore[union-attr]


def test_both_orders_of_axes_draw_the_same() -> None:
    x = torch.rand(2, 3, 6, 6)
    plain = relprop.explain(first(), x, target=1)
    last = relprop.explain(Lambda(LAST["permuted"], inner=first()).eval(), x.permute(0, 2, 3, 1), target=1)
    assert distance(last.heatmap(), plain.heatmap()) <= 1e-6
    assert (last.overlay(x.permute(0, 2, 3, 1)).astype(int) - plain.overlay(x)).__abs__().max() <= 1
    assert (as_pixels(x, 2) == as_pixels(x.permute(0, 2, 3, 1), 2)).all()
    assert plain.channels == {"x": 1}


@pytest.mark.full
def test_many_channels_are_told_too() -> None:
    x = torch.rand(2, 6, 6, 6)
    assert torch.equal((e := relprop.explain(first(6), x, target=1)).summed(), e.relevance.sum(1))
    by_rows = Lambda(lambda m, x: m.head(m.body(x).mean((1, 2))), body=nn.Linear(6, 8), head=nn.Linear(8, 4)).eval()
    assert torch.equal((e := relprop.explain(by_rows, x, target=1)).summed(), e.relevance.sum(3))


def test_what_cannot_be_told_is_an_error_and_can_be_given() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 3, 4)).eval()
    x = torch.rand(2, 3, 5, 3)
    e = relprop.explain(model, x, target=1)
    with pytest.raises(
        LayoutError, match=r"which axis of a source \(2, 3, 5, 3\) holds the channels .*channel_axis=1, "
    ):
        e.heatmap()
    assert "conservation error" in e._repr_html_()
    given = relprop.explain(model, x, target=1, channel_axis=-1)
    assert torch.equal(given.summed(), given.relevance.sum(3))
    with pytest.raises(ValueError, match="channel_axis must be an axis of a picture"):
        relprop.explain(model, x, channel_axis=0)
    by_size = relprop.explain(nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 5, 4)).eval(), torch.rand(2, 5, 5, 3))
    assert torch.equal(by_size.summed(), by_size.relevance.sum(3))
