"""Rule sets through whole models: finite, accounted for, and equal where they must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from tests.helpers.models import KINDS, Lambda, Plain, distance, gradient, kept, pictures, seeded

SIGNED = [name for name in rule_registry.names() if rule_registry.get(name).mass == "measured"]


BOUNDS = {"z-box": (-6.0, 6.0), "epsilon-gamma-box": (-6.0, 6.0)}


def rule_set(name: str) -> rule_registry.RuleSet:
    if name in BOUNDS:
        return rule_registry.get(name, low=BOUNDS[name][0], high=BOUNDS[name][1])
    return rule_registry.get(name)


@pytest.mark.sweep(every=9)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_set_explains_every_kind_of_model(kind: str) -> None:
    """What arrives is finite, and every cut's mass is accounted for: what is missing was absorbed at an operation."""
    x = KINDS[kind][1](2)
    for name in SIGNED:
        e = relprop.explain(kept(kind), x, rules=rule_set(name))
        assert e.relevance.isfinite().all(), name
        assert e.relevance.any(), name
        assert not e.conservation.conserves
        assert e.conservation.cuts
        scale = max(1.0, float(e.conservation.masses.abs().max()))
        assert e.conservation.error <= 1e-4 * scale, (name, str(e.conservation))
        assert ("biases and stabilisers" in str(e.conservation)) is not e.conservation.conserves
    for name in ("input-times-gradient", "guided-backprop", "deconvnet"):
        assert relprop.explain(kept(kind), x, rules=name).relevance.isfinite().all()


def without_bias(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if getattr(module, "bias", None) is not None:
            module.bias = None
    return model.double()


@pytest.fixture(scope="module")
def rectifying() -> nn.Module:
    return without_bias(seeded(Plain))


@pytest.mark.parametrize("contrast", [None, "rest"])
def test_lrp_0_is_input_times_gradient_where_nothing_is_absorbed(rectifying: nn.Module, contrast: Any) -> None:
    x = pictures(3).double()
    lrp = relprop.explain(rectifying, x, rules="lrp-0", contrast=contrast)
    product = relprop.explain(rectifying, x, rules="input-times-gradient", contrast=contrast)
    assert distance(lrp.relevance, product.relevance) <= 1e-10
    if contrast is None:
        assert distance(product.relevance, x * gradient(rectifying, x)) <= 1e-12
        predicted = lrp.output.amax(1)
        torch.testing.assert_close(lrp.relevance.flatten(1).sum(1), predicted)
        assert lrp.conservation.lost <= 1e-9
        assert lrp.conservation.masses[-1].flatten().tolist() == pytest.approx([1.0] * 3)


@pytest.mark.parametrize("name", ["z-plus", "alpha-beta", "flat", "w-squared", "excitation-backprop"])
def test_rules_that_leave_nothing_out_conserve(rectifying: nn.Module, name: str) -> None:
    """Without biases these absorb what the stabiliser does, and alpha-beta where all contributions have one sign."""
    x = pictures(3).double().abs()
    e = relprop.explain(rectifying, x, rules=name)
    assert e.conservation.error <= 1e-9
    if name != "alpha-beta":
        assert e.conservation.lost <= 1e-3


def test_input_times_gradient_at_layers() -> None:
    """At a layer it is the activation that the gradient is multiplied with."""
    model, x = kept("plain"), pictures(2)
    plain = relprop.explain(model, x, rules="gradient", layers=["features.2"])
    weighed = relprop.explain(model, x, rules="input-times-gradient", layers=["features.2"])
    found, slope = weighed.layers["features.2"], plain.layers["features.2"]
    activation = model.features[:3](x).detach()
    torch.testing.assert_close(found, activation * slope)
    torch.testing.assert_close(weighed.relevance, x * plain.relevance)


def test_seeds() -> None:
    """One, or the output itself; less the mean of the other outputs, in one pass; so for a callable target."""
    model = Lambda(lambda m, x: 2 * x + 0.0).eval()
    x = torch.tensor([[1.0, -3.0, 2.0], [5.0, 0.0, 1.0]])
    e = relprop.explain(model, x, rules="epsilon", target=[1, 0], contrast="rest")
    torch.testing.assert_close(e.seeds["x"][0], torch.tensor([[-1.0, -6, -2], [10, 0, -1]]))
    torch.testing.assert_close(e.relevance, e.seeds["x"][0])
    assert relprop.explain(model, x, rules="epsilon").seeds["x"].shape[0] == 1
    called = relprop.explain(model, x, rules="epsilon", target=lambda output: output[:, 0] - output[:, 1])
    torch.testing.assert_close(called.relevance.sum(1), torch.tensor([8.0, 10.0]))
    assert float(relprop.explain(model, x, rules="gradient").relevance.sum(1)[0]) == 2


def rectified_backwards(model: Plain, x: Tensor, rule: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The gradient of the largest output, with another rule at each ReLU, layer by layer."""
    layers = [*model.features, *model.head]
    values = [x]
    for layer in layers:
        values.append(layer(values[-1]).detach())
    arrived = F.one_hot(values[-1].argmax(1), values[-1].shape[1]).to(x)
    for layer, value in zip(reversed(layers), reversed(values[:-1]), strict=True):
        if isinstance(layer, nn.ReLU):
            arrived = rule(arrived, value)
        else:
            leaf = value.requires_grad_()
            (arrived,) = torch.autograd.grad(layer(leaf), leaf, arrived)
    return arrived


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("guided-backprop", lambda r, a: r * (r > 0) * (a > 0)),  # Springenberg et al. 2015, figure 1
        ("deconvnet", lambda r, a: r * (r > 0)),  # Zeiler and Fergus 2014
        ("gradient", lambda r, a: r * (a > 0)),
    ],
)
def test_ways_back_through_rectifiers(name: str, rule: Any) -> None:
    x = pictures(3)
    expected = rectified_backwards(kept("plain"), x.clone(), rule)
    assert distance(relprop.explain(kept("plain"), x, rules=name).relevance, expected) <= 1e-6


def test_what_is_first_and_what_is_dense() -> None:
    """Composites tell layers apart: the first one, convolutions, dense ones."""
    rules = rule_registry.get("epsilon-plus-flat")
    plan = relprop.Explainer(kept("plain"), rules=rules).plan(pictures(2))
    chosen = {
        site.path: str(plan.assigned[node]) for node, site in plan.sites.items() if "weight" in str(site.op._schema)
    }
    assert chosen == {"features.0": "flat", "features.3": "alpha_beta", "head.2": "epsilon"}
    assert plan.assigned[next(iter(plan.sites))].function.keywords == {"stabilizer": 1e-6}  # type: ignore[attr-defined]


def test_a_fixed_part_of_a_composite_has_no_parameter() -> None:
    for name in ("z-plus", "epsilon-plus", "epsilon-alpha2-beta1-flat"):
        with pytest.raises(TypeError, match="no parameter"):
            rule_registry.get(name, alpha=3.0)
    assert rule_registry.get("epsilon-plus", epsilon=0.1).parameters["epsilon"] == 0.1
