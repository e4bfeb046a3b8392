"""Copies that are called and traced have the modes and hooks of the original, however its class is copied."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

import relprop
from relprop.tracing.model_copy import callable_copy, independent_copy, structural_copy
from tests.helpers.models import CLASSES, distance, gradient, make, pictures, seeded


class Rebuilding(nn.Module):
    """A class whose copies are made by its constructor: they are in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, CLASSES)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rebuilding:
        twin = Rebuilding().to(self.head.weight.dtype)
        twin.load_state_dict(self.state_dict())
        memo[id(self)] = twin
        return twin

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) if self.training else self.head(self.body(x)) * 2


class Frozen(nn.Sequential):
    """A class with a mode of its own: what it holds never trains, whatever mode itself is in."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self[1].eval()
        self.scale = 1.0 if mode else 3.0
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        twin = Frozen(*(copy.deepcopy(part, memo) for part in self))
        memo[id(self)] = twin
        return twin.train()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def extractor() -> nn.Module:
    model = create_feature_extractor(make("convolutional"), {"gate": "gate", "head": "scores"})
    model = nn.Sequential(model, Named("scores")).eval()
    model[0].register_forward_hook(lambda module, args, output: {name: t * 2 for name, t in output.items()})
    return model


class Named(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, outputs: dict[str, Tensor]) -> Tensor:
        return outputs[self.name]


KINDS = {
    "feature extractor": (extractor, lambda: pictures(3)),
    "made by its constructor": (lambda: seeded(Rebuilding), lambda: torch.randn(3, 8)),
    "with a mode of its own": (
        lambda: seeded(lambda: Frozen(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))),
        lambda: torch.randn(3, 8),
    ),
}


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("kind", KINDS)
def test_modes_and_hooks(kind: str) -> None:
    model, x = KINDS[kind][0]().double(), KINDS[kind][1]().double()
    for copied in (structural_copy(model), callable_copy(model)[0], independent_copy(model)):
        assert [m.training for m in copied.modules()] == [m.training for m in model.modules()]
        torch.testing.assert_close(copied(x), model(x))
    found = relprop.explain(model, x, rules="gradient")
    assert distance(found.relevance, gradient(model, x)) <= 1e-9
    assert relprop.explain(model, x).conservation.error <= 1e-9
    assert not any(module.training for module in model.modules())


def test_attributes_that_a_class_does_not_copy() -> None:
    """A hook on a module of ``torch.fx`` reads one."""
    model = torch.fx.symbolic_trace(seeded(lambda: nn.Sequential(nn.Linear(8, CLASSES))))
    model.strength = [2.0]
    model.register_forward_hook(lambda module, args, output: output * module.strength[0])
    for copied in (structural_copy(model), callable_copy(model)[0], independent_copy(model)):
        assert copied.strength == [2.0]
        assert copied.strength is not model.strength
    x = torch.randn(2, 8)
    found = relprop.explain(model.eval().double(), x.double(), rules="gradient")
    assert distance(found.relevance, gradient(model, x.double())) <= 1e-9


def test_a_part_in_training_mode_stays_in_it() -> None:
    """Captures refuse such models; what copies them else must not change them."""
    model = nn.Sequential(extractor(), nn.Dropout()).eval()
    model[1].train()
    assert structural_copy(model)[1].training
    assert not structural_copy(model)[0].training


@pytest.mark.full
def test_timm_collects_features_by_a_graph() -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("resnet10t", features_only=True, feature_cls="fx", out_indices=(1, 3))
    model, x = model.eval().double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def target(features: list[Tensor]) -> Tensor:
        return features[0].mean((1, 2, 3)) + features[1].mean((1, 2, 3))

    found = relprop.explain(model, x, target=target, rules="gradient").relevance
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(target(model(leaf)).sum(), leaf)
    assert distance(found, expected) <= 1e-9
    assert relprop.explain(model, x, target=target).conservation.error <= 1e-9
