"""relprop's own rule sets as methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import rule_registry
from relprop.evaluation.methods.base import Method, MethodError, Request
from relprop.explainer import Explainer
from relprop.explanation.provenance import describe_rules
from relprop.gae.protocols import maps_of
from relprop.tracing.inputs import check_inputs
from relprop.versions import version
from rule_registry import RuleSet


class RelpropMethod(Method):
    """An `Explainer`, whatever its rules."""

    def __init__(self, explainer: Explainer) -> None:
        if isinstance(explainer.contrast, Sequence | Tensor) and not isinstance(explainer.contrast, str):
            raise MethodError(
                "a contrast of one class per sample goes with one batch, and an evaluation asks for many: pass "
                "<contrast>",
                contrast='"rest"',
            )
        self.explainer = explainer
        rules = explainer.rules if isinstance(explainer.rules, RuleSet) else rule_registry.get(explainer.rules)
        self.config: dict[str, Any] = describe_rules(rules) | {
            "package": "relprop",
            "version": version("relprop"),
            "contrast": rules.contrast if explainer.contrast == "default" else explainer.contrast,
            "at": explainer.at,
            "output": explainer.output,
            "hooks": {
                where: getattr(hook, "__qualname__", type(hook).__name__) for where, hook in explainer.hooks.items()
            },
        }
        self.description = rules.summary

    def maps(self, request: Request) -> Tensor:
        """Explain the pictures, ``(B, C, H, W)``."""
        return maps_of(self.explainer, request.x, request.target)

    def prepare(self, x: Tensor) -> None:
        """Capture the model for pictures ``(B, C, H, W)`` and find a rule for each of its operations."""
        target = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.config["contrast"] = self.explainer.prepare(check_inputs(x, None), target).contrast  # the default, settled
