"""Metrics beside GAE, by hand: pointing game, energy inside a mask, boxes, and curves of pixels removed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from relprop import gae
from relprop.errors import InputError, TargetError
from relprop.gae import MapError
from relprop.metrics import PerturbationCurves, area_under, boxes_to_masks, perturbation_curves, pointing_game
from relprop.metrics import energy_inside as energy

F64 = torch.float64
MORF, LERF = range(2)


def tensor(*values: object) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=F64)


def mask_of(*rows: str) -> Tensor:
    """One mask, ``#`` where the object is."""
    return torch.tensor([[c == "#" for c in row] for row in rows])[None]


def spot(height: int, width: int, *points: tuple[int, int]) -> Tensor:
    """One map that is 1 at some points and -1 elsewhere."""
    relevance = -torch.ones(1, height, width, dtype=F64)
    for row, column in points:
        relevance[0, row, column] = 1
    return relevance


# Energy


def test_energy_inside_by_hand() -> None:
    # Channels sum to 3 and 1 inside and outside of the first mask; what is negative counts nowhere.
    relevance = tensor([[[[3, 1], [0, 0]], [[-1, -2], [-9, 0]], [[1, 2], [0, 0]]]])
    score = energy(relevance, mask_of("#.", "#."))
    assert score.value.tolist() == [0.75]
    assert not score.undefined.any()
    both = energy(torch.cat([relevance, relevance]), torch.cat([mask_of("#.", ".."), mask_of("..", "##")]))
    assert both.value.tolist() == [0.75, 0]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_energy_of_any_scale_and_shape(scale: float) -> None:
    relevance, mask = tensor([[[1, 2], [1, 0]]]) * scale, mask_of("#.", "..")
    assert energy(relevance, mask).value.tolist() == [0.25]
    assert energy(relevance.unsqueeze(1), mask).value.tolist() == [0.25]
    assert energy((relevance / 3).unsqueeze(1).expand(-1, 3, -1, -1), mask).value.item() == pytest.approx(0.25)


def test_energy_where_nothing_is_relevant_is_zero_and_flagged() -> None:
    score = energy(tensor([[[0, -1]], [[2, -1]]]), mask_of("#.").repeat(2, 1, 1))
    assert score.value.tolist() == [0, 1]
    assert score.undefined.tolist() == [True, False]


def test_constant_map_has_the_objects_share_inside() -> None:
    mask = mask_of("#..#", "....")
    assert energy(gae.constant_map(1, (2, 4)), mask).value.tolist() == [0.25]
    assert pointing_game(gae.constant_map(1, (2, 4)), mask).value.tolist() == [0.25]


# Pointing game


def test_pointing_game_by_hand() -> None:
    mask = mask_of("....", ".##.", "....")
    assert pointing_game(spot(3, 4, (1, 2)), mask).value.tolist() == [1]
    assert pointing_game(spot(3, 4, (0, 2)), mask).value.tolist() == [0]
    # The largest relevance may be negative, and channels are summed: 5 - 9 is less than -1.
    assert pointing_game(tensor([[[[5, 0]], [[-9, -1]]]]), mask_of(".#")).value.tolist() == [1]


def test_ties_score_what_a_random_one_of_them_does() -> None:
    mask = mask_of("##..", "#...")
    assert pointing_game(spot(2, 4, (0, 0), (0, 3)), mask).value.tolist() == [0.5]
    assert pointing_game(spot(2, 4, (0, 0), (0, 1), (1, 0), (1, 3)), mask).value.tolist() == [0.75]


def test_tolerance_is_a_euclidean_distance_in_pixels() -> None:
    mask = mask_of("#.......", *["........"] * 7)
    points = {(0, 3): 3.0, (2, 2): 8**0.5, (3, 3): 18**0.5, (4, 3): 5.0, (0, 7): 7.0}
    for point, distance in points.items():
        assert pointing_game(spot(8, 8, point), mask, tolerance=distance + 1e-9).value.tolist() == [1], point
        assert pointing_game(spot(8, 8, point), mask, tolerance=distance - 1e-9).value.tolist() == [0], point
    assert pointing_game(spot(8, 8, (4, 3)), mask, tolerance=5).value.tolist() == [1]
    assert pointing_game(spot(8, 8, (7, 7)), mask, tolerance=1000).value.tolist() == [1]
    with pytest.raises(InputError, match="distance in pixels"):
        pointing_game(spot(8, 8, (0, 0)), mask, tolerance=-1)


