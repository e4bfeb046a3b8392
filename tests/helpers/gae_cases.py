"""Models, pictures and curves whose GAE scores are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from relprop import gae
from relprop.gae import Score

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
