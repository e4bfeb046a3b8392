"""GAE by hand: every function on cases whose numbers are written out, then what holds for all."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from relprop import gae
from relprop.errors import InputError, TargetError
from relprop.gae import Flag, MapError, MaskingRun, Quadrants, Score
from relprop.gae.masking import impact_map, look, masked_count

F64 = torch.float64


def tensor(*values: object) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=F64)


def linear(weights: Tensor) -> nn.Module:
    """Logits that are dot products of the picture with weights, ``(classes, elements)``."""
    layer = nn.Linear(weights.shape[1], len(weights), bias=False, dtype=weights.dtype)
    layer.load_state_dict({"weight": weights})
    return nn.Sequential(nn.Flatten(), layer).eval()


def small_cnn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))
    return nn.Sequential(*layers).double().eval()


def pictures(count: int, height: int = 6, width: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=F64)


# Maps


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


# Faithfulness


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


# Robustness


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


def curves(*omega: float, start: float = 0.8) -> Tensor:
    """Outputs ``(1, 2, 10)`` whose omega at steps 1, 2, ... is as given, then 0."""
    both = torch.full((1, 2, 10), start, dtype=F64)
    for t, value in enumerate(omega, 1):
        both[0, 0, t] = start - value * start
    return both


def changes(*delta: float) -> Score:
    """Changes ``(1, 2, 9)`` whose delta at steps 1, 2, ... is as given, then 0."""
    values = torch.full((1, 2, 9), 0.25, dtype=F64)
    for t, value in enumerate(delta):
        values[0, 0, t] += value
    return Score(values, torch.zeros(1, 2, 9, dtype=torch.bool))


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


# Mosaics


def test_mosaic_by_hand() -> None:
    x = torch.arange(64.0).reshape(4, 1, 4, 4)
    # Means of two by two: of the first 0, 1, 4, 5 -> 2.5; each next picture 16 more.
    tile = torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    expected = torch.cat([torch.cat([tile, tile + 16], 1), torch.cat([tile + 32, tile + 48], 1)], 0)
    assert torch.equal(gae.make_mosaics(x)[0, 0], expected)


def test_mosaic_of_odd_size_has_the_smaller_half_first() -> None:
    values = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
    mosaics = gae.make_mosaics(values[:, None, None, None].expand(8, 2, 5, 3))
    assert mosaics.shape == (2, 2, 5, 3)
    assert mosaics[0, 1].tolist() == [[1, 2, 2]] * 2 + [[3, 4, 4]] * 3
    assert mosaics[1, 0].tolist() == [[5, 6, 6]] * 2 + [[7, 8, 8]] * 3


def test_quadrant_scores_by_hand() -> None:
    # Classes 0, 1, 2, 0. On the first picture q = (0.5, 0.25, 0.125, ...): 2 * 0.5 - 1 = 0, 2 * 0.25 - 1 = -0.5.
    probability = tensor(
        [0.5, 0.25, 0.125, 0.125], [0.25, 0.5, 0.125, 0.125], [0.01, 0.01, 0.97, 0.01], [0.25, 0.5, 0.25, 0]
    )
    found = gae.quadrant_scores(probability.log(), torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(found.scores[0], tensor(1, 0, -0.5, 1))
    torch.testing.assert_close(found.scores[1], tensor(0, 1, -0.5, 0))
    torch.testing.assert_close(found.scores[2], tensor(2 / 97 - 1, 2 / 97 - 1, 1, 2 / 97 - 1))
    torch.testing.assert_close(found.scores[3], tensor(1, 1, 1, 1), msg="2 * 0.5 / 0.25 - 1 = 3 is clamped")
    assert not found.undefined.any()
    assert not found.one_class.any()


def test_quadrants_of_one_class_and_of_no_probability() -> None:
    output = tensor([[0, -2000, -1]] * 8)
    found = gae.quadrant_scores(output, torch.tensor([0, 0, 0, 0, 1, 0, 0, 0]))
    assert found.one_class.tolist() == [True] * 4 + [False] * 4
    assert found.undefined.tolist() == [False] * 4 + [True] + [False] * 3
    assert found.scores[4].tolist() == [-1] * 4


def test_score_map_by_hand() -> None:
    assert gae.score_map(tensor([[0.1, 0.2, 0.3, 0.4]]), (6, 5))[0].tolist() == [
        [0.1, 1, 1, 0.2, 0.2],
        [0.1, 1, 1, 0.2, 0.2],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [0.3, 1, 1, 0.4, 0.4],
        [0.3, 1, 1, 0.4, 0.4],
    ]


def test_contrastiveness_by_hand() -> None:
    relevance = torch.zeros(2, 4, 4, dtype=F64)
    relevance[0, 0, 0], relevance[0, 0, 3], relevance[0, 1, 0] = 4, 2, 2  # own quadrant, its neighbour, centre line
    found = gae.contrastiveness(relevance, tensor([0.5, -1, -1, 1], [1, 1, 1, 1]))
    assert found.value.tolist() == [(0.5 * 1 - 0.5 + 0.5) / 2, 0]
    assert found.undefined.tolist() == [False, True]


def test_mosaic_members() -> None:
    members = gae.mosaic_members(10, seed=3)
    assert members.shape == (3, 4)
    flat = members.flatten().tolist()
    assert sorted(flat[:10]) == list(range(10))
    assert flat[10:] == flat[:2], "the last four is filled up from the first"
    assert members.tolist() == gae.mosaic_members(10, seed=3).tolist()
    assert members.tolist() != gae.mosaic_members(10, seed=4).tolist()
    assert gae.mosaic_members(1, seed=0).tolist() == [[0] * 4]
    with pytest.raises(InputError, match="no mosaic of 0"):
        gae.mosaic_members(0, seed=0)


# The masking run


def test_masked_counts() -> None:
    assert [masked_count(t, 20) for t in range(10)] == list(range(0, 20, 2))
    # 3.5, 7, 10.5, 14, 17.5, ...: rounded half to even.
    assert [masked_count(t, 35) for t in range(10)] == [0, 4, 7, 10, 14, 18, 21, 24, 28, 32]
    assert [masked_count(t, 6) for t in range(10)] == [0, 1, 1, 2, 2, 3, 4, 4, 5, 5]


def test_impact_map_by_hand() -> None:
    # n = (0.5, 0.3, 0.2) and (0.2, 0.3, 0.5); the second sample has no gradient under MoRF.
    found = impact_map(tensor([2, 3, 5], [0, 0, 0]), tensor([10, 6, 4], [0, 1, 3]))
    assert found.dtype == torch.int8
    assert found.tolist() == [[1, 0, -1], [0, 1, 1]]


def test_strength_by_hand() -> None:
    # f_1 = 3 a - 2 b at (2, 5): -4, and |x d|f|/dx| = (2 * 3, 5 * 2).
    x = tensor([2, 5]).reshape(1, 2, 1, 1)
    seen = look(linear(tensor([1, 1], [3, -2])), x, 1)
    assert seen.output.tolist() == [[7, -4]]
    assert seen.strength.flatten().tolist() == [6, 10]
    assert seen.logit.tolist() == [-4]
    torch.testing.assert_close(seen.probability, tensor([1 / (1 + math.exp(11))]))


def test_run_by_hand() -> None:
    """Ten pixels in two channels, whose strengths are 11 to 20: one is masked at each step."""
    weights = torch.zeros(2, 2, 2, 5, dtype=F64)
    weights[0, 0] = torch.arange(1, 11).reshape(2, 5)
    weights[0, 1] = 10
    run = gae.masking_run(linear(weights.flatten(1)), torch.ones(1, 2, 2, 5, dtype=F64))
    assert run.target.tolist() == [0]
    assert run.output.tolist() == [[155, 0]]
    assert run.steps.dtype == torch.uint8
    assert run.steps[0, 0].tolist() == [[10, 9, 8, 7, 6], [5, 4, 3, 2, 1]]
    assert run.steps[0, 1].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert run.logit[0, 0].tolist() == [155, 135, 116, 98, 81, 65, 50, 36, 23, 11]
    assert run.logit[0, 1].tolist() == [155, 144, 132, 119, 105, 90, 74, 57, 39, 20]
    torch.testing.assert_close(run.probability, run.logit.sigmoid())  # softmax against a logit of zero
    # Under LeRF the strongest pixel has the share 20 / logit at every state, under MoRF at the first alone; and the
    # weakest the other way round. In between the sums of shares decide: both are written out below.
    morf = [sum(v / run.logit[0, 0, t].item() for t in range(10) if t < 21 - v) for v in range(11, 21)]
    lerf = [sum(v / run.logit[0, 1, t].item() for t in range(10) if t <= v - 11) for v in range(11, 21)]
    signs = [(low > high) - (low < high) for low, high in zip(lerf, morf, strict=True)]
    assert run.impact[0].flatten().tolist() == signs
    assert run.impact[0, 0, 0] == -1
    assert run.impact[0, 1, 4] == 1
    assert not run.undefined.any()


def test_the_last_state_counts() -> None:
    """A pixel that matters through another, and is the last one left under MoRF."""
    weights = tensor([1, 2, 3, 4, 1e-6, 6, 7, 8, 9, 10])

    def model(x: Tensor) -> Tensor:
        pixels = x.flatten(1)
        logit = pixels @ weights + 5 * pixels[:, 4] * pixels[:, 9]
        return torch.stack([logit, 0 * logit], 1)

    run = gae.masking_run(model, torch.ones(1, 1, 2, 5, dtype=F64))
    assert run.steps[0, 0].flatten().tolist() == [9, 8, 7, 6, 10, 5, 4, 3, 2, 1]
    assert run.steps[0, 1].flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    # LeRF: 5/60 + 5/59 + 5/57 + 5/54 + 5/50 = 0.45; MoRF: 5/60 = 0.08, and 1 in the last state, where it is alone.
    assert run.impact[0].flatten()[4] == -1


def slow_run(model: nn.Module, x: Tensor, y: int, first: int) -> tuple[list[int], list[float]]:
    """One picture in one order, pixel by pixel: the step of each pixel, and its summed share over ten states."""
    pixels, state = x[0, 0].numel(), x.clone()
    steps, total = [10] * pixels, [0.0] * pixels
    for t in range(10):
        leaf = state.clone().requires_grad_()
        model(leaf)[0, y].abs().backward()
        strength = (state * leaf.grad).abs().sum(1).flatten().tolist()
        total = [s + g / sum(strength) for s, g in zip(total, strength, strict=True)]
        ranked = sorted((k for k in range(pixels) if steps[k] == 10), key=lambda k: (first * strength[k], k))
        for k in ranked[: round((t + 1) * pixels / 10) - round(t * pixels / 10)] if t < 9 else []:
            steps[k] = t + 1
            state[0, :, k // x.shape[3], k % x.shape[3]] = 0
    return steps, [s / sum(total) for s in total]


def test_run_is_that_of_a_slow_loop() -> None:
    model, x = small_cnn(), pictures(2, 15, 16)
    run = gae.masking_run(model, x, target=2)
    for k in range(2):
        morf, high = slow_run(model, x[k : k + 1], 2, first=-1)
        lerf, low = slow_run(model, x[k : k + 1], 2, first=1)
        assert run.steps[k].flatten(1).tolist() == [morf, lerf]
        assert run.impact[k].flatten().tolist() == [(a > b) - (a < b) for a, b in zip(low, high, strict=True)]


def test_equal_pixels_are_masked_in_reading_order() -> None:
    run = gae.masking_run(linear(torch.ones(2, 20)), torch.ones(1, 1, 4, 5), target=1)
    expected = torch.arange(20).reshape(4, 5) // 2 + 1
    assert torch.equal(run.steps[0, 0].long(), expected)
    assert torch.equal(run.steps[0, 1].long(), expected)
    assert not run.impact.any()


def test_pixels_without_strength_are_masked_in_reading_order_too() -> None:
    weights = torch.zeros(1, 20)
    weights[0, 7] = -1  # of negative weight: strength counts, and zeros must not be told from minus zeros
    run = gae.masking_run(linear(weights), torch.ones(1, 1, 4, 5))
    order = [7, *(i for i in range(20) if i != 7)]
    assert run.steps[0, 0].flatten()[order].tolist() == [t for t in range(1, 11) for _ in range(2)]
    assert run.undefined.tolist() == [True], "once that pixel is masked no strength is left to share"


def test_no_pixel_is_masked_twice_whatever_the_baseline() -> None:
    # A bright baseline gives masked pixels the largest strength of all.
    run = gae.masking_run(small_cnn(), pictures(3), baseline=[50.0, -40.0, 30.0])
    for t in range(10):
        assert ((run.steps <= t).sum((2, 3)) == round(t * 42 / 10)).all()


def test_masked_state_by_hand() -> None:
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    steps = torch.tensor([[[1, 10], [2, 3]]], dtype=torch.uint8)
    assert torch.equal(gae.masked(x, steps, 0), x)
    assert gae.masked(x, steps, 2, [-1.0, -2.0]).tolist() == [[[[-1, 1], [-1, 3]], [[-2, 5], [-2, 7]]]]


def test_masked_states_are_what_the_run_saw() -> None:
    model, x, seen = small_cnn(), pictures(2), []

    def watched(states: Tensor) -> Tensor:
        seen.append(states.detach().clone())
        return model(states)

    run = gae.masking_run(watched, x, baseline=0.25)
    assert len(seen) == 10
    assert torch.equal(seen[0], x)
    for t in range(1, 10):
        both = torch.stack([gae.masked(x, run.steps[:, order], t, 0.25) for order in (0, 1)], 1)
        assert torch.equal(both.flatten(0, 1), seen[t])
        with torch.no_grad():
            logits = model(seen[t]).gather(1, run.target.repeat_interleave(2)[:, None])
        torch.testing.assert_close(run.logit[:, :, t].flatten(), logits[:, 0])


def test_the_run_leaves_the_model_and_the_pictures_alone() -> None:
    model, x = small_cnn(), pictures(2)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[0].bias.requires_grad_(False)
    before, copy = {k: v.clone() for k, v in model.state_dict().items()}, x.clone()
    gae.masking_run(model, x)
    assert torch.equal(x, copy)
    assert not x.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    assert all(p.grad is None for p in list(model.parameters())[1:])


def same(a: MaskingRun, b: MaskingRun) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_the_run_works_wherever_it_is_called() -> None:
    model, x = small_cnn(), pictures(2)
    plain = gae.masking_run(model, x)
    assert same(plain, gae.masking_run(model, x))
    with torch.no_grad():
        assert same(plain, gae.masking_run(model, x))
    with torch.inference_mode():
        assert same(plain, gae.masking_run(model, x.clone()))
    assert same(plain, gae.masking_run(model.requires_grad_(False), x.requires_grad_()))


def test_a_model_that_writes_into_its_input() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(126, 3)).double().eval()
    x = pictures(1)
    copy = x.clone()
    gae.masking_run(model, x)
    assert torch.equal(x, copy)


# Everything together


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


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_the_impact_map_itself_is_most_faithful(seed: int) -> None:
    run = gae.masking_run(small_cnn(seed), pictures(2, seed=seed))
    assert (run.impact == 1).flatten(1).any(1).all()
    assert gae.faithfulness(run.impact.double(), run.impact).value.tolist() == [1, 1]
    assert gae.faithfulness(-run.impact.double(), run.impact).value.tolist() == [-1, -1]


# Pictures with a known object: class k is told by what is bright in channel k.

SIZE = 12


def with_objects(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return pictures ``(count, 4, 12, 12)`` of objects in all four corners in turn, and where these are."""
    x = 0.02 * torch.rand(count, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=F64)
    objects = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    for k in range(count):
        top, left = 6 * (k // 2 % 2), 6 * (k % 2)
        objects[k, top + 1 : top + 5, left + 1 : left + 5] = True
        x[k, k % 4] += objects[k]
    return x, objects


class Brightness(nn.Module):
    """Class k has the sum of channel k as its logit, saturating; there is nothing to learn."""

    def forward(self, x: Tensor) -> Tensor:
        return 6 * torch.tanh(x.sum((2, 3)) / 8)


def find_object(x: Tensor, target: Tensor) -> Tensor:
    """Where the channel of the class is bright: in masked states and mosaics as in pictures."""
    return gae.oracle_map(x[torch.arange(len(x)), target] > 0.5)


CONTROLS = {
    "random": lambda x, target: gae.random_map(range(len(x)), x.shape[2:], seed=0),
    "constant": lambda x, target: gae.constant_map(len(x), x.shape[2:]),
    "centre": lambda x, target: gae.centre_map(len(x), x.shape[2:]),
}


def test_the_object_is_found_where_it_is() -> None:
    x, objects = with_objects(8)
    target = Brightness()(x).argmax(1)
    assert target.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert torch.equal(find_object(x, target), objects.float())


@pytest.mark.parametrize("control", CONTROLS)
def test_the_oracle_beats_controls(control: str) -> None:
    x, _ = with_objects(8)
    model = Brightness().eval()
    oracle, chance = gae.score(model, x, find_object), gae.score(model, x, CONTROLS[control])
    for name in ("faithfulness", "robustness", "local_consistency", "contrastiveness_raw", "gae"):
        assert (getattr(oracle, name) > getattr(chance, name) + 0.2).all(), name
    assert (oracle.faithfulness > 0.9).all()
    assert (oracle.contrastiveness > 0.95).all()
    assert (oracle.gae > 0.5).all()
    assert (chance.gae < 0.05).all()


def test_every_picture_is_scored_on_its_own_quadrant() -> None:
    x, _ = with_objects(8)
    run = gae.masking_run(Brightness().eval(), x)
    scores = gae.quadrant_scores(run.output, run.target).scores
    for place in range(4):
        maps = gae.mosaic_oracle_map([place] * 8, x.shape[2:])
        found = gae.contrastiveness(maps, scores).value
        assert (found[place::4] > 0.9).all()
        others = [k for k in range(8) if k % 4 != place]
        assert (found[others] < 0.2).all(), "but for the centre lines"


def test_a_batch_is_its_mosaics_one_by_one() -> None:
    model, x = small_cnn(), pictures(8)
    x[0] += 3  # so that classes differ
    method = lambda x, target: look(model, x, target).strength  # noqa: E731
    together = gae.score(model, x, method)
    assert together.contrastiveness.isfinite().any()
    for at in (slice(0, 4), slice(4, 8)):
        alone = gae.score(model, x[at], method)
        for name in vars(alone):
            torch.testing.assert_close(getattr(together, name)[at], getattr(alone, name), equal_nan=True)
    run = gae.masking_run(model, x)
    for k in range(8):
        alone = gae.masking_run(model, x[k : k + 1])
        for name in vars(alone):
            torch.testing.assert_close(getattr(run, name)[k : k + 1], getattr(alone, name))


def test_methods_may_return_what_has_relevance_and_differentiate_under_no_grad() -> None:
    model, x = Brightness().eval(), with_objects(4)[0]

    class Explained:
        def __init__(self, relevance: Tensor) -> None:
            self.relevance = relevance

    def gradient(x: Tensor, target: Tensor) -> Explained:
        leaf = x.requires_grad_()
        return Explained(x * torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)[0])

    with torch.no_grad():
        found = gae.score(model, x, gradient)
    assert not x.requires_grad
    assert (found.faithfulness > 0.8).all()


