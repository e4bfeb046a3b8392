"""Averages in boxes against the formula, the boxes held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import roi_align
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

import relprop
import rule_registry
from rule_registry import BatchAxis
from tests.helpers.matrix_form import SEEDS, apply_rule, compare_with_formula, contributions, slots
from tests.helpers.models import Lambda, distance, seeded
from tests.helpers.operations import both_signs, randn, values

assert torchvision.__version__
rule_registry.get("abslrp")  # with torchvision at hand its operations have rules
ops = torch.ops.torchvision

BOXES = torch.tensor([[0, 0.5, 0.2, 3.1, 2.9], [1, 1, 0, 4, 3.5], [0, 2.0, 1.0, 4.5, 4.0]], dtype=torch.float64)
IN_BOXES: dict[str, tuple[Any, tuple[Any, ...], int]] = {
    "roi_align": (ops.roi_align.default, (1.0, 2, 2, 2, True), 3),
    "roi_align, as many samples as fit": (ops.roi_align.default, (0.5, 2, 1, -1, False), 2),
    "ps_roi_align": (ops.ps_roi_align.default, (1.0, 2, 2, 2), 4),
    "ps_roi_pool": (ops.ps_roi_pool.default, (1.0, 2, 2), 4),
}


def by_sample(boxes: Tensor) -> Tensor:
    """Two boxes of each sample, one sample after the other."""
    return boxes[[0, 2, 1, 1]]


def first(output: Any) -> Tensor:
    """The average itself, where places are returned too."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


@both_signs
@pytest.mark.parametrize("case", IN_BOXES.values(), ids=IN_BOXES.keys())
def test_averages_in_boxes(case: tuple[Any, ...], positive: bool) -> None:
    op, settings, channels = case
    x, boxes = values((2, channels, 5, 5), positive), by_sample(BOXES)
    compare_with_formula(
        op,
        x,
        boxes,
        *settings,
        nonnegative=positive,
        output_batch=BatchAxis(0, 2),
        held=lambda x: first(op(x, boxes, *settings)),
    )


def test_boxes_are_held_and_other_rules_follow_their_formula() -> None:
    op, settings, channels = IN_BOXES["roi_align"]
    x, boxes = randn(2, channels, 5, 5), by_sample(BOXES)
    z = op(x, boxes, *settings)
    relevance = torch.rand(SEEDS, *z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    both = apply_rule(
        op, (x, boxes, *settings), {}, slots(["input", "rois"]), relevance, rules="epsilon", stabilizer=1e-9,
        input_batch=[BatchAxis(0), BatchAxis(0, 2)], output_batch=BatchAxis(0, 2),
    )  # fmt: skip
    (part,) = contributions(lambda x: op(x, boxes, *settings), [x])
    s = relevance / torch.where(z < 0, z - 1e-9, z + 1e-9)
    torch.testing.assert_close(both.values[0].flatten(1), s.flatten(1) @ part)
    assert not both.values[1].any(), "positions are held"


class BoxHead(nn.Module):
    """Faster R-CNN's box head on given boxes: features, a crop of each box, two layers, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.pyramid = FeaturePyramidNetwork([6], 6)
        self.head = TwoMLPHead(6 * 9, 8)
        self.predictor = FastRCNNPredictor(8, 4)

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        features = self.pyramid({"0": self.body(x)})["0"]
        which = torch.arange(x.shape[0]).repeat_interleave(boxes.shape[1])[:, None].to(boxes)
        crops = roi_align(features, torch.cat([which, boxes.flatten(0, 1)], 1), 3, 1.0, 2)
        scores, _ = self.predictor(self.head(crops))
        return scores.unflatten(0, (-1, boxes.shape[1]))


@pytest.mark.full
def test_a_box_head_explains_the_class_of_a_box() -> None:
    model = seeded(BoxHead).double().eval()
    x, generator = torch.rand(2, 3, 8, 8).double(), torch.Generator().manual_seed(0)
    corners = torch.rand(2, 3, 2, generator=generator, dtype=torch.float64) * 3
    boxes = torch.cat([corners, corners + 3], 2)
    target = {"target": lambda scores: scores[:, 1, 2]}
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf, boxes)[:, 1, 2].sum(), leaf)
    found = relprop.explain(model, (x, boxes), rules="gradient", **target)
    assert distance(found.relevances["x"], expected) <= 1e-9
    e = relprop.explain(model, (x, boxes), **target)
    assert e.conservation.error <= 1e-9
    torch.testing.assert_close(e.relevances["x"].flatten(1).sum(1), torch.ones(2).double())
    assert not list(e.relevances.values())[1].any(), "boxes are held"
    left, top, right, bottom = boxes[0, 1].tolist()
    rows, columns = torch.arange(8)[:, None], torch.arange(8)[None]
    # a cell, and three more of the two convolutions, around the box
    near = (columns > left - 4) & (columns < right + 4) & (rows > top - 4) & (rows < bottom + 4)
    assert not e.relevances["x"][0][:, ~near].any()


class Mel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.filters = nn.Parameter(torch.rand(9, 6))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.stft(x, 16, 8, window=self.window, return_complex=True)
        return (spectrum.abs().square().transpose(1, 2) @ self.filters).add(1e-6).log()


def test_a_spectrogram_is_left_to_its_output() -> None:
    model = Lambda(lambda m, x: m.head(m.mel(x).flatten(1)), mel=Mel(), head=nn.Linear(54, 3)).eval()
    x = torch.randn(2, 64)
    with pytest.raises(relprop.MissingRuleError, match='that holds them, a spectrogram say: pass at="mel"'):
        relprop.explain(model, x)
    e = relprop.explain(model, x, at="mel", target=1)
    assert e.relevance.shape == (2, 9, 6)
    assert e.conservation.error <= 1e-5
