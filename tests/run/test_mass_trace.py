"""What becomes of the mass that hooks take away, add or inject."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop import NodeInfo
from tests.helpers.hooks import Seen, keep, stop
from tests.helpers.models import kept, pictures


def test_what_a_hook_takes_away_is_named_and_is_no_error() -> None:
    model, x = kept("transformer"), pictures(2)
    seen = Seen()
    relprop.explain(model, x, hooks={"blocks.1.mlp": seen})
    share = seen.last.sum((2, 3))
    c = relprop.explain(model, x, hooks={"blocks.1.mlp": stop}).conservation
    (cut,) = c.masked
    assert (cut.name, cut.path, cut.operation, cut.rule) == ("blocks_1_mlp_2", "blocks.1.mlp", "hook", "stop")
    torch.testing.assert_close(cut.lost, share)
    torch.testing.assert_close(c.masses[-1], 1 - share)
    assert c.error <= 1e-5
    assert c.lost == 0
    assert c.losses == ()
    assert c.suspects == ()
    assert f"masked at blocks.1.mlp: {float(share.max()):.1e} of the mass taken away by the hook stop" in str(c)
    assert c.masses.shape == (len(c.cuts), 2, 2)
    assert float(cut.factor.abs().max()) == 0


def test_what_a_hook_adds_is_named() -> None:
    c = relprop.explain(
        kept("plain"), pictures(2), contrast=None, hooks={"features": lambda info, r: 3 * r}
    ).conservation
    assert c.error <= 1e-5
    torch.testing.assert_close(c.masses[-1], torch.full((1, 2), 3.0))
    assert "masked at features: 2.0e+00 of the mass added by the hook <lambda>" in str(c)


def test_what_rules_lose_stays_a_loss_of_theirs() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[2].weight.abs_().neg_()
    c = relprop.explain(
        model, torch.rand(3, 8), contrast=None, target=1, hooks={"2": lambda info, r: r / 4}
    ).conservation
    assert c.lost == 0.25
    assert [cut.lost.max() for cut in c.masked] == [0.75]
    assert [cut.name for cut in c.losses] == ["_2"]
    assert c.error <= 1e-6


def test_a_deleting_rule_behind_a_hook_is_still_an_error() -> None:
    def drops(call: Any, relevance: Tensor) -> Tensor:
        moved = relevance.reshape(relevance.shape[0], *call.input.shape).clone()
        moved[..., 0] = 0
        return moved

    model, x = kept("plain"), pictures(2)
    plan = relprop.Explainer(model).plan(x)
    op = next(site.op for site in plan.sites.values() if site.path == "head.0")
    rules = rule_registry.get("abslrp").derive({rule_registry.select(op=op, path="head.0"): drops})
    c = relprop.explain(model, x, rules=rules, hooks={"head": lambda info, r: r / 2}).conservation
    assert c.error > 1e-2


def test_under_rules_that_measure_mass_hooks_are_named_too() -> None:
    c = relprop.explain(kept("plain"), pictures(2), rules="epsilon", hooks={"features": stop}).conservation
    assert not c.masses[-1].any()
    assert "masked at features" in str(c)
    assert c.error <= 1e-4
    assert [cut.path for cut in c.masked] == ["features"]


def test_a_slice_of_an_explanation_keeps_what_hooks_did() -> None:
    e = relprop.explain(kept("plain"), pictures(3), hooks={"features": keep(slice(0, 3))})
    assert torch.equal(e[1].conservation.masked[0].lost, e.conservation.masked[0].lost[:, 1:2])
    assert e[1].conservation.error <= 1e-5


def test_relevance_injected_where_none_arrived() -> None:
    rules = rule_registry.get("abslrp").derive({rule_registry.select(path="features.4"): rule_registry.blocks})

    def inject(info: NodeInfo, relevance: Tensor) -> Tensor:
        assert not relevance.any()
        return torch.full_like(relevance, 1 / relevance[0, 0].numel())

    e = relprop.explain(kept("plain"), pictures(2), rules=rules, contrast=None, hooks={"features.3": inject})
    torch.testing.assert_close(e.relevance.sum((1, 2, 3)), torch.ones(2))
    assert e.conservation.error <= 1e-5
    assert e.conservation.lost == pytest.approx(1)