# Controls


def test_random_map_follows_from_seed_and_index_alone() -> None:
    maps = gae.random_map([5, 0, 7], (4, 6), seed=1)
    assert maps.shape == (3, 4, 6)
    assert maps.dtype == torch.float32
    assert ((maps >= 0) & (maps < 1)).all()
    assert torch.equal(maps[2:], gae.random_map(torch.tensor([7]), (4, 6), seed=1))
    assert torch.equal(maps.flip(0), gae.random_map([7, 0, 5], (4, 6), seed=1))
    others = [
        gae.random_map([0], (4, 6), seed=1, draw=1),
        gae.random_map([0], (4, 6), seed=2),
        gae.random_map([1], (4, 6), seed=0),
        maps[:1],
    ]
    assert not any(torch.equal(maps[1:2], other) for other in others)
    drawn = gae.random_map([0], (200, 200), seed=0)
    assert abs(float(drawn.mean()) - 0.5) < 0.01
    assert abs(float(drawn.var()) - 1 / 12) < 0.005


def test_constant_and_centre_maps_by_hand() -> None:
    assert torch.equal(gae.constant_map(2, (2, 3)), torch.ones(2, 2, 3))
    centre = gae.centre_map(2, (3, 8))
    assert centre.shape == (2, 3, 8)
    torch.testing.assert_close(centre, centre.flip(1).flip(2))
    # Four columns to the side of eight, from the centre line at 3.5; standard deviations of 2 and 0.75.
    row = torch.tensor([math.exp(-((k - 3.5) ** 2) / 8) for k in range(8)])
    torch.testing.assert_close(centre[0, 1], row)
    torch.testing.assert_close(centre[1, 0], row * math.exp(-1 / (2 * 0.75**2)))


