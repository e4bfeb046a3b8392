"""Small random models, drawn by hypothesis: what holds for every graph must hold for these.

Each model keeps a pool of feature maps of one shape and appends what a randomly drawn operation makes of earlier
ones: fan-out, residuals, concatenation, gates, attention, reused modules, buffers and in-place operations come about
by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice, product
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

import relprop
import rule_registry
from relprop.graph.signs import nonnegative_nodes

CHANNELS, SIZE, CLASSES, BATCH = 3, 4, 4, 2

ACTIVATIONS = ("relu", "gelu", "silu", "sigmoid", "hardswish", "leaky_relu", "tanh", "elu")
ONE_INPUT = (
    *ACTIVATIONS,
    "conv",
    "conv_reused",
    "conv_relu_",
    "conv_add_",
    "depthwise",
    "batch_norm",
    "layer_norm",
    "linear",
    "max_pool",
    "avg_pool",
    "buffer_scale",
    "buffer_shift",
    "negated",
    "rolled",
    "padded",
    "attention",
    "squeeze_excite",
    "softmax",
    "down_up",
)
TWO_INPUTS = ("add", "sub", "mul", "cat", "stack", "split_swap", "where")


@dataclass(frozen=True)
class Link:
    """One operation and which maps of the pool (counted modulo its length) it takes."""

    kind: str
    first: int
    second: int = 0


class RandomModel(nn.Module):
    """A model that follows a list of links."""

    def __init__(self, links: list[Link], head: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.links, self.head = links, head
        self.parts = nn.ModuleList(_part(link.kind) for link in links)
        self.shared = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.stem = nn.Conv2d(CHANNELS, CHANNELS, 1)
        width = CHANNELS if head == "mean" else CHANNELS * SIZE * SIZE
        self.classes = nn.Linear(width, CLASSES)
        self.register_buffer("scale", torch.randn(1, CHANNELS, 1, 1))
        self.register_buffer("shift", torch.randn(CHANNELS, SIZE, 1))
        self.register_buffer("mask", torch.rand(SIZE, SIZE) > 0.4)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        pool = [x, self.stem(x)]
        for link, part in zip(self.links, self.parts, strict=True):
            # In the pool both names of a map that is changed in place stay: later links read the changed one.
            pool.append(self.apply_link(link, part, pool))
        last = torch.stack(pool[1:]).sum(0)  # lest an operation be drawn that nothing depends on
        return self.classes(last.mean((2, 3)) if self.head == "mean" else last.flatten(1))

    def apply_link(self, link: Link, part: Any, pool: list[Tensor]) -> Tensor:
        a, b, kind = pool[link.first % len(pool)], pool[link.second % len(pool)], link.kind
        if kind in ACTIVATIONS:
            return torch.tanh(a) if kind == "tanh" else getattr(F, kind)(a) if kind != "sigmoid" else a.sigmoid()
        if kind in ("conv", "depthwise", "batch_norm", "max_pool", "avg_pool", "down_up"):
            return part(a)
        if kind == "conv_reused":
            return self.shared(a)
        if kind == "conv_relu_":
            before = part(a)
            pool.append(before)
            return before.relu_()
        if kind == "conv_add_":
            return part(a).add_(b).mul_(0.5)
        if kind in ("layer_norm", "linear"):
            return part(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if kind == "attention":
            q, k, v = part(a.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
            weights = (q @ k.transpose(-2, -1) / CHANNELS**0.5).softmax(-1)
            return (weights @ v).transpose(1, 2).reshape(-1, CHANNELS, SIZE, SIZE)
        if kind == "squeeze_excite":
            return a * part(a.mean((2, 3), keepdim=True)).sigmoid()
        if kind == "softmax":
            return a.softmax(1)
        if kind == "cat":
            return part(torch.cat([a, b], 1))
        return self.without_parameters(kind, a, b)

    def without_parameters(self, kind: str, a: Tensor, b: Tensor) -> Tensor:
        if kind == "buffer_scale":
            return a * self.scale
        if kind == "buffer_shift":
            return a + self.shift
        if kind == "negated":
            return 1.5 - a
        if kind == "rolled":
            return a.roll((1, 2), (2, 3)).flip(1)
        if kind == "padded":
            return F.pad(a[:, :, 1:], (0, 0, 1, 0), value=0.5)
        if kind == "add":
            return a + b
        if kind == "sub":
            return a - b
        if kind == "mul":
            return a * b
        if kind == "stack":
            return torch.stack([a, b]).mean(0)
        if kind == "split_swap":
            first, second = a.split([1, CHANNELS - 1], 1)
            return torch.cat([second, b[:, :1] + first], 1)
        assert kind == "where"
        return torch.where(self.mask, a, b)


def _part(kind: str) -> nn.Module:
    """The module a link of this kind owns."""
    made = {
        "depthwise": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
        "batch_norm": lambda: nn.BatchNorm2d(CHANNELS),
        "layer_norm": lambda: nn.LayerNorm(CHANNELS),
        "linear": lambda: nn.Linear(CHANNELS, CHANNELS),
        "max_pool": lambda: nn.MaxPool2d(3, 1, 1),
        "avg_pool": lambda: nn.AvgPool2d(3, 1, 1),
        "attention": lambda: nn.Linear(CHANNELS, 3 * CHANNELS),
        "squeeze_excite": lambda: nn.Conv2d(CHANNELS, CHANNELS, 1),
        "cat": lambda: nn.Conv2d(2 * CHANNELS, CHANNELS, 1),
        "down_up": lambda: nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 2, stride=2), nn.Upsample(scale_factor=2, mode="bilinear")
        ),
    }
    if kind in ("conv", "conv_relu_", "conv_add_"):
        return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    return made[kind]() if kind in made else nn.Identity()


indices = st.integers(0, 9)
links = st.one_of(
    st.builds(Link, st.sampled_from(ONE_INPUT), indices, indices),
    st.builds(Link, st.sampled_from(TWO_INPUTS), indices, indices),
)
models = st.builds(
    RandomModel, st.lists(links, min_size=2, max_size=8), st.sampled_from(["mean", "flat"]), st.integers(0, 99)
)


class Recorder(fx.Interpreter):
    """Runs a graph and keeps every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def check_gradient(model: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    output = model(leaf)
    (expected,) = torch.autograd.grad(output.amax(1).sum(), leaf)
    found = relprop.explain(model, x, rules="gradient", contrast=None)
    torch.testing.assert_close(found.output, output.detach(), rtol=1e-12, atol=1e-12)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.relevance, expected, rtol=1e-9, atol=1e-9 * max(scale, 1e-6))


