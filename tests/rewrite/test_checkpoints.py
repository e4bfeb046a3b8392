"""What a rule declares the engine knows of it, whoever registered it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from rule_registry import Call, Rule
from tests.helpers.models import Lambda, seeded

aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("own_registry")


def gated() -> nn.Module:
    return seeded(
        lambda: Lambda(
            lambda m, x: m.head(torch.ops.aten.maximum(m.a(x).relu() + 3, m.b(x).relu())),
            a=nn.Linear(4, 5),
            b=nn.Linear(4, 5),
            head=nn.Linear(5, 3),
        )
    )


def all_to_the_first(call: Call, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Hand everything to one of two inputs."""
    return relevance, torch.zeros_like(relevance)


@pytest.mark.parametrize("picks", [False, True])
def test_a_rule_of_ones_own_that_picks_an_input_is_no_suspect_if_it_says_so(picks: bool) -> None:
    rules = rule_registry.get("abslrp").derive({aten.maximum.default: Rule("first", all_to_the_first, picks=picks)})
    kept = relprop.explain(gated(), torch.rand(2, 4), rules=rules).conservation
    assert [cut.suspect for cut in kept.suspects] == ([] if picks else ["input 1 of 2 received nothing"])


@pytest.mark.parametrize("moves", [False, True])
def test_a_derived_move_is_a_move(moves: bool) -> None:
    """Of the two parts that a model splits one is read no further: a move may leave it without anything."""

    def backwards(call: Call, relevance: Tensor) -> list[Tensor]:
        parts = list(relevance.split([part.shape[1] for part in call["tensors"]], 2))
        return [parts[0] + 0, torch.zeros_like(parts[1])]

    model = seeded(
        lambda: Lambda(
            lambda m, x: m.head(torch.cat([m.a(x).relu(), m.b(x).relu()], 1)),
            a=nn.Linear(4, 5),
            b=nn.Linear(4, 5),
            head=nn.Linear(10, 3),
        )
    )
    rules = rule_registry.get("abslrp").derive({aten.cat.default: Rule("mine", backwards, moves=moves)})
    plan = relprop.Explainer(model, rules=rules).plan(torch.rand(2, 4))
    from relprop.rewrite.checkpoints import list_checkpoints

    settled = {stop.operation: stop.settled for stop in list_checkpoints(plan, {})}
    assert settled["aten.cat.default"] is moves
