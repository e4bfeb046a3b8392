"""Agreement with zennit, the library whose rules the field compares with."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from models import distance, seeded, settled
from torch import Tensor, nn

import relprop
import rule_registry

zennit = pytest.importorskip("zennit")
from zennit import composites, rules  # noqa: E402
from zennit.attribution import Gradient  # noqa: E402
from zennit.layer import Sum  # noqa: E402
from zennit.torchvision import ResNetCanonizer  # noqa: E402
from zennit.types import Linear as AnyLayer  # noqa: E402

BOX = {"low": (-6.0, -5.0, -7.0), "high": (5.0, 6.0, 7.0)}
LOW, HIGH = (torch.tensor(BOX[side], dtype=torch.float64).reshape(1, 3, 1, 1) for side in ("low", "high"))


class Small(nn.Module):
    """VGG-like: biases, both kinds of pooling, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2),
            nn.ReLU(),
            nn.AvgPool2d(2),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Residual(nn.Module):
    """Two residual blocks without batch norm; zennit needs the sums to be modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)])
        self.sums = nn.ModuleList([Sum(), Sum()])
        self.relus = nn.ModuleList([nn.ReLU() for _ in range(5)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relus[0](self.stem(x))
        for k in range(2):
            branch = self.convs[2 * k + 1](self.relus[2 * k + 1](self.convs[2 * k](x)))
            x = self.relus[2 * k + 2](self.sums[k](torch.stack([x, branch], dim=-1)))
        return self.head(self.pool(x).flatten(1))


def uniform(rule: Any, stabilizer: float = 1e-6) -> Any:
    """Zennit's composite with one rule for every layer."""
    return composites.LayerMapComposite([*composites.layer_map_base(stabilizer), (AnyLayer, rule)])


def first(rule: Any, others: Any) -> Any:
    return composites.SpecialFirstLayerMapComposite(
        [*composites.layer_map_base(), (AnyLayer, others)], [(AnyLayer, rule)]
    )


PEERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "epsilon": (lambda: uniform(rules.Epsilon()), {}),
    "epsilon, 0.25": (lambda: uniform(rules.Epsilon(0.25)), {"epsilon": 0.25}),
    "lrp-0": (lambda: uniform(rules.Epsilon(1e-15), 1e-15), {}),
    "gamma": (lambda: uniform(rules.Gamma()), {}),
    "gamma, 1": (lambda: uniform(rules.Gamma(1.0)), {"gamma": 1.0}),
    "alpha-beta": (lambda: uniform(rules.AlphaBeta()), {}),
    "alpha-beta, 3, 2": (lambda: uniform(rules.AlphaBeta(3.0, 2.0)), {"alpha": 3.0, "beta": 2.0}),
    "z-plus": (lambda: uniform(rules.ZPlus()), {}),
    "flat": (lambda: uniform(rules.Flat()), {}),
    # Montavon et al. 2017 have no bias in this rule; zennit squares it too unless told to leave it out.
    "w-squared": (lambda: uniform(rules.WSquare(zero_params="bias")), {}),
    "z-box": (lambda: first(rules.ZBox(LOW, HIGH), rules.ZPlus()), BOX),
    "epsilon-plus": (composites.EpsilonPlus, {}),
    "epsilon-plus-flat": (composites.EpsilonPlusFlat, {}),
    "epsilon-alpha2-beta1": (composites.EpsilonAlpha2Beta1, {}),
    "epsilon-alpha2-beta1-flat": (composites.EpsilonAlpha2Beta1Flat, {}),
    "epsilon-gamma-box": (lambda: composites.EpsilonGammaBox(LOW, HIGH), BOX),
    "guided-backprop": (composites.GuidedBackprop, {}),
    "deconvnet": (composites.DeconvNet, {}),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@cache
def kept(build: Any) -> nn.Module:
    """Build a model once, so that all comparisons share its capture."""
    return seeded(build).double()


def theirs(model: nn.Module, x: Tensor, composite: Any, seed: str) -> Tensor:
    """Zennit's map of the largest output."""

    def weigh(output: Tensor) -> Tensor:
        chosen = torch.nn.functional.one_hot(output.argmax(1), output.shape[1]).to(output)
        return chosen if seed == "one" else chosen * output

    with Gradient(model, composite) as attributor:
        _, relevance = attributor(x.clone().requires_grad_(), weigh)
    return relevance.detach()


@pytest.mark.parametrize("build", [Small, Residual])
@pytest.mark.parametrize("name", PEERS)
def test_agreement(name: str, build: Any) -> None:
    composite, parameters = PEERS[name]
    model, x = kept(build), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    ours = rule_registry.get(name.partition(",")[0], **parameters)
    found = relprop.explain(model, x, rules=ours)
    assert found.relevance.any()
    assert distance(found.relevance, theirs(model, x, composite(), ours.seed)) <= 1e-9


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return settled(seeded(lambda: torchvision.models.resnet18(num_classes=7)), torch.randn(8, 3, 32, 32)).double()


@pytest.mark.parametrize(
    "name", ["epsilon", "z-plus", "epsilon-plus-flat", "epsilon-alpha2-beta1", "epsilon-gamma-box"]
)
def test_batch_norms_as_zennit_merges_them(name: str, resnet: nn.Module) -> None:
    """ResNet-18 under zennit's canonizer, which merges batch norms into weights and makes modules of the sums.

    The identity it leaves in place of a batch norm still divides by ``sqrt(1 + eps)``, which changes the outputs of
    this model by 1e-4 and its maps by as much; with eps added to the variance beforehand the identity is exact.
    """
    composite, parameters = PEERS[name]
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64).clamp(-4, 4)
    exact = copy.deepcopy(resnet)
    for module in exact.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var += module.eps
            module.eps = 0.0
    canonized = composite()
    canonized.canonizers = [ResNetCanonizer()]
    found = relprop.explain(resnet, x, rules=rule_registry.get(name, **parameters))
    assert distance(found.relevance, theirs(exact, x, canonized, "output")) <= 1e-9
