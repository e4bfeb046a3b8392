"""Heads of torchvision's detectors: all their boxes at once, without the suppression of some of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

import relprop
from relprop.tracing.pooled_levels import write_out_levels
from tests.helpers.models import distance, seeded

PLACE, CLASS = 5, 2


class Pyramid(nn.Module):
    """A backbone of two levels."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.out_channels = width
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.levels = FeaturePyramidNetwork([4, 6], width)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.first(x)
        found: dict[str, Tensor] = self.levels({"0": first, "1": self.second(first)})
        return found


class Head(nn.Module):
    """What a detector knows of all places, before its postprocessing."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> Any:
        return self.head(list(self.backbone(x).values()))


def anchors() -> AnchorGenerator:
    return AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)


def retinanet() -> nn.Module:
    return Head(RetinaNet(Pyramid(), 3, anchor_generator=anchors()))


def fcos() -> nn.Module:
    return Head(FCOS(Pyramid(32), 3, anchor_generator=anchors()))


def ssd() -> nn.Module:
    return Head(SSD(Pyramid(), DefaultBoxGenerator([[2], [2]]), (32, 32), 3, head=SSDHead([4, 4], [4, 4], 3)))


class Proposals(nn.Module):
    """Faster R-CNN's first stage: whether there is something, at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Pyramid(), RPNHead(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        objects, _ = self.head(list(self.backbone(x).values()))
        return {"cls_logits": torch.cat([level.flatten(1) for level in objects], 1)[..., None].expand(-1, -1, 3)}


@pytest.mark.sweep(every=8)
@pytest.mark.parametrize(
    ("make", "output"),
    [
        (Proposals, "cls_logits"),
        (fcos, "bbox_ctrness"),
        (retinanet, "cls_logits"),
        (retinanet, "bbox_regression"),
        (fcos, "cls_logits"),
        (ssd, "cls_logits"),
    ],
)
def test_the_head_of_a_detector(make: Callable[[], nn.Module], output: str) -> None:
    model = seeded(make).double().eval()
    x = torch.rand(3, 3, 32, 32).double()

    def target(found: Any) -> Tensor:
        score: Tensor = found[output][:, PLACE, min(CLASS, found[output].shape[2] - 1)]
        return score

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(target(model(leaf)).sum(), leaf)
    assert distance(relprop.explain(model, x, target=target, rules="gradient").relevance, expected) <= 1e-9
    e = relprop.explain(model, x, target=target)
    assert e.conservation.error <= 1e-9
    assert e.relevance.abs().sum() > 0


BOXES = torch.tensor([[2.0, 3.0, 9.0, 11.0], [1.0, 2.0, 30.0, 29.0], [8.0, 8.0, 16.0, 20.0]])
"""Of a box head: the second is cropped from the second level."""


class BoxHead(nn.Module):
    """Faster R-CNN's second stage, on boxes that are in the model, or given as one tensor, or as a list."""

    def __init__(self, boxes: str) -> None:
        super().__init__()
        self.backbone, self.boxes = Pyramid(), boxes
        self.crop = MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=12, canonical_level=2)
        self.head, self.last = TwoMLPHead(16, 8), FastRCNNPredictor(8, 4)
        self.register_buffer("own", BOXES)

    def forward(self, x: Tensor, boxes: Any = None) -> Tensor:
        ours = [self.own] * len(x) if self.boxes == "own" else list(boxes)
        scores: Tensor = self.last(self.head(self.crop(self.backbone(x), ours, [x.shape[-2:]] * len(x))))[0]
        return scores.unflatten(0, (len(ours), -1))


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("boxes", ["own", "tensor", "list"])
def test_the_box_head_of_a_detector(boxes: str, place: int) -> None:
    model = seeded(lambda: BoxHead(boxes)).double().eval()
    x = torch.rand(2, 3, 32, 32).double()
    of_others = torch.stack([BOXES, BOXES.flip(0) + 1]).double()
    given: Any = {"own": x, "tensor": (x, of_others), "list": (x[:1], [of_others[0]])}[boxes]
    leaf = (x[:1] if boxes == "list" else x).clone().requires_grad_()
    rest = given[1:] if isinstance(given, tuple) else ()

    def target(scores: Tensor) -> Tensor:
        return scores[:, place, CLASS]

    (expected,) = torch.autograd.grad(target(model(leaf, *rest)).sum(), leaf)
    assert distance(relprop.explain(model, given, target=target, rules="gradient").relevances["x"], expected) <= 1e-9
    for rules in ("abslrp", "epsilon-plus-residual"):
        e = relprop.explain(model, given, target=target, rules=rules)
        assert e.conservation.error <= 1e-9
        assert e.relevances["x"].abs().sum() > 0
    assert relprop.check(model, given, target=target).ok


def test_crops_of_all_levels_are_those_of_torchvision() -> None:
    pyramid = {"0": torch.rand(2, 4, 8, 8), "other": torch.rand(2, 4, 1, 1), "1": torch.rand(2, 4, 4, 4)}
    boxes, sizes = [BOXES, torch.tensor([[3.0, 4.0, 10.0, 12.0], [9.0, 4.0, 3.0, 12.0]])], [(32, 32), (32, 32)]
    pooler = BoxHead("own").crop
    expected = pooler(pyramid, boxes, sizes)
    assert pooler.map_levels is not None
    assert {0, 1} < set(pooler.map_levels(boxes).tolist())  # the last is no box: it has no level, and its crop is zero
    written_out = BoxHead("own")
    write_out_levels(written_out)
    assert torch.equal(written_out.crop(pyramid, boxes, sizes), expected)


@pytest.mark.parametrize("samples", [2, 3])
def test_lists_of_boxes_for_several_pictures_are_refused_with_what_to_do(samples: int) -> None:
    boxes, x = [BOXES] * samples, torch.rand(samples, 3, 32, 32)
    message = r"(?s)explain one picture at a time.*as one tensor \(B, N, 4\).*list\(boxes\)"
    with pytest.raises(relprop.CaptureError, match=message):
        relprop.explain(BoxHead("list").eval(), (x, boxes), target=lambda scores: scores[:, 0, 1])