def check_mass(model: nn.Module, x: Tensor) -> None:
    contrastive = relprop.explain(model, x)
    assert contrastive.conservation.error <= 1e-9, str(contrastive.conservation)
    lost = sum((cut.lost for cut in contrastive.conservation.cuts), torch.zeros(2, BATCH, dtype=x.dtype))
    (seeds,) = contrastive.seeds.values()
    torch.testing.assert_close(seeds.flatten(2).sum(-1), 1 - lost, rtol=0, atol=1e-9)
    torch.testing.assert_close(contrastive.relevance.flatten(1).sum(1), lost[1] - lost[0], rtol=0, atol=1e-9)
    plain = relprop.explain(model, x, contrast=None)
    assert float(plain.relevance.min()) >= 0
    torch.testing.assert_close(plain.relevance, seeds[0], rtol=1e-9, atol=1e-12)
    again = relprop.explain(model, x)
    assert torch.equal(again.relevance, contrastive.relevance)
    assert torch.equal(again.output, contrastive.output)


def check_absorbed(model: nn.Module, x: Tensor) -> None:
    """What rules without rescaling hand on and what they report as absorbed is together the output."""
    for name in ("attnlrp", "reslrp"):
        found = relprop.explain(model, x, rules=name, contrast=None)
        assert found.relevance.isfinite().all(), name
        absorbed = torch.stack([cut.lost.flatten() for cut in found.conservation.cuts])  # shares of the output
        share = found.relevance.flatten(1).sum(1) / found.output.detach().amax(1)
        scale = 1 + float(absorbed.abs().sum(0).max())
        torch.testing.assert_close(share + absorbed.sum(0), torch.ones_like(share), rtol=0, atol=1e-9 * scale)


