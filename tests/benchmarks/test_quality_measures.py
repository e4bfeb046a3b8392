"""Each measure of the ablation against values computed by hand, and the tables made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.quality.comparison import differences, means_table, summary, tables
from benchmarks.quality.measures import REGION, fours, log_odds, own_quadrant, quadrant_shares, relevance_gains
from benchmarks.quality.recognised import Pictures


class Corner(nn.Module):
    """Ten for class 0 where the first square is white, in proportion; nothing for class 1."""

    def forward(self, x: Tensor) -> Tensor:
        corner = x[:, :, :REGION, :REGION].mean((1, 2, 3))
        return torch.stack([10 * corner, 0 * corner], 1)


def test_relevance_gain_by_hand() -> None:
    x = torch.zeros(2, 3, 224, 224)
    x[:, :, :REGION, :REGION] = 1
    relevance = torch.zeros(2, 1, 224, 224)
    relevance[0, :, :REGION, :REGION] = 1
    relevance[1, :, :REGION, :REGION] = -1
    gains = relevance_gains(Corner(), Pictures(x, torch.zeros(2, dtype=torch.int64), (0, 1)), relevance)
    # One of 196 squares matters: it goes in the first of five steps, or in the last; the others are 157 of 196 wide.
    probability = 1 / (1 + np.exp(-10))
    expected = np.array([157 / 196, -157 / 196])
    assert gains["gain"].numpy() == pytest.approx((probability - 0.5) * expected, rel=1e-5)
    assert gains["log_odds_gain"].numpy() == pytest.approx(10 * expected, rel=1e-5)


def test_log_odds_are_exact_where_a_class_is_nearly_certain() -> None:
    output = torch.tensor([[40.0, 0.0, -1.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    certain = 40 - np.log(1 + np.exp(-1))
    p = output[1].softmax(0).numpy()
    found = log_odds(output).numpy()
    assert found[0, 0] == pytest.approx(certain, rel=1e-12)
    assert found[1] == pytest.approx(np.log(p / (1 - p)), rel=1e-12)


def test_share_of_the_own_quadrant_by_hand() -> None:
    maps = torch.zeros(4, 2, 8, 8)
    maps[0, :, 0, 0] = 1  # all in its own
    maps[1, 0, 0, 7], maps[1, 0, 7, 7] = 3, 1  # three quarters
    maps[2, 0, 7, 0], maps[2, 1, 7, 0], maps[2, 0, 0, 0] = 2, -1, 1  # channels are summed first: one half
    maps[3, 0, 7, 7], maps[3, 0, 0, 0], maps[3, 0, 3, 0], maps[3, 0, 0, 4] = (
        1,
        -5,
        9,
        9,
    )  # negative and central: nothing
    assert quadrant_shares(maps).tolist() == pytest.approx([1, 0.75, 0.5, 1])
    maps[2] = -1
    assert quadrant_shares(maps)[2].isnan()
    assert quadrant_shares(torch.ones(4, 1, 10, 10)).tolist() == pytest.approx([0.25] * 4)


def test_every_picture_of_a_mosaic_is_asked_for_in_turn() -> None:
    classes = [4, 4, 1, 2, 3, 5]
    x = torch.tensor(classes).float().reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    asked: list[Sequence[int]] = []

    def knows(pictures: Pictures) -> Tensor:
        asked.append(pictures.indices)
        return (pictures.x == pictures.target.reshape(-1, 1, 1, 1)).float()

    found = own_quadrant(knows, Pictures(x, torch.tensor(classes), tuple(range(10, 16))))
    assert asked == [(10, 12, 13, 14)]
    assert np.array_equal(found.numpy(), [1, np.nan, 1, 1, 1, np.nan], equal_nan=True)
    blind = own_quadrant(lambda pictures: pictures.x * 0 + 1, Pictures(x, torch.tensor(classes), tuple(range(6))))
    assert found[[0, 2, 3, 4]].mean() == 1
    assert blind[[0, 2, 3, 4]].tolist() == pytest.approx([0.25] * 4)
    assert fours([1, 1, 1, 1]) == []


def row(variant: str, model: str = "a", reason: str = "", **values: Sequence[float]) -> Mapping[str, str]:
    measures = ("inside", "pointing", "gain", "log_odds_gain", "quadrant", "redrawn_last", "redrawn_half")
    empty = dict.fromkeys((*measures, "redrawn_all", "other_class"), "")
    told = {name: " ".join(f"{value:.4g}" for value in some) for name, some in values.items()}
    return {"variant": variant, "model": model, "reason": reason, "passes": "2", "seconds": "0.1234", **empty, **told}


def test_differences_are_paired_and_adjusted_for_their_number() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(12).round(3)
    better, other = base + np.linspace(0.01, 0.12, 12), generator.random(12).round(3)
    rows = [row("d", inside=base), row("b", inside=better), row("o", inside=other), row("few", inside=base[:5])]
    found = differences(rows, "inside", "d")
    assert found.keys() == {"d", "b", "o"}
    assert found["b"].values == pytest.approx(better - base)
    p = [stats.wilcoxon(better - base).pvalue, stats.wilcoxon(other - base).pvalue]
    assert p[0] < p[1]
    assert (found["b"].p, found["o"].p) == pytest.approx((min(1, 2 * p[0]), max(min(1, 2 * p[0]), p[1])))
    assert (found["b"].arrow, found["d"].arrow) == ("↑", "")
    assert np.isnan(found["d"].p)
    assert differences(rows, "inside", "nobody") == {}
    gap = [row("d", gain=[1, np.nan, 3]), row("b", gain=[2, 5, 5])]
    assert differences(gap, "gain", "d")["b"].values.tolist() == [1, 2]


def test_tables_say_what_was_measured_and_what_was_refused() -> None:
    rows = [
        row("d", inside=[0.5] * 8, gain=np.zeros(8), quadrant=[0.25] * 8, other_class=[1, 0.5]),
        row("b", inside=np.linspace(0.6, 0.7, 8), gain=[0.1] * 8, quadrant=[0.25] * 8),
        row("no", reason="has none"),
        row("d", "b", inside=[0.5], gain=[0.5], quadrant=[0.5]),
    ]
    lines = means_table(rows[:3], "d").splitlines()
    assert lines[2] == "| `d` | 0.50 |  | 0.00 |  | 0.25 |  |  |  | 0.75 | 2 | 123 |"
    assert lines[3].startswith("| `b` | 0.65 [0.6")
    assert "]↑ |  | 0.10↑ |  | 0.25 |" in lines[3]
    assert len(lines) == 4
    text = tables(rows, "d")
    assert "- `no`: has none" in text
    assert "**a**, 8 pictures with outlined objects, 8 labelled ones, 2 of them" in text
    assert "| `b` | +0.15 [" in text
    assert summary(rows, "d").splitlines() == [
        "| inside / gain / own quadrant | a | b |",
        "| --- | --- | --- |",
        "| `d` | 0.50 / 0.00 / 0.25 | 0.50 / 0.50 / 0.50 |",
        "| `b` | 0.65↑ / 0.10↑ / 0.25 | - |",
        "| `no` | - | - |",
    ]
