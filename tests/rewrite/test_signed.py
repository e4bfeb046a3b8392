"""Relevance of both signs: its parts are propagated apart where a rule set needs it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import relprop
from relprop import NodeInfo
from relprop.rewrite.signed import net, pad_flows, split_signs, total_mass
from tests.helpers.hooks import Seen, keep, negative, stop
from tests.helpers.models import kept, make, pictures


def test_positive_and_negative_parts_are_propagated_apart() -> None:
    """The oracle: two explanations with a hook of one sign each, subtracted."""
    model, x = make("transformer").double(), pictures(3).double()

    def part(sign: int) -> Any:
        return lambda info, relevance: (sign * 9 * negative(info, relevance)).clamp(min=0)

    at, seen, layers = "blocks.1.mlp", Seen(), ["blocks.0", "patches"]
    relprop.explain(model, x, hooks={at: seen})
    found = relprop.explain(model, x, layers=layers, hooks={at: lambda info, r: 9 * negative(info, r)})
    # What flows past the branch is positive, so it meets the positive part and not the negative one.
    plus = relprop.explain(model, x, layers=layers, hooks={at: part(1)})
    alone = {"blocks.1": stop, at: lambda info, r: part(-1)(info, seen.last)}
    minus = relprop.explain(model, x, layers=layers, hooks=alone)
    torch.testing.assert_close(found.seeds["x"], plus.seeds["x"] - minus.seeds["x"])
    for layer in layers:
        torch.testing.assert_close(found.layers[layer], plus.layers[layer] - minus.layers[layer])
    assert float(found.seeds["x"].min()) < 0
    assert found.conservation.error <= 1e-9
    assert found.conservation.suspects == ()
    # In a chain nothing flows past, and the difference is exact.
    chain = "blocks.0"
    found = relprop.explain(model, x, layers=["patches"], hooks={chain: lambda info, r: 9 * negative(info, r)})
    plus, minus = (relprop.explain(model, x, layers=["patches"], hooks={chain: part(sign)}) for sign in (1, -1))
    torch.testing.assert_close(found.seeds["x"], plus.seeds["x"] - minus.seeds["x"])
    torch.testing.assert_close(found.layers["patches"], plus.layers["patches"] - minus.layers["patches"])
    assert found.conservation.error <= 1e-9
    mass = found.seeds["x"].sum((2, 3, 4))
    torch.testing.assert_close(found.conservation.masses[-1], mass)
    torch.testing.assert_close(mass, 1 - sum(cut.lost for cut in found.conservation.cuts))


@pytest.mark.full
def test_relevance_whose_parts_cancel_stays_finite_and_conserved() -> None:
    """Rescaling to a mass of zero would delete or explode it."""

    def balanced(info: NodeInfo, relevance: Tensor) -> Tensor:
        return relevance - relevance.mean((2, 3, 4), keepdim=True)

    e = relprop.explain(make("plain").double(), pictures(2).double(), contrast=None, hooks={"features.1": balanced})
    torch.testing.assert_close(e.relevance.sum((1, 2, 3)), torch.zeros(2).double())
    assert float(e.relevance.abs().sum()) > 0.1
    assert e.conservation.error <= 1e-9


def test_linear_rule_sets_take_signed_relevance_as_it_is() -> None:
    model, x = make("plain").double(), pictures(2).double()
    seen = Seen()
    hooks = {"features.3": lambda info, r: -r, "features.1": seen}
    found = relprop.explain(model, x, rules="gradient", contrast=None, hooks=hooks)
    assert seen.last.shape[0] == 1
    torch.testing.assert_close(found.relevance, -relprop.explain(model, x, rules="gradient", contrast=None).relevance)


def test_a_second_hook_sees_the_difference_of_the_parts() -> None:
    seen = Seen()
    e = relprop.explain(
        kept("transformer"),
        pictures(2),
        contrast=None,
        layers=["patches"],
        hooks={"blocks.1": negative, "patches": seen},
    )
    assert seen.last.shape[0] == 1
    assert torch.equal(seen.last[0], e.layers["patches"])


def test_only_a_sign_that_is_there_costs() -> None:
    def flows(hook: Any) -> int:
        program = relprop.Explainer(kept("plain"), hooks={"features": hook}).program(pictures(2))
        counts = []
        program.rule_features_3.register_forward_pre_hook(lambda module, args: counts.append(args[0].shape[0]))
        program(pictures(2))
        return counts[0]

    assert flows(keep(slice(0, 1))) == 2
    assert flows(lambda info, relevance: -relevance) == 4


def test_parts_of_a_relevance() -> None:
    relevance = torch.randn(2, 3, 4)
    flows = split_signs(relevance)
    assert flows.shape == (4, 3, 4)
    assert float(flows.min()) == 0
    assert torch.equal(net(flows, 2), relevance)
    assert torch.equal(total_mass(flows, 2), relevance.abs())
    assert net(relevance, 2) is relevance
    one, none, two = pad_flows([relevance, None, flows])
    assert none is None
    assert two is flows
    assert one is not None
    assert torch.equal(net(one, 2), relevance)
