"""Architectures of timm: the gradient oracle and conservation, with one capture for all batch sizes."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import timm
import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor, nn

import relprop
from tests.helpers.models import distance, gradient, seeded, settled

FAST: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "mobilenetv3_small_050": {},
    "vit_tiny_patch16_224": {"img_size": 64},
    "convnext_atto": {},
}


def build(name: str, size: int | None = None, **options: Any) -> tuple[nn.Module, Tensor]:
    """Build an architecture with random weights that are not degenerate, and three inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, **options).eval()
    shape = model.default_cfg["input_size"] if size is None else (3, size, size)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    return settled(model, x), x


def check(model: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    tracing, captures = importlib.import_module("relprop.tracing.trace"), []
    original = tracing.export
    monkeypatch.setattr(tracing, "export", lambda *args: captures.append(args) or original(*args))
    model, x = model.double(), x.double()
    explainer = relprop.Explainer(model, rules="gradient")
    for batch in (1, 2, 3):
        found = explainer(x[:batch])
        assert distance(found.relevance, gradient(model, x[:batch])) <= 1e-9
    assert len(captures) == 1
    model, x = model.float(), x.float()
    e = relprop.explain(model, x[:2])
    assert e.conservation.error <= 1e-5
    assert e.conservation.suspects == ()
    assert e.relevance.abs().sum() > 0
    mass = e.seeds["x"].flatten(2).sum(2)
    lost = sum(cut.lost for cut in e.conservation.cuts)
    torch.testing.assert_close(mass + lost, torch.ones(2, 2), atol=1e-4, rtol=0)


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("name", FAST)
def test_small_architectures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(*build(name, 64, **FAST[name]), monkeypatch)


UNLIKE = (
    "edgenext_xx_small",  # attention over channels
    "ghostnet_050",  # concatenated halves
    "mobilevit_xxs",  # convolutions and attention in turn
    "pit_ti_224",  # pooled tokens
    "regnetx_002",  # grouped convolutions
    "starnet_s050",  # products of two branches
)
"""One small member of families that compute in unlike ways; ``python -m benchmarks coverage`` goes through all."""


@pytest.mark.full
@pytest.mark.parametrize("name", UNLIKE)
def test_architectures_that_compute_in_unlike_ways(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(*build(name), monkeypatch)


@pytest.mark.full
def test_attention_within_overlapping_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer of HaloNet, whose smallest member takes minutes."""

    def make() -> nn.Module:
        attention = HaloAttn(16, num_heads=2, dim_head=8, block_size=4, halo_size=1)
        return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), attention, nn.Flatten(), nn.Linear(16 * 64, 5))

    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    check(settled(seeded(make), x), x, monkeypatch)
