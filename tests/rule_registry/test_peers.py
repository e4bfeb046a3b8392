"""Agreement with zennit, the library whose rules the field compares with, and with LXT, the authors' of AttnLRP."""

from __future__ import annotations

import copy
import importlib
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from benchmarks.peers.adapters import lxt_efficient
from tests.helpers.attention import CausalModel, VisionTransformer
from tests.helpers.models import distance, seeded, settled

zennit = pytest.importorskip("zennit")
from zennit import composites, rules  # noqa: E402
from zennit.attribution import Gradient  # noqa: E402
from zennit.core import BasicHook  # noqa: E402
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


@pytest.mark.sweep(every=6)
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


@pytest.mark.sweep(every=14)
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


@pytest.mark.full
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


def explicit(name: str, model: nn.Module, conv_gamma: float, dense_gamma: float) -> Any:
    """LXT's operations in its mathematically explicit form, without stabilisers.

    Gammas are zennit's rule, as LXT's example for vision transformers has it, at the layers outside of attention. Two
    operations are not LXT's own. Its RMS norm computes in float32, so its identity rule (Eq. 9) stands around torch's.
    Its CP-LRP is in the efficient form alone: there it detaches queries and keys, so the attention is held.
    """
    reason = "LXT is not installed (the extra peers)"
    functions = pytest.importorskip("lxt.explicit.functional", reason=reason)
    explicit_rules = pytest.importorskip("lxt.explicit.rules", reason=reason)

    def projection(layer: nn.Linear, x: Tensor) -> Tensor:
        return functions.linear_epsilon(x, layer.weight, layer.bias, 0.0)

    def by_gamma(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)  # under zennit's hook

    def held(attention: Tensor, v: Tensor) -> Tensor:
        return explicit_rules.epsilon_lrp(lambda v: attention.detach() @ v, 0.0, v)

    if dense_gamma:
        with_gammas(model, conv_gamma, dense_gamma)
    matmul = partial(functions.matmul, epsilon=0.0)
    return SimpleNamespace(
        dense=by_gamma if dense_gamma else projection,
        projection=projection,
        convolution=by_gamma if conv_gamma else lambda layer, x: explicit_rules.epsilon_lrp(layer, 0.0, x),
        norm=lambda norm, x: functions.layer_norm_grad_fn.apply(x, norm.weight, norm.bias, norm.eps, 0.0),
        root_mean_square=explicit_rules.identity,
        gelu=partial(explicit_rules.identity, F.gelu),
        silu=partial(explicit_rules.identity, F.silu),
        add=partial(functions.add2, epsilon=0.0),
        scale=functions.mul2,
        multiply=functions.mul2,
        logits=matmul if name == "attnlrp" else torch.matmul,
        softmax=functions.softmax if name == "attnlrp" else torch.softmax,
        attend=matmul if name == "attnlrp" else held,
    )


def with_gammas(model: nn.Module, conv_gamma: float, dense_gamma: float) -> None:
    """Hook zennit's gamma rule to the convolutions, and to the dense layers that the model doesn't use in attention."""
    inside = ("q", "k", "v", "qkv", "proj", "out_proj")
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            rules.Gamma(conv_gamma, stabilizer=1e-15).register(module)
        elif isinstance(module, nn.Linear) and path.rpartition(".")[2] not in inside:
            rules.Gamma(dense_gamma, stabilizer=1e-15).register(module)


def exact(name: str, **parameters: float) -> rule_registry.RuleSet:
    """A rule set without stabilisers."""
    return rule_registry.get(name, epsilon=0.0, stabilizer=0.0, **parameters)


def largest(output: Tensor) -> Tensor:
    """The seed of the rule sets: each sample's largest output, in its place."""
    return output * F.one_hot(output.argmax(1), output.shape[1])


INPUTS = {VisionTransformer: (3, 3, 8, 8), CausalModel: (3, 5, 16)}


@pytest.mark.sweep(every=12)
@pytest.mark.parametrize(("conv_gamma", "dense_gamma"), [(0.0, 0.0), (0.25, 0.05), (1.0, 0.5)])
@pytest.mark.parametrize("build", INPUTS)
@pytest.mark.parametrize("name", ["attnlrp", "cp-lrp"])
def test_lxt(name: str, build: Any, conv_gamma: float, dense_gamma: float) -> None:
    """A vision transformer and a causal language model of two blocks, in LXT's explicit form."""
    model, x = kept(build), torch.randn(*INPUTS[build], dtype=torch.float64)
    hooked, source = copy.deepcopy(model), x.clone().requires_grad_()
    output = hooked(source, explicit(name, hooked, conv_gamma, dense_gamma))
    (expected,) = torch.autograd.grad(output, source, largest(output.detach()))
    found = relprop.explain(model, x, rules=exact(name, conv_gamma=conv_gamma, dense_gamma=dense_gamma))
    torch.testing.assert_close(found.output, output.detach())
    assert distance(found.relevance, expected) <= 1e-6


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


def timm_transformer() -> nn.Module:
    made = timm.models.VisionTransformer(8, 4, num_classes=5, embed_dim=16, depth=2, num_heads=2)
    return settled(made, torch.randn(2, 3, 8, 8))


@pytest.mark.sweep(every=6)
@pytest.mark.parametrize(("conv_gamma", "dense_gamma"), [(0.0, 0.0), (0.25, 0.05)])
@pytest.mark.parametrize(
    ("name", "build"), [("attnlrp", Fused), ("attnlrp", timm_transformer), ("cp-lrp", torchvision_transformer)]
)
def test_lxt_as_gradient_times_input(
    name: str, build: Any, conv_gamma: float, dense_gamma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LXT's efficient form, through the adapter that the benchmarks compare with, with its patches for zennit."""
    pytest.importorskip("lxt", reason="LXT is not installed (the extra peers)")
    model, x = kept(build), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    found = relprop.explain(model, x, rules=exact(name, conv_gamma=conv_gamma, dense_gamma=dense_gamma))
    patched = copy.deepcopy(model)
    explain = lxt_efficient(patched)
    if dense_gamma:
        patches = importlib.import_module("lxt.efficient.zennit_patches")
        for method in ("forward", "backward"):
            monkeypatch.setattr(BasicHook, method, getattr(patches, method))
        with_gammas(patched, conv_gamma, dense_gamma)
    assert distance(found.relevance, explain(x, found.target)) <= 1e-6
