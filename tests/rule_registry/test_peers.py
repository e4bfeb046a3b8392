"""Agreement with zennit, the library whose rules the field compares with, and with LXT, the authors' of AttnLRP."""

from __future__ import annotations

import copy
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from benchmarks.peers.adapters import lxt_efficient
from rule_registry.lrp.norms import norm as norm_with_held_deviation
from tests.helpers.models import distance, seeded, settled

zennit = pytest.importorskip("zennit")
from zennit import composites, rules  # noqa: E402
from zennit.attribution import Gradient  # noqa: E402
from zennit.layer import Sum  # noqa: E402
from zennit.torchvision import ResNetCanonizer  # noqa: E402
from zennit.types import Linear as AnyLayer  # noqa: E402

aten = torch.ops.aten

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


def vgg() -> nn.Module:
    """torchvision's VGG-11, with a head for small pictures."""
    trunk = torchvision.models.vgg11(init_weights=False).features
    return nn.Sequential(trunk, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 7))


def resnet_without_norms() -> nn.Module:
    """torchvision's ResNet-18 without batch norms; zennit's canonizer makes modules of its sums."""
    return torchvision.models.resnet18(num_classes=7, norm_layer=lambda _: nn.Identity())


@pytest.mark.parametrize("build", [vgg, resnet_without_norms])
@pytest.mark.parametrize("name", ["epsilon", "z-plus", "gamma", "alpha-beta", "flat", "z-box", "epsilon-plus-flat"])
def test_agreement_on_models_people_use(name: str, build: Any) -> None:
    composite, parameters = PEERS[name]
    canonized = composite()
    canonized.canonizers = [ResNetCanonizer()]
    model, x = kept(build), torch.randn(2, 3, 32, 32, dtype=torch.float64).clamp(-5, 5)
    found = relprop.explain(model, x, rules=rule_registry.get(name, **parameters))
    assert found.relevance.any()
    assert distance(found.relevance, theirs(model, x, canonized, "output")) <= 1e-9


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


PLAIN = SimpleNamespace(
    linear=F.linear,
    convolution=lambda convolve, x: convolve(x),
    norm=lambda norm, x: norm(x),
    activation=F.gelu,
    add=torch.add,
    scale=torch.mul,
    matmul=torch.matmul,
    softmax=torch.softmax,
)


class Transformer(nn.Module):
    """A vision transformer of two blocks, over operations that can be replaced by those of LXT."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 5, 16))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(16),
                    "qkv": nn.Linear(16, 48),
                    "proj": nn.Linear(16, 16),
                    "norm2": nn.LayerNorm(16),
                    "fc1": nn.Linear(16, 32),
                    "fc2": nn.Linear(32, 16),
                }
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor, ops: Any = PLAIN) -> Tensor:
        def dense(layer: nn.Linear, x: Tensor) -> Tensor:
            return ops.linear(x, layer.weight, layer.bias)

        x = ops.convolution(self.embed, x).flatten(2).transpose(1, 2)
        x = ops.add(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1), self.position)
        for block in self.blocks:
            q, k, v = dense(block.qkv, ops.norm(block.norm1, x)).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            attention = ops.softmax(ops.matmul(ops.scale(q, 8**-0.5), k.transpose(2, 3)), -1)
            x = ops.add(x, dense(block.proj, ops.matmul(attention, v).transpose(1, 2).flatten(2)))
            x = ops.add(x, dense(block.fc2, ops.activation(dense(block.fc1, ops.norm(block.norm2, x)))))
        return dense(self.head, ops.norm(self.norm, x)[:, 0])


def explicit(norm: str) -> Any:
    """LXT's operations in its mathematically explicit form, without stabilisers, and with one of its rules for norms.

    ``identity`` is Proposition 3.4 of Achtibat et al., AttnLRP, ICML 2024, for all of a norm: ``R_i = R_i``. Of
    layer norm LXT takes it for the division by the deviation alone, and epsilon for what is affine in it, the mean
    that is subtracted and the bias: ``R_i = x_i sum_j (delta_ij - 1/n) gamma_j / sigma * R_j / y_j``.
    """
    reason = "LXT is not installed (the extra peers)"
    functions = pytest.importorskip("lxt.explicit.functional", reason=reason)
    explicit_rules = pytest.importorskip("lxt.explicit.rules", reason=reason)
    norms = {
        "identity": explicit_rules.identity,
        "epsilon": lambda norm, x: functions.layer_norm_grad_fn.apply(x, norm.weight, norm.bias, norm.eps, 0.0),
    }
    return SimpleNamespace(
        linear=partial(functions.linear_epsilon, epsilon=0.0),
        convolution=lambda convolve, x: explicit_rules.epsilon_lrp(convolve, 0.0, x),
        norm=norms[norm],
        activation=partial(explicit_rules.identity, F.gelu),
        add=partial(functions.add2, epsilon=0.0),
        scale=functions.mul2,
        matmul=partial(functions.matmul, epsilon=0.0),
        softmax=functions.softmax,
    )


def exact(name: str) -> rule_registry.RuleSet:
    """A rule set without stabilisers."""
    return rule_registry.get(name, epsilon=0.0, stabilizer=0.0)


def largest(output: Tensor) -> Tensor:
    """The seed of the rule sets: each sample's largest output, in its place."""
    return output * F.one_hot(output.argmax(1), output.shape[1])


@pytest.mark.parametrize("norm", ["identity", "epsilon"])
def test_attnlrp_as_lxt_has_it(norm: str) -> None:
    model, x = kept(Transformer), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    ours = exact("attnlrp")
    if norm == "epsilon":
        ours = ours.derive({aten.layer_norm.default: norm_with_held_deviation})
    ops, source = explicit(norm), x.clone().requires_grad_()
    output = model(source, ops)
    (expected,) = torch.autograd.grad(output, source, largest(output.detach()))
    found = relprop.explain(model, x, rules=ours)
    torch.testing.assert_close(found.output, output.detach())
    assert distance(found.relevance, expected) <= 1e-8


class Fused(nn.Module):
    """A transformer's block around PyTorch's fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.norm1, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.mlp = nn.LayerNorm(16), nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean(1))


def torchvision_transformer() -> nn.Module:
    """PyTorch's own attention module, for which LXT has the rule of CP-LRP."""
    made = torchvision.models.VisionTransformer(8, 4, 2, 2, 16, 32, num_classes=5)
    return settled(made, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(("name", "build"), [("attnlrp", Fused), ("cp-lrp", torchvision_transformer)])
def test_lxt_as_gradient_times_input(name: str, build: Any) -> None:
    """LXT's efficient form, through the adapter that the benchmarks compare with; it has layer norm as above."""
    pytest.importorskip("lxt", reason="LXT is not installed (the extra peers)")
    model, x = kept(build), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    found = relprop.explain(model, x, rules=exact(name).derive({aten.layer_norm.default: norm_with_held_deviation}))
    expected = lxt_efficient(copy.deepcopy(model))(x, found.target)
    assert distance(found.relevance, expected) <= 1e-7