def test_mosaic_oracle_by_hand() -> None:
    found = gae.mosaic_oracle_map([0, 3], (3, 2))
    assert found.tolist() == [[[1, 0], [0, 0], [0, 0]], [[0, 0], [0, 1], [0, 1]]]


# What is refused


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, 3, 4, 4), "no axis empty"),
        (torch.zeros(3, 4, 4), "must be"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "floating-point"),
        ([1.0], "not list"),
        (torch.full((1, 3, 4, 4), torch.nan), "48 of 48"),
    ],
)
def test_bad_pictures(x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gae.masking_run(linear(torch.eye(3, 48)), x)


def test_bad_models() -> None:
    x = torch.rand(2, 1, 2, 2)
    with pytest.raises(InputError, match="training mode"):
        gae.masking_run(linear(torch.eye(4)).train(), x)
    with pytest.raises(InputError, match="callable"):
        gae.masking_run("resnet18", x)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"logits \(2, classes\), not \(2, 1, 2, 2\)"):
        gae.masking_run(lambda x: x, x)
    with pytest.raises(InputError, match="output is NaN"):
        gae.masking_run(lambda x: x.flatten(1) / 0, x)
    with pytest.raises(InputError, match="gradient is NaN"):
        gae.masking_run(lambda x: (x - x).flatten(1).sqrt(), x)
    with pytest.raises(InputError, match="no gradient"):
        gae.masking_run(lambda x: x.detach().flatten(1), x)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, "target 4 is out of range: there are classes 0 to 3"),
        (-1, "target -1 is out of range"),
        ([0, 1, 2], r"shape \(3,\)"),
        (0.5, "class indices"),
        (True, "class indices"),
    ],
)
def test_bad_targets(target: int, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        gae.masking_run(linear(torch.eye(4)), torch.rand(2, 1, 2, 2), target)


def test_bad_baselines_and_states() -> None:
    model, x = linear(torch.eye(4, 12)), torch.rand(1, 3, 2, 2)
    with pytest.raises(InputError, match="2 values"):
        gae.masking_run(model, x, baseline=[0.0, 1.0])
    with pytest.raises(InputError, match="baseline is NaN"):
        gae.masking_run(model, x, baseline=math.nan)
    with pytest.raises(ValueError, match="states 0 to 9, not 10"):
        gae.masked(x, torch.ones(1, 2, 2), 10)
    with pytest.raises(InputError, match="step image"):
        gae.masked(x, torch.ones(1, 3, 3), 1)


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


def test_bad_mosaics() -> None:
    with pytest.raises(InputError, match="multiple of four, not 6"):
        gae.make_mosaics(torch.rand(6, 3, 4, 4))
    with pytest.raises(InputError, match="at least 2, not 1 x 4"):
        gae.make_mosaics(torch.rand(4, 3, 1, 4))
    with pytest.raises(InputError, match="multiple of four, not 3"):
        gae.quadrant_scores(torch.rand(3, 5), torch.zeros(3, dtype=torch.long))
    with pytest.raises(TargetError, match="out of range"):
        gae.quadrant_scores(torch.rand(4, 5), torch.tensor([0, 1, 2, 5]))


def test_bad_controls() -> None:
    with pytest.raises(InputError, match="empty"):
        gae.random_map([], (2, 2), seed=0)
    with pytest.raises(InputError, match="negative"):
        gae.random_map([-1], (2, 2), seed=0)
    with pytest.raises(InputError, match="empty"):
        gae.constant_map(0, (2, 2))
    with pytest.raises(InputError, match="empty"):
        gae.centre_map(0, (2, 2))
    with pytest.raises(MapError, match="truth values"):
        gae.oracle_map(torch.ones(1, 2, 2))
    with pytest.raises(InputError, match="quadrants are 0 to 3"):
        gae.mosaic_oracle_map([4], (2, 2))


def test_bad_calls_of_score() -> None:
    model, x = Brightness().eval(), with_objects(4)[0]
    with pytest.raises(InputError, match="multiple of four"):
        gae.score(model, x[:3], find_object)
    with pytest.raises(ValueError, match='"gae" or "released"'):
        gae.score(model, x, find_object, protocol="GAE")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="all four"):
        gae.score(model, x, find_object, positive=1)
    with pytest.raises(MapError, match="must return a tensor, not a str"):
        gae.score(model, x, lambda x, target: "map")
    with pytest.raises(MapError, match="shape"):
        gae.score(model, x, lambda x, target: x[:, :, 1:])