CONTRASTS = (None, "rest", "log-odds", 1)
AUTHORS = ("abslrp-paper", "abslrp-released")
"""Rule sets for the operations of their authors' models alone."""
CHOICES = cycle(product(CONTRASTS, [name for name in rule_registry.names() if name not in AUTHORS]))
SETS_OF_A_MODEL = 4


def check_rule_sets(model: nn.Module, x: Tensor) -> None:
    """Some rule sets and contrasts, others for every model: finite, and every cut's mass accounted for."""
    known = {"low": -9.0, "high": 9.0}
    target = model(x).argmin(1)
    for contrast, name in islice(CHOICES, SETS_OF_A_MODEL):
        bounds = {key: value for key, value in known.items() if key in rule_registry.get(name).parameters}
        rules = rule_registry.get(name, **bounds)
        against = (target + 1) % model(x).shape[1] if contrast == 1 else contrast
        e = relprop.explain(model, x, rules=rules, contrast=against, target=target)
        what = (name, contrast)
        assert e.relevance.isfinite().all(), what
        kept = e.conservation
        if kept.cuts:
            assert kept.error <= 1e-9 * max(1.0, float(kept.masses.abs().max())), (what, str(kept))
        if kept.conserves:
            assert kept.masses[-1].sub(1).abs().max() <= 1e-9 + kept.lost, (what, str(kept))


def check_overwriting(model: nn.Module, x: Tensor) -> None:
    explainer = relprop.Explainer(model)
    with torch.no_grad():
        kept = explainer.program(x)(x)["relevance"]  # the program as people read it, where nothing is overwritten
    assert torch.equal(*explainer(x).seeds.values(), *kept)


def check_signs(model: nn.Module, x: Tensor) -> None:
    graph = relprop.Explainer(model).plan(x).graph
    claimed = nonnegative_nodes(graph)
    module = graph.module()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        recorder = Recorder(module)
        recorder.run(3 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
        by_name = {node.name: value for node, value in recorder.values.items()}
        for node in claimed:
            value = by_name[node.name]
            for part in value if isinstance(value, tuple | list) else [value]:
                if part is not None and part.is_floating_point():
                    assert float(part.detach().min()) >= 0, f"{graph.describe(node)} is claimed never to be negative"


IN_PLACE = [Link("conv_relu_", 1), Link("conv_add_", 2, 3), Link("conv_relu_", 0), Link("mul", 2, 5), Link("sub", 6, 2)]
REUSED = [Link("conv_reused", 0), Link("relu", 2), Link("conv_reused", 3), Link("mul", 4, 4), Link("add", 5, 5)]
MIXED = [Link("attention", 1), Link("where", 0, 2), Link("padded", 3), Link("cat", 3, 4), Link("split_swap", 4, 5)]


EVERY = [Link(kind, k, k + 1) for k, kind in enumerate([*ONE_INPUT, *TWO_INPUTS])]


# Not shrunk: each attempt costs a capture, and the models are small as they are.
DOZENS = settings(
    derandomize=True,
    deadline=None,
    max_examples=4,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
# Others every time: runs add up. What they find is printed as the model to add to the examples below.
OTHERS = settings(DOZENS, derandomize=False, max_examples=25, print_blob=True)


@DOZENS
@given(models)
@example(RandomModel(IN_PLACE, "flat", 0))
@example(RandomModel(REUSED, "mean", 1))
@example(RandomModel(MIXED, "flat", 2))
@example(RandomModel(EVERY[0::4], "flat", 3))
@example(RandomModel(EVERY[1::4], "mean", 4))
@example(RandomModel(EVERY[2::4], "flat", 5))
@example(RandomModel(EVERY[3::4], "mean", 6))
def test_random_graph(model: RandomModel) -> None:
    check_everything(model)


@pytest.mark.full
@pytest.mark.parametrize("quarter", range(4))  # for processes to share
@OTHERS
@given(model=models)
def test_a_hundred_other_graphs(quarter: int, model: RandomModel) -> None:
    check_everything(model)


def check_everything(model: RandomModel) -> None:
    """Gradient, mass, signs and repeatability of one random model."""
    model = model.double().eval()
    x = torch.randn(BATCH, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_gradient(model, x)
    check_mass(model, x)
    check_absorbed(model, x)
    check_rule_sets(model, x)
    check_overwriting(model, x)
    check_signs(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