def test_pointing_at_nothing_is_flagged() -> None:
    score = pointing_game(spot(1, 2, (0, 0)).repeat(2, 1, 1), torch.cat([mask_of(".."), mask_of("#.")]))
    assert score.value.tolist() == [0, 1]
    assert score.undefined.tolist() == [True, False]


# Boxes


def test_boxes_hold_the_pixels_whose_centres_they_hold() -> None:
    masks = boxes_to_masks(
        [tensor([0, 0, 2, 1]), tensor([[0.5, 0.6, 1.4, 9], [-5, 0, 0.6, 0.4], [2, 0, 3, 2]])], (2, 3)
    )
    # 0.5 is the centre of the first pixel: it belongs to a box that begins there, not to one that ends there.
    assert torch.equal(masks, torch.cat([mask_of("##.", "..."), mask_of("..#", "#.#")]))
    assert torch.equal(boxes_to_masks(tensor([[0, 0, 0.5, 1], [0, 0, 0.51, 1]]), (1, 1)), tensor([[[0]], [[1]]]).bool())
    assert not boxes_to_masks([torch.zeros(0, 4)], (2, 2)).any()


def test_bad_boxes_say_which() -> None:
    with pytest.raises(InputError, match=r"sample 1 has a box whose right .* not a corner with width and height"):
        boxes_to_masks(tensor([[0, 0, 2, 2], [5, 5, 2, 2]]), (8, 8))
    for bad in (tensor([[0, 0, 1]]), tensor([[0, 0, 1, torch.nan]])):
        with pytest.raises(InputError, match="sample 0: a box is four finite numbers"):
            boxes_to_masks(bad, (8, 8))
    with pytest.raises(InputError, match="empty"):
        boxes_to_masks([], (8, 8))


# Curves


def summing(*weights: Tensor) -> nn.Module:
    """Logits that are dot products of the picture with weights ``(C, H, W)``."""
    layer = nn.Linear(weights[0].numel(), len(weights), bias=False, dtype=F64)
    layer.load_state_dict({"weight": torch.stack([weight.flatten() for weight in weights])})
    return nn.Sequential(nn.Flatten(), layer).eval()


WEIGHT = tensor([[[4, 1], [3, 2]]])
PLAIN = summing(WEIGHT, torch.zeros_like(WEIGHT))
ONES = torch.ones(1, 1, 2, 2, dtype=F64)


def test_curves_by_hand() -> None:
    # The logit is the sum of what is left: MoRF takes 4, 3, 2, 1 away, LeRF 1, 2, 3, 4.
    curves = perturbation_curves(PLAIN, ONES, WEIGHT, steps=4)
    assert curves.target.tolist() == [0]
    assert curves.fraction.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.logit.tolist() == [[[10, 6, 3, 1, 0], [10, 9, 7, 4, 0]]]
    assert torch.allclose(curves.probability, curves.logit.sigmoid())  # the other class has logit 0
    areas = area_under(curves.logit, curves.fraction)
    assert areas.tolist() == [[(5 + 6 + 3 + 1) / 4, (5 + 9 + 7 + 4) / 4]]
    below = torch.sigmoid(tensor([10, 6, 3, 1, 0])) * tensor([0.5, 1, 1, 1, 0.5])
    above = torch.sigmoid(tensor([10, 9, 7, 4, 0])) * tensor([0.5, 1, 1, 1, 0.5])
    assert torch.allclose(curves.deletion, below.sum() / 4)
    assert torch.allclose(curves.insertion, above.sum() / 4)
    assert torch.allclose(curves.relevance_gain, (above - below).sum() / 4)


def test_order_is_that_of_signed_relevance_and_ties_go_in_reading_order() -> None:
    # Removed in the order of reading, whatever the order: zeros of both signs are equal.
    curves = perturbation_curves(PLAIN, ONES, tensor([[[0.0, -0.0], [0.0, -0.0]]]), steps=4)
    assert curves.logit.tolist() == [[[10, 6, 5, 2, 0]] * 2]
    assert curves.relevance_gain.tolist() == [0]
    # 1 is the least relevant by its sign, not by its magnitude.
    curves = perturbation_curves(PLAIN, ONES, tensor([[[1, -9], [0, 2]]]), steps=4)
    assert curves.logit.tolist() == [[[10, 8, 4, 1, 0], [10, 9, 6, 2, 0]]]


