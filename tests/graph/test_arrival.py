"""Where relevance arrives at positive outputs alone: the letter's code runs there, with the letter's bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import relprop
import rule_registry
from tests.helpers.models import Lambda, settled

LETTER = rule_registry.get("abslrp", signed=False)


def small_vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 6), (6, 8)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 5))


def resnet() -> nn.Module:
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


RECTIFIED: dict[str, Callable[[], nn.Module]] = {
    "squeezenet1_1": lambda: torchvision.models.squeezenet1_1(num_classes=10),
    "VGG": small_vgg,
    "ResNet": resnet,
}


@pytest.mark.sweep(every=6)
@pytest.mark.parametrize("contrast", [None, "rest"])
@pytest.mark.parametrize("make", RECTIFIED.values(), ids=RECTIFIED.keys())
def test_equal_bits_with_the_letter_on_rectified_networks(make: Callable[[], nn.Module], contrast: Any) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    found, letter = (relprop.explain(model, x, contrast=contrast, rules=rules) for rules in ("abslrp", LETTER))
    assert torch.equal(found.relevance, letter.relevance)
    assert found.relevance.any()


@pytest.mark.full
def test_a_negative_gain_is_seen_at_the_next_call() -> None:
    """Gains are looked at when the program runs: a convolution before one that is negative is explained by sign."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model = settled(resnet().double(), x).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.abs_().add_(0.1)
    signed, letter = relprop.Explainer(model), relprop.Explainer(model, rules=LETTER)
    assert torch.equal(signed(x).relevance, letter(x).relevance)
    model.layer1[0].bn1.weight.data[::2] *= -1
    folded = torch.nn.utils.fusion.fuse_conv_bn_eval(model.layer1[0].conv1, model.layer1[0].bn1)
    assert (folded.weight != model.layer1[0].conv1.weight).any()
    assert not torch.allclose(signed(x).relevance, letter(x).relevance)


def test_a_negative_gain_with_a_negated_convolution_changes_nothing() -> None:
    """``gain * conv`` and ``-gain * -conv`` are one function, and one map; by the letter they are two."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model, x = block.double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    maps = {}
    for flipped in (False, True):
        if flipped:
            model[0].weight.data[1].neg_()
            model[1].weight.data[1].neg_()
        maps[flipped] = [relprop.explain(model, x, rules=rules).relevance for rules in ("abslrp", LETTER)]
    torch.testing.assert_close(maps[True][0], maps[False][0])
    assert not torch.allclose(maps[True][1], maps[False][1])


@pytest.mark.full
def test_a_program_with_gains_is_exported() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model, x = model.double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    program = relprop.Explainer(model).program(x)
    exported = torch.export.export(program, (x,), strict=False).module()
    expected, found = program(x)["relevance"][0], exported(x)["relevance"][0]
    torch.testing.assert_close(found, expected)


CHAINS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], bool]] = {
    # from a layer's output to the input of the head, and whether relevance arrives at positive outputs alone
    "ReLU": (lambda m, z: z.relu(), True),
    "ReLU6": (lambda m, z: torch.nn.functional.relu6(z), True),
    "clamp": (lambda m, z: z.clamp(min=0), True),
    "clamp below zero": (lambda m, z: z.clamp(min=-1), False),
    "nothing": (lambda m, z: z, False),
    "GELU": (lambda m, z: torch.nn.functional.gelu(z), False),
    "ReLU read by a sigmoid": (lambda m, z: z.relu().sigmoid(), False),
    "ReLU read by another too": (lambda m, z: z.relu() + z.tanh(), False),
    "move": (lambda m, z: z.flip(1).relu(), True),
    "positive scalar": (lambda m, z: (z * 2).relu(), True),
    "negative scalar": (lambda m, z: (z * -2).relu(), False),
    "negation": (lambda m, z: (-z).relu(), False),
    "maximum": (lambda m, z: torch.nn.functional.max_pool1d(z.unsqueeze(1), 2, 1, 1)[..., :8].squeeze(1).relu(), True),
    "sum": (lambda m, z: (z + m.other(z.tanh())).relu(), False),
    "sum with a constant": (lambda m, z: (z + 1).relu(), True),
    "sum of two moves": (lambda m, z: (z + z.flip(1)).relu(), True),
    "subtracted": (lambda m, z: (z - z.flip(1)).relu(), False),
    "average": (lambda m, z: (z.unsqueeze(1).mean(1)).relu(), True),
    "gate that is never negative": (lambda m, z: (z * m.gate.exp()).relu(), True),
    "gate of any sign": (lambda m, z: (z * m.gate).relu(), False),
    "norm without a gain": (lambda m, z: torch.nn.functional.layer_norm(z, [8]).relu(), True),
}


@pytest.mark.sweep(every=21)
@pytest.mark.parametrize("case", CHAINS.values(), ids=CHAINS.keys())
def test_what_the_proof_goes_through(case: tuple[Callable[[nn.Module, Tensor], Tensor], bool]) -> None:
    """What is proven holds: relevance at the layer's negative outputs is zero, for the set and for the letter."""
    function, expected = case
    torch.manual_seed(0)
    members = {"first": nn.Linear(6, 8), "other": nn.Linear(8, 8), "head": nn.Linear(8, 5)}
    model = Lambda(lambda m, x: m.head(function(m, m.first(x))), **members)
    model.gate = nn.Parameter(torch.randn(8))
    model, x = model.double().eval(), torch.randn(4, 6, dtype=torch.float64)
    explainer = relprop.Explainer(model, layers=["first"])
    sites = {node.name: site for node, site in explainer.plan(x).sites.items()}
    assert sites["first"].rectified is expected
    arrived = explainer(x, target=0).layers["first"]
    negative = model.first(x) < 0
    assert bool(arrived[negative].any()) is not expected


@pytest.mark.full
def test_a_hook_ends_the_proof() -> None:
    model, x = small_vgg().eval(), torch.randn(2, 3, 32, 32)
    rectified = {
        hooked: [site.rectified for site in relprop.Explainer(model, hooks=hooks).plan(x).sites.values()]
        for hooked, hooks in ((False, None), (True, {"0": lambda info, relevance: None}))
    }
    assert rectified[False][0]
    assert not rectified[True][0]
    assert rectified[False][1:] == rectified[True][1:]


def test_a_rule_of_ones_own_ends_the_proof() -> None:
    model, x = small_vgg().eval(), torch.randn(2, 3, 32, 32)
    rules = rule_registry.get("abslrp").derive(
        {torch.ops.aten.max_pool2d.default: lambda call, r: call.input * r.sum()}
    )
    plan = relprop.Explainer(model, rules=rules).plan(x)
    assert not next(iter(plan.sites.values())).rectified
