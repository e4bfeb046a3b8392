"""The scores of a masking run by hand, and their ranges."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from relprop import gae
from relprop.gae import Flag, MapError, MaskingRun, Quadrants, Score
from tests.helpers.gae_cases import F64, changes, curves, tensor


def test_positive_map_by_hand() -> None:
    # Channels sum to (3, -2, 6, 0): relu, over 6.
    relevance = tensor([[1, -1], [4, -2]], [[2, -1], [2, 2]])[None]
    expected = tensor([[0.5, 0], [1, 0]])[None]
    assert torch.equal(gae.positive_map(relevance, (1,), (2, 2)), expected)
    assert torch.equal(gae.positive_map(relevance.sum(1, keepdim=True), (1,), (2, 2)), expected)
    assert torch.equal(gae.positive_map(relevance.sum(1), (1,), (2, 2)), expected)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1.5e308])
def test_positive_map_of_any_scale(scale: float) -> None:
    relevance = tensor([[1, 0.5], [0, -1]]).expand(1, 2, 2, 2)
    assert torch.equal(gae.positive_map(relevance * scale, (1,), (2, 2)), tensor([[[1, 0.5], [0, 0]]]))


def test_positive_map_in_half_precision_is_computed_in_single() -> None:
    relevance = torch.full((1, 3, 2, 2), 60000, dtype=torch.float16)  # three of them are beyond float16
    found = gae.positive_map(relevance, (1,), (2, 2))
    assert found.dtype == torch.float32
    assert found.tolist() == [[[1, 1], [1, 1]]]


def test_faithfulness_by_hand() -> None:
    # r = (1, 0.5, 0.25, 0), I = (1, -1, 1, 1): (1 - 0.5 + 0.25) / 1.75.
    found = gae.faithfulness(tensor([[[4, 2], [1, -3]]]), torch.tensor([[[1, -1], [1, 1]]], dtype=torch.int8))
    assert found.value.tolist() == [0.75 / 1.75]
    assert found.undefined.tolist() == [False]


def test_faithfulness_of_nothing_is_zero_and_flagged() -> None:
    maps = tensor([[[0, 0], [0, 0]], [[-1, -2], [-1, 0]], [[1, 0], [0, 0]]])
    found = gae.faithfulness(maps, torch.ones(3, 2, 2, dtype=torch.int8))
    assert found.value.tolist() == [0, 0, 1]
    assert found.undefined.tolist() == [True, True, False]


def test_map_change_by_hand() -> None:
    # r_0 = (1, 0.5, 0, 0). The same map doubled; all elsewhere; (1, 1, 0, 0): |0.5| / (1.5 + 2).
    own = tensor([[[2, 1], [0, 0]]])
    others = tensor([[[4, 2], [0, 0]], [[0, 0], [1, 1]], [[3, 3], [0, -1]]])[None]
    found = gae.map_change(own, others)
    assert found.value.tolist() == [[0, 1, 0.5 / 3.5]]
    assert not found.undefined.any()


def test_change_from_nothing_to_nothing_is_flagged() -> None:
    found = gae.map_change(tensor([[[0, 0]]]), tensor([[[[0, -1]], [[1, 0]]]]))
    assert found.value.tolist() == [[0, 1]]
    assert found.undefined.tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("delta", "omega", "expected"),
    [
        ((0.5, 0.25), (0.5, 0.25), 1.0),  # the map changes as the output does
        ((0.5, 0.25), (-0.5, -0.25), -1.0),  # the opposite
        ((0.5,), (0.0, 0.5), -1.0),  # at another step
        ((0.5, 0.5), (0.5, 0.0), 1 - 2 * 0.5 / 1.5),
        ((), (0.5,), -1.0),  # a map that never changes, as the controls'
    ],
)
def test_robustness_by_hand(delta: tuple[float, ...], omega: tuple[float, ...], expected: float) -> None:
    found = gae.robustness(changes(*delta), curves(*omega))
    torch.testing.assert_close(found.value, tensor([expected]))
    assert found.undefined.tolist() == [False]


def test_robustness_where_nothing_changes_is_zero_and_flagged() -> None:
    found = gae.robustness(changes(), curves())
    assert found.value.tolist() == [0]
    assert found.undefined.tolist() == [True]


def test_robustness_hands_on_the_flag_of_a_change() -> None:
    change = changes(0.5)
    change.undefined[0, 1, 3] = True
    assert gae.robustness(change, curves(0.5)).undefined.tolist() == [True]


def test_omega_is_over_the_first_output() -> None:
    # (0.9 - 0.6) / 0.6 = 0.5 = delta.
    output = torch.full((1, 2, 10), 0.6, dtype=F64)
    output[0, 1, 1] = 0.9
    torch.testing.assert_close(gae.robustness(changes(0.5), output).value, tensor([1.0]))


def test_local_consistency_by_hand() -> None:
    found = gae.local_consistency(tensor(1.0, 0.5, -0.75, -1.0), tensor(1.0, -0.25, 0.5, -1.0))
    assert found.tolist() == [1, 0.125, 0, 0]


def run_of(impact: Tensor, probability: Tensor) -> MaskingRun:
    """Return a run that holds what scores ask it for."""
    count = len(impact)
    nothing = torch.zeros(count, dtype=torch.bool)
    steps = torch.zeros(count, 2, *impact.shape[1:], dtype=torch.uint8)
    return MaskingRun(nothing.long(), probability[:, 0], steps, impact, probability, probability, nothing)


def test_scores_of_maps_by_hand() -> None:
    run = run_of(torch.tensor([[[1, 1], [-1, -1]]], dtype=torch.int8), curves(0.5))
    quadrants = Quadrants(tensor([[1, -1, 0, 1]]), torch.tensor([False]), torch.tensor([False]))
    own = tensor([[[3, 0], [1, 0]]])  # F = (1 - 1/3) / (4/3) = 0.5
    masked = own.expand(1, 2, 9, 2, 2).clone()
    masked[0, 0, 0] = tensor([[3, 0], [0, 3]])  # D = (1/3 + 1) / (4/3 + 2) = 0.4; D(0.4, 0.5) = 1/9
    mosaic = torch.zeros(1, 4, 4, dtype=F64)
    mosaic[0, 0, 0], mosaic[0, 0, 3] = 3, 1  # C = (1 - 1/3) / (4/3) = 0.5
    found = gae.score_maps(run, quadrants, own, masked, mosaic)
    expected = {
        "faithfulness": 0.5,
        "robustness": 7 / 9,
        "unclipped_sum": 0.5 + 7 / 9,
        "local_consistency": (0.5 + 7 / 9) / 2,
        "contrastiveness_raw": 0.5,
        "contrastiveness": 0.5,
        "gae": (0.5 + 7 / 9) / 4,
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name), tensor([value]), msg=name)
    assert found.flags.tolist() == [0]


def test_what_was_not_asked_is_nan() -> None:
    run = run_of(torch.ones(1, 2, 2, dtype=torch.int8), curves(0.5))
    quadrants = Quadrants(tensor([[1, -1, 0, 1]]), torch.tensor([False]), torch.tensor([False]))
    found = gae.score_maps(run, quadrants, tensor([[[1, 1], [1, 1]]]))
    assert found.faithfulness.tolist() == [1]
    for name in ("robustness", "unclipped_sum", "local_consistency", "contrastiveness_raw", "contrastiveness", "gae"):
        assert getattr(found, name).isnan().all(), name
    assert found.flags.tolist() == [0]


def test_flags() -> None:
    unknown = torch.tensor([True, False])
    run = run_of(torch.ones(2, 2, 2, dtype=torch.int8), curves(0.5).expand(2, -1, -1))
    run = replace(run, undefined=~unknown)
    quadrants = Quadrants(torch.ones(2, 4, dtype=F64), torch.tensor([False, False]), torch.tensor([False, True]))
    ones = Score(torch.ones(2, dtype=F64), unknown)
    found = gae.collect_scores(run, quadrants, ones, ones, ones)
    three = Flag.FAITHFULNESS | Flag.ROBUSTNESS | Flag.CONTRASTIVENESS
    assert found.flags.tolist() == [three, Flag.IMPACT | Flag.ONE_CLASS]
    assert found.contrastiveness.isnan().tolist() == [False, True]
    assert found.contrastiveness_raw.isnan().tolist() == [False, True]
    assert found.gae.isnan().tolist() == [False, True]
    assert found.local_consistency.tolist() == [1, 1]


def small_maps(*lead: int) -> st.SearchStrategy[Tensor]:
    size = math.prod(lead) * 16
    values = st.lists(st.integers(-8, 8), min_size=size, max_size=size)
    return values.map(lambda v: torch.tensor(v, dtype=F64).reshape(*lead, 4, 4))


@given(small_maps(1), small_maps(1, 18), small_maps(1), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_ranges_and_scale(own: Tensor, states: Tensor, mosaic: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    impact = torch.randint(-1, 2, (1, 4, 4), generator=generator, dtype=torch.int8)
    run = run_of(impact, torch.rand(1, 2, 10, generator=generator, dtype=F64))
    quadrants = Quadrants(torch.rand(1, 4, generator=generator, dtype=F64) * 2 - 1, *torch.zeros(2, 1).bool())
    masked = states.reshape(1, 2, 9, 4, 4)
    found = gae.score_maps(run, quadrants, own, masked, mosaic)
    tiny = 1e-12
    for name in ("faithfulness", "robustness", "contrastiveness_raw"):
        assert (getattr(found, name).abs() <= 1 + tiny).all(), name
    for name in ("local_consistency", "contrastiveness", "gae"):
        assert ((getattr(found, name) >= 0) & (getattr(found, name) <= 1 + tiny)).all(), name
    scaled = gae.score_maps(run, quadrants, own * 7.3, masked * 0.031, mosaic * 1e9)
    for name in vars(found):
        torch.testing.assert_close(getattr(scaled, name), getattr(found, name), rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (torch.full((1, 2, 2), torch.nan), "sample 0 holds NaN"),
        (torch.full((1, 3, 2, 2), torch.inf), "sample 0 holds NaN or infinite"),
        (torch.ones(2, 2, 2), r"shape \(2, 2, 2\), not \(1, C, 2, 2\) or \(1, 2, 2\)"),
        (torch.ones(1, 2, 3), r"not \(1, C, 2, 2\)"),
        (torch.ones(1, 0, 2, 2), r"not \(1, C, 2, 2\)"),
        (torch.ones(1, 2, 2, dtype=torch.complex64), "real"),
        ([[1.0]], "not a list"),
    ],
)
def test_bad_maps(relevance: Tensor, message: str) -> None:
    with pytest.raises(MapError, match=message):
        gae.faithfulness(relevance, torch.ones(1, 2, 2, dtype=torch.int8))


def test_maps_and_outputs_that_do_not_fit() -> None:
    with pytest.raises(MapError, match="not of the samples"):
        gae.map_change(torch.ones(2, 4, 4), torch.ones(1, 2, 9, 4, 4))
    with pytest.raises(MapError, match=r"changes \(B, 2, 9\)"):
        gae.robustness(Score(torch.zeros(1, 9), torch.zeros(1, 9, dtype=torch.bool)), torch.zeros(1, 2, 10))
