"""Drawings of sources that are no pictures, measured in their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.explanation.grids import LayoutError
from relprop.pictures.shapes import bars, signals, slices, spectrogram


def test_a_bar_is_as_high_as_its_number() -> None:
    drawn = bars(np.array([1.0, -0.5, 0.0]), (104, 90))
    coloured = (drawn != 255).any(2)
    coloured[52] = False  # the line of zero
    heights = [coloured[:, k * 30 + 15].sum() for k in range(3)]
    assert heights == [50, 24, 0]
    assert coloured[:52, 15].any()
    assert not coloured[53:, 15].any()
    assert drawn[40, 15, 0] > drawn[40, 15, 2], "red is positive"
    assert drawn[60, 45, 2] > drawn[60, 45, 0], "blue is negative"


def test_a_line_has_the_colour_of_its_relevance() -> None:
    time = np.linspace(0, 6, 200)
    heat = np.zeros((2, 200))
    heat[0, 100:] = 1.0
    drawn = signals(heat, (120, 400), np.stack([np.sin(time), np.cos(time)])).astype(int)
    red = (drawn[..., 0] - drawn[..., 2]) > 60
    assert red[:60, 205:].any(0).mean() > 0.9
    assert not red[:60, :195].any()
    assert not red[60:].any()


def test_low_bands_are_below_and_time_goes_right() -> None:
    heat = np.zeros((20, 50))
    heat[0, 49] = 1.0
    drawn = spectrogram(heat, (105, 200)).astype(int)
    rows, columns = np.nonzero(drawn[:100, :, 0] - drawn[:100, :, 2] > 60)
    assert rows.min() >= 95
    assert columns.min() >= 196


def test_each_slice_is_where_its_number_says() -> None:
    heat = np.zeros((30, 8, 8))
    heat[29] = 1.0
    drawn, chosen = slices(heat, (200, 300))
    assert chosen[0] == 0
    assert chosen[-1] == 29
    assert len(chosen) == 12
    red = (drawn[..., 0].astype(int) - drawn[..., 2]) > 60
    rows, columns = np.nonzero(red)
    assert rows.min() >= 2 * drawn.shape[0] // 3, "in the last row"
    assert columns.min() >= drawn.shape[1] // 5 - 3, "of five slices each it is the second there"
    assert columns.max() < 2 * drawn.shape[1] // 5


class Site(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.picture, self.site, self.head = nn.Conv2d(3, 4, 3), nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, site: Tensor) -> Tensor:
        return self.head(self.picture(x).relu().mean((2, 3)) + self.site(site).sum(1))


def _pooled(convolution: nn.Module, pool: nn.Module) -> nn.Module:
    return nn.Sequential(convolution, nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, 3))


SHAPES = {
    "signal": (_pooled(nn.Conv1d(3, 4, 5), nn.AdaptiveAvgPool1d(1)), (3, 40)),
    "spectrogram": (_pooled(nn.Conv1d(20, 4, 5), nn.AdaptiveAvgPool1d(1)), (20, 40)),
    "volume": (_pooled(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1)), (1, 9, 8, 7)),
    "numbers": (nn.Linear(7, 3), (7,)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_every_shape_has_a_drawing(kind: str) -> None:
    model, shape = SHAPES[kind]
    e = relprop.explain(model.eval(), torch.rand(2, *shape))
    words = " ".join(text.get_text() for text in e.figure().texts)
    assert {"volume": "slices 0, 1", "signal": "time from left to right, 0 to 39"}.get(kind, "class") in words
    assert "<img" in e._repr_html_()


def test_a_signal_is_drawn_as_it_is() -> None:
    model, shape = SHAPES["signal"]
    x = torch.rand(2, *shape)
    e = relprop.explain(model.eval(), x)
    assert e.figure(x).get_size_inches().tolist() == e.figure().get_size_inches().tolist()
    with pytest.raises(relprop.RelpropError, match="signals to draw must be shaped like the source"):
        e.figure(x[:, :2])


def test_what_is_looked_up_is_a_row_of_bars_beside_the_picture() -> None:
    e = relprop.explain(Site().eval(), (torch.rand(2, 3, 8, 8), torch.tensor([[1, 2], [0, 4]])))
    words = [text.get_text() for text in e.figure().texts]
    assert any(name in words for name in e.looked_up)
    assert e.heatmap().shape == (2, 8, 8), "that of the picture"


def test_what_has_no_drawing_says_so() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).eval()
    e = relprop.explain(model, torch.rand(2, 2, 2, 2, 2, 2))
    with pytest.raises(LayoutError, match="no drawing for a source of the shape"):
        e.figure()
    assert "<img" not in e._repr_html_()