def test_fewer_steps_remove_more_at_once() -> None:
    curves = perturbation_curves(PLAIN, ONES, WEIGHT, steps=3)
    # Of four pixels round(4/3) = 1 and round(8/3) = 3 are gone.
    assert torch.allclose(curves.fraction, tensor([0, 0.25, 0.75, 1]))
    assert curves.logit.tolist() == [[[10, 6, 1, 0], [10, 9, 4, 0]]]
    assert area_under(curves.logit, curves.fraction)[0, 0].item() == pytest.approx(8 / 4 + 3.5 / 2 + 0.5 / 4)
    assert perturbation_curves(PLAIN, ONES, WEIGHT, steps=1).logit.tolist() == [[[10, 0]] * 2]


def test_channels_are_removed_together_by_their_sum() -> None:
    weights = tensor([[[1, 2]], [[5, 0]]])
    model, x = summing(weights, torch.zeros_like(weights)), torch.ones(1, 2, 1, 2, dtype=F64)
    for relevance in (tensor([[[[9, 1]], [[-9, 0]]]]), tensor([[[0, 1]]]), tensor([[[[0, 1]]]])):
        assert perturbation_curves(model, x, relevance, steps=2).logit.tolist() == [[[8, 6, 0], [8, 2, 0]]]


def test_baseline_per_channel_and_as_pictures() -> None:
    weights = tensor([[[1, 2]], [[5, 0]]])
    model, x = summing(weights, torch.zeros_like(weights)), torch.ones(1, 2, 1, 2, dtype=F64)
    relevance = tensor([[[0, 1]]])
    # The right pixel (2 + 0) becomes 2 * 3, then the left one (1 + 5) becomes 3 + 5 * 10.
    assert perturbation_curves(model, x, relevance, steps=2, baseline=[3, 10]).logit[0, 0].tolist() == [8, 12, 59]
    other = tensor([[[[7, 3]], [[0, 2]]]])
    assert perturbation_curves(model, x, relevance, steps=2, baseline=other).logit[0, 0].tolist() == [8, 12, 13]
    assert perturbation_curves(model, x, relevance, steps=2, baseline=0.5).logit[0, 0].tolist() == [8, 7, 4]


def test_regions_are_removed_as_a_whole_by_their_mean() -> None:
    # Regions of 2 x 2 in 3 x 3: one of four pixels, two of two and one of one.
    x, weight = torch.ones(1, 1, 3, 3, dtype=F64), tensor([[[1, 1, 10], [1, 1, 10], [100, 100, 1000]]])
    model = summing(weight, torch.zeros_like(weight))
    # The first region has the largest sum, 8, and a mean of 2 only; its best pixel is the best of all.
    relevance = tensor([[[8, 0, 3], [0, 0, 3], [4, 3, 0.5]]])
    curves = perturbation_curves(model, x, relevance, steps=4, region=2)
    assert curves.logit.tolist() == [[[1224, 1024, 1004, 1000, 0], [1224, 224, 220, 200, 0]]]
    assert curves.fraction.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert perturbation_curves(model, x, relevance, steps=1, region=3).logit.tolist() == [[[1224, 0]] * 2]


def test_samples_are_independent_and_the_target_is_free() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    x, relevance = torch.randn(3, 3, 6, 5, dtype=F64), torch.randn(3, 6, 5, dtype=F64)
    together = perturbation_curves(model, x, relevance, target=[2, 0, 1], steps=7)
    assert together.target.tolist() == [2, 0, 1]
    for k, target in enumerate([2, 0, 1]):
        alone = perturbation_curves(model, x[k : k + 1], relevance[k : k + 1], target=target, steps=7)
        assert torch.allclose(alone.logit[0], together.logit[k])
        assert torch.allclose(alone.probability[0], together.probability[k])
    assert perturbation_curves(model, x, relevance).target.tolist() == model(x).argmax(1).tolist()


