"""The masking run by hand and against a slow loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from relprop import gae
from relprop.errors import InputError, TargetError
from relprop.gae import MaskingRun
from relprop.gae.masking import impact_map, masked_count, measure_sensitivity
from tests.helpers.gae_cases import F64, linear, pictures, small_cnn, tensor


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
    seen = measure_sensitivity(linear(tensor([1, 1], [3, -2])), x, 1)
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
