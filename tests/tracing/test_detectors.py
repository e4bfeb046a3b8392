"""Heads of torchvision's detectors: all their boxes at once, without the suppression of some of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

import relprop
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


@pytest.mark.full
def test_a_list_of_boxes_is_refused_with_what_to_write() -> None:
    class BoxHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.crop = Pyramid(), MultiScaleRoIAlign(["0", "1"], 2, 2)
            self.last = nn.Linear(16, 3)

        def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
            crops = self.crop(self.backbone(x), list(boxes), [(32, 32)] * len(boxes))
            scores: Tensor = self.last(crops.flatten(1))
            return scores.unflatten(0, (len(boxes), -1))

    boxes = torch.tensor([2.0, 3.0, 20.0, 25.0]).expand(3, 2, 4)
    with pytest.raises(relprop.CaptureError, match=r"one tensor \(B, N, 4\), and call torchvision.ops.roi_align"):
        relprop.explain(BoxHead().eval(), (torch.rand(3, 3, 32, 32), boxes), target=lambda scores: scores[:, 0, 1])
