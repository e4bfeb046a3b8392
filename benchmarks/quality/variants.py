"""What is compared: every rule set, absLRP with one choice made otherwise, and maps that know nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import relprop
import rule_registry
from benchmarks.quality.recognised import Pictures, Recognised
from relprop import gae
from rule_registry import Call, RuleSet, Shares, Site, blocks, passes, positive_contribution, select, share
from rule_registry.abslrp import alternatives, released
from rule_registry.lrp import residuals
from rule_registry.operations import elementwise

aten = torch.ops.aten

DEFAULT = "abslrp"
BATCH = 4

Kind = Literal["rule set", "choice", "control"]


@dataclass(frozen=True)
class Variant:
    """A method under a name: a rule set with its contrast, or a control where there is none."""

    kind: Kind
    name: str
    rules: RuleSet | None = None
    contrast: Literal["default"] | None = "default"

    def changes(self, sites: Iterable[Site]) -> bool:
        """Whether the choice is about any of the operations; without overrides it is about all."""
        chosen = [] if self.rules is None else self.rules.overrides
        return self.kind != "choice" or not chosen or any(s.matches(site) for s, _ in chosen for site in sites)

    def maps(self, recognised: Recognised, pictures: Pictures) -> Tensor:
        """Return the relevance of all pictures."""
        if self.rules is not None:
            explainer = relprop.Explainer(recognised.model, rules=self.rules, contrast=self.contrast, batch_size=BATCH)
            return explainer(pictures.x, pictures.target).relevance
        count, size = len(pictures.x), pictures.x.shape[2:]
        if self.name == "random":
            return gae.random_map(pictures.indices, size, seed=0)
        return gae.constant_map(count, size) if self.name == "constant" else gae.centre_map(count, size)


def variants(low: tuple[float, ...], high: tuple[float, ...]) -> list[Variant]:
    """List what is compared, the default first.

    Parameters
    ----------
    low, high
        What black and white are in the model's scale, for the rule sets that need bounds.
    """
    named = [DEFAULT, *(name for name in rule_registry.names() if name != DEFAULT)]
    return [
        *(Variant("rule set", name, _bounded(name, low, high)) for name in named),
        *(Variant("choice", name, rule_registry.get(DEFAULT, delta=delta)) for name, delta in DELTAS.items()),
        *(Variant("choice", name, rule_registry.get(DEFAULT).derive(changes)) for name, changes in CHOICES.items()),
        Variant("choice", "contrast: none", rule_registry.get(DEFAULT), None),
        *(Variant("control", name) for name in ("random", "constant", "centre")),
    ]


def _bounded(name: str, low: tuple[float, ...], high: tuple[float, ...]) -> RuleSet:
    bounds = {"low": low, "high": high}
    needed = rule_registry.get(name).parameters.keys() & bounds
    return rule_registry.get(name, **{key: bounds[key] for key in needed})


def _first_passes(call: Call, relevance: Any) -> Tensor:
    """Pass what arrives at the first of several outputs."""
    passed: Tensor = relevance[0]
    return passed


def _released_norm(call: Call, relevance: Tensor) -> Shares:
    """Layer norm as the authors' released code has it, rescaled to the mass that arrived."""
    return share(call, released.layer_norm(call, relevance))


DELTAS = {"stabiliser: 0": 0.0, "stabiliser: 0.001": 1e-3, "stabiliser: 0.03": 3e-2, "stabiliser: 0.1": 1e-1}
_RESIDUAL = select(op=aten.add.Tensor, path="?*")  # a ViT adds its position embedding in the model itself
CHOICES: Mapping[str, Mapping[Any, Any]] = {
    "layer norm: passes": {aten.layer_norm.default: passes},
    "layer norm: released": {aten.layer_norm.default: _released_norm},
    "batch norm: passes": {aten._native_batch_norm_legit_no_training.default: _first_passes},
    "activation: formula": dict.fromkeys(elementwise.ELEMENTWISE, positive_contribution),
    "softmax: blocks": {aten.softmax.int: blocks},
    "softmax: first order": {aten.softmax.int: alternatives.softmax},
    "residual sum: by magnitude": {_RESIDUAL: residuals.by_magnitude},
    "residual sum: by positive part": {_RESIDUAL: residuals.by_positive_part},
    "residual sum: in halves": {_RESIDUAL: residuals.in_halves},
    "max-pool: by proportion": {aten.max_pool2d.default: alternatives.max_pool},
}
"""absLRP with one rule exchanged, by name; the choices are those of section 4.1 of the design."""
