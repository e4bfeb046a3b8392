"""Deformable convolutions against a matrix that is written down by hand, and against models that spell them apart."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

import relprop
import rule_registry
from tests.helpers.matrix_form import SEEDS, apply_rule, slots
from tests.helpers.models import distance, seeded
from tests.helpers.operations import randn

assert torchvision.__version__
rule_registry.get("abslrp")  # with torchvision at hand its operations have rules
deform = torch.ops.torchvision.deform_conv2d.default

KERNEL, STRIDE, PADDING, DILATION = (3, 2), (2, 1), (1, 1), (1, 2)
OUT, SIZE, GROUPS = (2, 5), (4, 5), 2
"""Rows and columns of the output, of the input, and groups of channels that have offsets of their own."""


def taps(offset: Tensor, channels: int) -> Tensor:
    """How much of each pixel each entry of the kernel reads, by hand: ``(C, taps, out, pixels)``."""
    (kh, kw), (high, wide), (rows, columns) = KERNEL, OUT, SIZE
    found = torch.zeros(channels, kh * kw, high * wide, rows * columns, dtype=offset.dtype)
    for channel, a, b, i, j in product(range(channels), range(kh), range(kw), range(high), range(wide)):
        k, group = a * kw + b, channel // (channels // GROUPS)
        dy, dx = offset[2 * (group * kh * kw + k) :][:2, i, j].tolist()
        y = i * STRIDE[0] - PADDING[0] + a * DILATION[0] + dy
        x = j * STRIDE[1] - PADDING[1] + b * DILATION[1] + dx
        for row, column in product(range(rows), range(columns)):
            weight = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
            found[channel, k, i * wide + j, row * columns + column] = weight
    return found


def arguments(positive: bool) -> tuple[Tensor, ...]:
    """Input, kernel, offsets, modulation and bias, of two samples."""
    x, offset, mask = randn(2, 4, *SIZE), 0.7 * randn(2, GROUPS * 12, *OUT), randn(2, GROUPS * 6, *OUT).sigmoid()
    return x.abs() if positive else x, randn(3, 4, *KERNEL), offset, mask, randn(3)


def called(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor) -> tuple[Any, ...]:
    return (x, weight, offset, mask, bias, *STRIDE, *PADDING, *DILATION, 1, GROUPS, True)


@pytest.mark.parametrize("rules", ["abslrp", "epsilon", "z-plus"])
def test_every_reading_of_a_pixel_is_a_term_of_its_own(rules: str) -> None:
    x, weight, offset, mask, bias = arguments(positive=True)
    z = deform(*called(x, weight, offset, mask, bias))
    relevance = torch.rand(SEEDS, *z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameters = {"abslrp": {"delta": 0.0}, "z-plus": {"stabilizer": 0.0}}.get(
        rules, {"epsilon": 0.0, "stabilizer": 0.0}
    )
    found = apply_rule(
        deform, called(x, weight, offset, mask, bias), {}, slots(["input", "offset", "mask"]), relevance,
        nonnegative=True, rules=rules, **parameters,
    )  # fmt: skip
    for sample in range(2):
        reads = taps(offset[sample], 4)
        modulation = mask[sample].reshape(GROUPS, 6, 10).repeat_interleave(2, 0)
        # (outputs, C, taps, positions, pixels): what a pixel brings to an output by way of an entry of the kernel
        parts = torch.einsum(
            "ockp,ckpi->ockpi", weight.flatten(2)[..., None] * modulation, reads * x[sample].flatten(1)[:, None, None]
        )
        assert torch.allclose(parts.sum((1, 2, 4)) + bias[:, None], z[sample].flatten(1)), "the matrix is the operation"
        out = z[sample].flatten(1)
        if rules == "abslrp":
            counted = (parts * out.sign()[:, None, None, :, None]).clamp(min=0) / out.abs()[:, None, None, :, None]
        elif rules == "epsilon":
            counted = parts / out[:, None, None, :, None]
        else:
            below = parts.clamp(min=0).sum((1, 2, 4)) + bias.clamp(min=0)[:, None]
            counted = parts.clamp(min=0) / below[:, None, None, :, None]
        for seed in range(SEEDS):
            shared = counted * relevance[seed, sample].flatten(1)[:, None, None, :, None]
            pixels, gates = shared.sum((0, 2, 3)), shared.sum((0, 4)).unflatten(0, (GROUPS, 2)).sum(1)
            scale = relevance[seed, sample].sum() / (pixels.sum() + gates.sum()) if rules == "abslrp" else 0.5
            torch.testing.assert_close(found.values[0][seed, sample].flatten(1), pixels * scale)
            torch.testing.assert_close(found.values[2][seed, sample].reshape(GROUPS, 6, 10), gates * scale)
    assert not found.values[1].any(), "positions are held"


class Net(nn.Module):
    """A deformable convolution whose offsets and modulation are computed, with a norm and a rectifier behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.where, self.gate = nn.Conv2d(4, 36, 3, padding=1), nn.Conv2d(4, 18, 3, padding=1)
        self.deform = DeformConv2d(4, 6, 3, padding=1, groups=2)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def crops(self, x: Tensor, offset: Tensor, gate: Tensor) -> Tensor:
        return self.deform(x, offset, gate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        found = self.crops(x, self.where(x), self.gate(x).sigmoid())
        return self.head(self.norm(found).relu().mean((2, 3)))


class Spelled(Net):
    """The same, spelled in three: samples of a grid, a product, a convolution."""

    def crops(self, x: Tensor, offset: Tensor, gate: Tensor) -> Tensor:
        samples, height, width = x.shape[0], *x.shape[2:]
        moved = offset.view(samples, 2, 3, 3, 2, height, width).permute(0, 1, 5, 2, 6, 3, 4)  # B, G, H, kh, W, kw, yx
        moved = moved.reshape(samples * 2, height * 3, width * 3, 2)
        rows = (torch.arange(height)[:, None] + torch.arange(3) - 1).flatten()
        columns = (torch.arange(width)[:, None] + torch.arange(3) - 1).flatten()
        y, x_ = rows[:, None] + moved[..., 0], columns + moved[..., 1]
        grid = torch.stack([(2 * x_ + 1) / width - 1, (2 * y + 1) / height - 1], -1)
        values = F.grid_sample(x.reshape(samples * 2, 2, height, width), grid, align_corners=False)
        factor = gate.view(samples, 2, 1, 3, 3, height, width).permute(0, 1, 2, 5, 3, 6, 4)
        windows = values.view(samples, 2, 2, height * 3, width * 3) * factor.reshape(
            samples, 2, 1, height * 3, width * 3
        )
        return F.conv2d(windows.flatten(1, 2), self.deform.weight, self.deform.bias, stride=3, groups=2)


@pytest.fixture(scope="module")
def nets() -> tuple[Net, Net, Tensor]:
    net = seeded(Net).double().eval()
    spelled = Spelled().double().eval()
    spelled.load_state_dict(net.state_dict())
    return net, spelled, torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0)).double()


def test_its_gradient_is_autograds(nets: tuple[Net, Net, Tensor]) -> None:
    net, _, x = nets
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf)[:, 2].sum(), leaf)
    assert distance(relprop.explain(net, x, target=2, rules="gradient").relevance, expected) <= 1e-12


@pytest.mark.parametrize("rules", ["abslrp", "epsilon-gamma-box", "epsilon-plus-flat", "attnlrp", "abslrp-composite"])
def test_it_is_explained_like_the_three_it_is_made_of(nets: tuple[Net, Net, Tensor], rules: str) -> None:
    net, spelled, x = nets
    assert torch.allclose(net(x), spelled(x))
    found, expected = (relprop.explain(model, x.clamp(-1, 1), target=2, rules=rules) for model in (net, spelled))
    assert distance(found.relevance, expected.relevance) <= 1e-6
    if rules == "abslrp":
        assert found.conservation.error <= 1e-9