def test_insertion_is_what_putting_pixels_on_the_baseline_gives() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).double().eval()
    x, relevance = torch.randn(1, 1, 4, 6, dtype=F64), torch.randn(1, 4, 6, dtype=F64)
    curves = perturbation_curves(model, x, relevance, target=1, steps=24)
    canvas, seen = torch.zeros_like(x), []
    for pixel in [None, *relevance.flatten().argsort(descending=True).tolist()]:
        if pixel is not None:
            canvas.view(-1)[pixel] = x.view(-1)[pixel]
        seen.append(model(canvas).softmax(1)[0, 1].item())
    assert curves.insertion.item() == pytest.approx((sum(seen) - (seen[0] + seen[-1]) / 2) / 24)


def test_area_under_by_hand() -> None:
    assert area_under(tensor([[1, 1, 1], [0, 1, 0]])).tolist() == [1, 0.5]
    assert area_under(tensor([0, 2, 0]), tensor([0, 0.25, 1])).item() == 1
    for bad in (tensor([1]), tensor(1)):
        with pytest.raises(InputError, match="two points or more"):
            area_under(bad)
    with pytest.raises(InputError, match="each with its place"):
        area_under(tensor([1, 2]), tensor([0, 0.5, 1]))


def test_the_right_map_gains_more_than_controls_and_the_wrong_one_loses() -> None:
    torch.manual_seed(0)
    weight = torch.randn(1, 12, 12, dtype=F64)
    model, x = summing(weight / 4, -weight / 4), torch.rand(8, 1, 12, 12, dtype=F64)
    gain = {
        name: perturbation_curves(model, x, relevance, target=0).relevance_gain.mean().item()
        for name, relevance in {
            "right": x * weight,
            "wrong": -x * weight,
            "random": gae.random_map(range(8), (12, 12), seed=0),
            "constant": gae.constant_map(8, (12, 12)),
        }.items()
    }
    assert gain["right"] > 0.5
    assert gain["wrong"] == pytest.approx(-gain["right"])
    assert abs(gain["random"]) < 0.2
    assert gain["constant"] == 0


# Bad input, and what stays as it was


def test_bad_input_is_told_before_anything_is_computed() -> None:
    mask = mask_of("#.", "..")
    for metric in (energy, pointing_game):
        with pytest.raises(MapError, match=r"shape \(1, 3, 3\), not \(1, C, 2, 2\)"):
            metric(torch.ones(1, 3, 3), mask)
        with pytest.raises(MapError, match="NaN"):
            metric(torch.full((1, 2, 2), torch.nan), mask)
        for bad in (mask.float(), mask[0], [[True]]):
            with pytest.raises(InputError, match="truth values"):
                metric(torch.ones(1, 2, 2), bad)  # type: ignore[arg-type]
    for given, error, words in (
        ({"relevance": torch.ones(1, 3, 3)}, MapError, "shape"),
        ({"relevance": torch.full((1, 2, 2), torch.inf)}, MapError, "infinite"),
        ({"x": torch.ones(1, 2, 2)}, InputError, r"\(B, C, H, W\)"),
        ({"target": 2}, TargetError, "out of range"),
        ({"steps": 0}, InputError, "in 0 steps"),
        ({"steps": 5}, InputError, "4 regions to remove"),
        ({"region": 3}, InputError, "doesn't fit"),
        ({"region": 0}, InputError, "doesn't fit"),
        ({"region": 2}, InputError, "1 regions"),
        ({"baseline": [1.0, 2.0]}, InputError, "2 values"),
        ({"baseline": torch.full_like(ONES, torch.nan)}, InputError, "NaN"),
        ({"model": nn.Sequential(nn.Flatten())}, InputError, "training mode"),
        ({"model": lambda x: x}, InputError, "logits"),
    ):
        arguments = {"model": PLAIN, "x": ONES, "relevance": WEIGHT, "steps": 4, **given}
        with pytest.raises(error, match=words):
            perturbation_curves(**arguments)


def test_curves_are_free_of_history_and_leave_the_model_alone() -> None:
    before = [parameter.clone() for parameter in PLAIN.parameters()]
    x = ONES.clone().requires_grad_()
    curves = perturbation_curves(PLAIN, x, WEIGHT.clone().requires_grad_(), steps=2)
    assert isinstance(curves, PerturbationCurves)
    assert not curves.logit.requires_grad
    assert x.grad is None
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, PLAIN.parameters(), strict=True))
    half = perturbation_curves(PLAIN.float(), ONES.float(), WEIGHT.to(torch.bfloat16), steps=2)
    PLAIN.double()
    assert half.logit.dtype == torch.float32
