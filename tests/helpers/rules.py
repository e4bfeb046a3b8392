"""Rules and a call site for tests of the registry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rule_registry import BatchAxis, Call, Relevances, Rule, Site, Slot

aten = torch.ops.aten


def site(op: Any = aten.relu.default, path: str = "", module: str = "torch.nn.modules.activation.ReLU") -> Site:
    return Site(op, path, module, (Slot("self"),), (False,), (BatchAxis(0),), BatchAxis(0))


def doubled(call: Call, relevance: Tensor) -> Relevances:
    return 2 * relevance


def scaled(call: Call, relevance: Tensor, *, delta: float) -> Relevances:
    return relevance * delta


def value_of(rule: Rule | None, delta: float = 1.0) -> float:
    """What a rule makes of a relevance of one."""
    assert rule is not None
    call = Call(site(), {"self": torch.ones(1)}, torch.ones(1))
    relevance = rule(call, torch.ones(1, 1))
    assert isinstance(relevance, Tensor)
    return float(relevance)
