"""Models that remember: the batch or the picture they saw last, tables by size, how often they were called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.models import CLASSES


def anchor_points(maps: list[Tensor], strides: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of all cells, (1, 2, A), in cells, and how many pixels a cell has, (1, 1, A)."""
    points, sizes = [], []
    for level, stride in zip(maps, strides, strict=True):
        height, width = level.shape[-2:]
        rows = torch.arange(height, dtype=level.dtype) + 0.5
        columns = torch.arange(width, dtype=level.dtype) + 0.5
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        points.append(torch.stack([x, y]).flatten(1))
        sizes.append(torch.full((1, height * width), stride, dtype=level.dtype))
    return torch.cat(points, 1)[None], torch.cat(sizes, 1)[None]


class DetectionHead(nn.Module):
    """As the heads of YOLO are: anchors are made anew where the shape is another one, batch included."""

    shape: Any = None
    anchors = torch.empty(0)
    strides = torch.empty(0)
    BINS = 4

    def __init__(self, widths: tuple[int, ...], stride: list[float]) -> None:
        super().__init__()
        self.stride = torch.tensor(stride)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4 * self.BINS, 1) for width in widths)
        self.scores = nn.ModuleList(nn.Conv2d(width, CLASSES, 1) for width in widths)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        for k in range(len(maps)):
            maps[k] = torch.cat([self.boxes[k](maps[k]), self.scores[k](maps[k])], 1)
        shape = maps[0].shape
        joined = torch.cat([level.view(shape[0], 4 * self.BINS + CLASSES, -1) for level in maps], 2)
        if self.shape != shape:
            self.anchors, self.strides = anchor_points(maps, self.stride)
            self.shape = shape
        boxes, scores = joined.split((4 * self.BINS, CLASSES), 1)
        bins = torch.arange(self.BINS, dtype=joined.dtype)
        ends = boxes.unflatten(1, (4, self.BINS)).softmax(2).mul(bins[:, None]).sum(2)
        low, high = self.anchors - ends[:, :2], self.anchors + ends[:, 2:]
        boxes = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return torch.cat([boxes, scores.sigmoid()], 1), maps


class Detector(nn.Module):
    """Two levels and a head: rows are x, y, width, height and the scores of classes, (B, 4 + C, anchors)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.SiLU())
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.SiLU())
        self.head = DetectionHead((4, 6), [2.0, 4.0])

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        y = self.first(x)
        return self.head([y, self.second(y)])


class Remembering(nn.Module):
    """The base of what follows: a convolution, something that is added to it, and class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, 2, 1)
        self.head = nn.Linear(4, CLASSES)

    def grid(self, x: Tensor, batch: Any) -> Tensor:
        """Return something for all samples: (batch, 1, H, W)."""
        height, width = x.shape[-2:]
        ramp = torch.linspace(-1, 1, height * width, dtype=x.dtype).view(1, 1, height, width)
        return ramp.expand(batch, -1, -1, -1)

    def added(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.head((y * (1 + self.added(y))).relu().mean((2, 3)))


class TableByBatch(Remembering):
    def __init__(self) -> None:
        super().__init__()
        self.table: dict[Any, Tensor] = {}

    def added(self, x: Tensor) -> Tensor:
        if x.shape[0] not in self.table:
            self.table[x.shape[0]] = self.grid(x, x.shape[0])
        return self.table[x.shape[0]]


class TableByShape(Remembering):
    """A dict of the class, and a key of several sizes."""

    table: dict[Any, Tensor] = {}  # noqa: RUF012

    def added(self, x: Tensor) -> Tensor:
        key = (x.shape[0], x.shape[2], x.shape[3], str(x.dtype))
        found = self.table.get(key)
        if found is None:
            found = self.table[key] = self.grid(x, x.shape[0])
        return found


class BatchOfATensor(Remembering):
    """What is remembered is a tensor, not its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def added(self, x: Tensor) -> Tensor:
        if self.last is None or self.last.shape[0] != x.shape[0]:
            self.last = self.grid(x, x.shape[0])
        return self.last


class PictureSize(Remembering):
    """Read by an attribute that the first call makes."""

    def added(self, x: Tensor) -> Tensor:
        if not hasattr(self, "ramp") or self.ramp.shape[2:] != x.shape[2:]:
            self.ramp = self.grid(x, 1)
        return self.ramp


class Counting(Remembering):
    """The first call does what later ones rest on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.sizes: list[Any] = []

    def added(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 1:
            self.ramp = self.grid(x, 1)
        self.sizes.append(x.shape[0])
        return self.ramp


KINDS = {kind.__name__: kind for kind in (TableByBatch, TableByShape, BatchOfATensor, PictureSize, Counting)}
