"""The composites of absLRP and LRP: which operation has whose rule, and where they are another set letter by letter."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from tests.helpers.models import Lambda, kept, pictures, seeded, settled

aten = torch.ops.aten


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return settled(torchvision.models.resnet18(weights=None, num_classes=5).eval(), torch.randn(4, 3, 32, 32))


@pytest.mark.full
@pytest.mark.parametrize("contrast", [None, "rest", "log-odds"])
def test_on_rectified_networks_the_composite_is_abslrp(contrast: str | None) -> None:
    for model, x in ((kept("plain"), pictures(2)), (resnet(), torch.randn(2, 3, 32, 32))):
        maps = [relprop.explain(model, x, rules=r, contrast=contrast).relevance for r in ("abslrp-composite", "abslrp")]
        assert torch.equal(*maps)


def test_without_residual_sums_and_attention_epsilon_plus_residual_is_epsilon_plus() -> None:
    model, x = kept("plain"), pictures(2)
    names = ("epsilon-plus-residual", "epsilon-plus")
    assert torch.equal(*(relprop.explain(model, x, rules=name, contrast="log-odds").relevance for name in names))
    assert relprop.explain(model, x, rules="epsilon-plus-residual").contrast == "log-odds"


def transformer() -> nn.Module:
    """Attention, a gate, a rectified dense layer, a rectified sum, and signed ones."""

    def forward(m: Lambda, x: Tensor) -> Tensor:
        tokens = m.patches(x).flatten(2).transpose(1, 2)
        q, k, v = m.qkv(m.norm(tokens)).chunk(3, -1)
        tokens = tokens + m.proj((q @ k.transpose(1, 2)).softmax(-1) @ v)
        tokens = (tokens + m.mlp(tokens)).relu()
        tokens = tokens * m.gate(tokens).sigmoid() + F.gelu(m.signed(tokens))
        return m.head(tokens.mean(1)) / 2

    mlp = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 6))
    members = {"patches": nn.Conv2d(3, 6, 4, 4), "qkv": nn.Linear(6, 18), "norm": nn.LayerNorm(6), "mlp": mlp}
    dense = {name: nn.Linear(6, 6) for name in ("proj", "gate", "signed")}
    return seeded(lambda: Lambda(forward, head=nn.Linear(6, 5), **members, **dense))


def rules_of(name: str) -> dict[str, str]:
    plan = relprop.Explainer(transformer(), rules=name).plan(pictures(2))
    return {node.name: f"{plan.assigned[node].name} {plan.rules.mass_of(plan.assigned[node])}" for node in plan.sites}


@pytest.mark.full
def test_each_operation_has_the_rule_of_its_kind() -> None:
    found = rules_of("abslrp-composite")
    signed = {
        "qkv": "dense measured",
        "proj": "dense measured",
        "gate": "dense measured",
        "signed": "dense measured",
        "mlp_3": "dense measured",
        "norm": "norm measured",
        "softmax": "softmax measured",
        "matmul": "matmul measured",
        "matmul_1": "matmul measured",
        "add": "by_agreement measured",
        "add_2": "by_agreement measured",
    }
    rectified = {
        "patches": "convolution conserved",
        "mlp_0": "linear conserved",
        "add_1": "add conserved",
        "mul": "mul conserved",
        "mean": "average conserved",
        "head": "linear conserved",
    }
    assert {name: found[name] for name in (*signed, *rectified)} == signed | rectified


def test_where_rectifiers_alone_read_an_output() -> None:
    def forward(m: Lambda, x: Tensor) -> Tensor:
        a = (m.a(x).view(-1, 2, 3) * 2).flatten(1).clamp(min=0)  # through moves and a positive scalar
        b = (m.b(x) * -1).relu()  # the other side
        c = m.c(x)
        d = m.d(x)
        e = F.relu6(m.e(x))
        return m.head(a + b + c.relu() + c + d.relu() * d.clamp_min(0) + e)

    layers = {name: nn.Linear(4, 6) for name in "abcde"}
    model = seeded(lambda: Lambda(forward, head=nn.Linear(6, 3), **layers))
    plan = relprop.Explainer(model).plan(torch.randn(2, 4))
    found = {site.path: site.before_rectifier for site in plan.sites.values() if site.op == aten.linear.default}
    assert found == {"a": True, "b": False, "c": False, "d": True, "e": True, "head": False}


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"scores": True}, "class scores"),
        ({"scores": False, "activations": 2}, "below the class scores, 2 activations"),
        ({"before_rectifier": False, "activations": 1}, "not before a rectifier, 1 activation"),
    ],
)
def test_selectors_say_what_they_choose(choice: dict[str, object], words: str) -> None:
    assert str(rule_registry.select(**choice)) == words  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scores must be True or False"):
        rule_registry.select(scores="yes")  # type: ignore[arg-type]


def test_versions_of_rule_sets() -> None:
    changed = {name for name in rule_registry.names() if rule_registry.get(name).version != 1}
    assert changed == {"abslrp", "attnlrp", "cp-lrp"}
    assert rule_registry.get("abslrp").derive({aten.relu.default: rule_registry.blocks}).version == 2
