"""Rules for selected modules, and layers that are found in a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import ScaledStdConv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, weight_norm

import relprop
import rule_registry
from rule_registry import blocks, passes, select
from tests.helpers.models import Lambda
from tests.helpers.rules import site

pytestmark = pytest.mark.usefixtures("own_registry")
aten = torch.ops.aten


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("blocks.*.attn", "blocks.0.attn", True),
        ("blocks.*.attn", "blocks.11.attn", True),
        ("blocks.*.attn", "blocks.0.attn.qkv", False),
        ("blocks.*", "blocks.0.attn", True),
        ("blocks.[01].attn", "blocks.2.attn", False),
        ("", "", True),
        ("", "head", False),
        ("Head", "head", False),
    ],
)
def test_select_by_path(pattern: str, path: str, matches: bool) -> None:
    assert select(path=pattern).matches(site(path=path)) is matches


def test_select_by_module_class() -> None:
    here = site()
    for module in (nn.ReLU, "ReLU", "torch.nn.modules.activation.ReLU"):
        assert select(module=module).matches(here)
    for module in (nn.GELU, "relu", "ReLU6", "activation.ReLU"):
        assert not select(module=module).matches(here)


def test_select_by_everything_together() -> None:
    chosen = select(op=aten.relu.default, path="a.*", module=nn.ReLU)
    assert chosen.matches(site(path="a.b"))
    assert not chosen.matches(site(path="b"))
    assert not chosen.matches(site(aten.gelu.default, "a.b"))
    assert not chosen.matches(site(path="a.b", module="GELU"))
    assert str(select(op=aten.relu.default, path="a.*")) == "op aten.relu.default, path a.*"


def test_select_of_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="a path, a module class, a layer, whether it is attention"):
        select()


def test_select_in_a_model() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()).eval()
    rules = rule_registry.get("abslrp").derive({select(path="1"): blocks, select(module=nn.Linear): passes})
    plan = relprop.Explainer(model, rules=rules).plan(torch.rand(2, 3))
    found = {s.path: plan.assigned[node].kind for node, s in plan.sites.items()}
    assert found == {"0": "passes", "1": "blocks", "2": "passes", "3": "passes"}


REFUSED: dict[str, tuple[Any, Callable[[Any, Tensor], Tensor], str]] = {
    "a layer": (
        aten.linear.default, lambda m, x: m.head(x).mean(1),
        r"passes is the rule of aten\.linear.* in head .*output \(\w+, 3, 5\) is not .* its input \(\w+, 3, 4\)",
    ),
    "a pooling": (aten.max_pool1d.default, lambda m, x: m.head(F.max_pool1d(F.pad(x, (0, 4)), 2)[:, 0]), "3, 4.*3, 8"),
    "several outputs": (aten.max.dim, lambda m, x: m.head(x.max(1).values), r"output \(\w+, 4\) .*\(\w+, 3, 4\)"),
    "not the first": (aten.split.Tensor, lambda m, x: m.head(x.split(2, 1)[1][:, 0]), r"output \(\w+, 2, 4\)"),
    "the first and others": (
        aten.split_with_sizes.default, lambda m, x: m.head(torch.cat(x.split([3, 0], 1), 1).mean(1)), "the first alone",
    ),
    "copies": (
        aten.clamp.Tensor, lambda m, x: m.head(x[:, 0].clamp(torch.zeros(2, 1, 4)).mean(0)), r"output \(2, \w+, 4\)",
    ),
    "several inputs": (aten.maximum.default, lambda m, x: m.head(x.maximum(-x)[:, 0]), "to 2 inputs"),
}  # fmt: skip


@pytest.mark.sweep(every=7)
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_can_not_pass_unchanged_is_refused(case: tuple[Any, Callable[[Any, Tensor], Tensor], str]) -> None:
    op, function, message = case
    model = Lambda(function, head=nn.Linear(4, 5)).eval()
    rules = rule_registry.get("abslrp").derive({op: passes})
    with pytest.raises(relprop.RuleError, match=message):
        relprop.explain(model, torch.randn(2, 3, 4), rules=rules)


def test_the_first_of_several_outputs_passes() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 3, 2, 2)
    norm = aten._native_batch_norm_legit_no_training.default
    e = relprop.explain(model, x, rules=rule_registry.get("abslrp").derive({norm: passes}), layers=["0", "1"])
    assert torch.equal(e.layers["0"], e.layers["1"])
    assert e.conservation.error <= 1e-5


def test_first_and_last_layer_are_found_in_a_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    plan = relprop.Explainer(model).plan(torch.randn(2, 3, 4, 4))
    marked = {site.path: (site.first, site.last) for site in plan.sites.values() if site.first or site.last}
    assert marked == {"0": (True, False), "4": (False, True)}
    flat = rule_registry.get("abslrp").derive({select(layer="first"): blocks})
    assert [flat.find(site) is blocks for site in plan.sites.values()] == [True, False, False, False, False]
    assert str(select(layer="last")) == "layer last"
    with pytest.raises(ValueError, match='"first", "input" or "last"'):
        select(layer="middle")  # type: ignore[arg-type]


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of old": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "standardised": lambda layer: ScaledStdConv2d(3, 4, 3, padding=0) if isinstance(layer, nn.Conv2d) else layer,
}


@pytest.mark.sweep(every=5)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated", "ignore:The tensor attributes")
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_a_layer_whose_weight_is_computed_is_one(wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    layers = [wrap(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Flatten(), wrap(nn.Linear(16, 3))]
    plan = relprop.Explainer(nn.Sequential(*layers).eval(), rules="epsilon-plus-flat").plan(torch.randn(2, 3, 6, 6))
    sites = plan.sites.values()
    assert [site.path for site in sites if site.first] == [site.path for site in sites if site.input] == ["0"]
    assert [site.path for site in sites if site.last] == ["4"]
    assert [node.name for node, rule in plan.assigned.items() if rule.name == "flat"] == [next(iter(plan.sites)).name]


def test_a_factor_of_a_matrix_product_is_a_weight_and_that_of_an_entry_is_none() -> None:
    def forward(m: Lambda, x: Tensor) -> Tensor:
        return torch.addmm(m.shift, (x * m.gain).relu() @ m.first, (m.last * 2).T)

    torch.manual_seed(0)
    shapes = {"gain": (1, 5), "first": (5, 4), "last": (3, 4), "shift": (3,)}
    model = Lambda(forward, **{name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}).eval()
    sites = relprop.Explainer(model).plan(torch.randn(2, 5)).sites.values()
    assert [site.op for site in sites if site.first] == [aten.matmul.default]
    assert [site.op for site in sites if site.last] == [aten.addmm.default]


class TwoStems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.mixed, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x - self.mean)
        return self.head((self.wide(x) + self.mixed(torch.relu(self.narrow(x)))).mean((2, 3)))


def test_layers_at_the_input_are_found_in_a_model() -> None:
    plan = relprop.Explainer(TwoStems().eval()).plan(torch.randn(2, 3, 4, 4))
    assert [site.path for site in plan.sites.values() if site.input] == ["wide", "narrow"]
    assert [site.path for site in plan.sites.values() if site.first] == ["wide"]
    chosen = rule_registry.get("abslrp").derive({select(layer="input", module="Conv2d", path="n*"): blocks})
    assert [site.path for site in plan.sites.values() if chosen.find(site) is blocks] == ["narrow"]
    inner = relprop.Explainer(TwoStems().eval(), at="narrow").plan(torch.randn(2, 3, 4, 4))
    assert [site.path for site in inner.sites.values() if site.input] == ["mixed"]
