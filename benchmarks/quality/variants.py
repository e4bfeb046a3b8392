"""The variants of the ablation: rule sets with every contrast, other choices of absLRP, other methods, controls.

A variant of rules is called as ``relprop explain`` names the rule set, with the contrast behind it: ``epsilon-plus
log-odds``, ``abslrp:delta=0.001 rest``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

import rule_registry
from benchmarks.quality.classifiers import Setting
from benchmarks.quality.recognised import Pictures
from relprop.assign.rule_names import choose_rules
from relprop.errors import RelpropError
from relprop.evaluation.methods import CONTROLS, MethodContext, Request, make_methods
from relprop.explainer import Explainer
from relprop.rewrite.seed import in_one_pass, seed_names
from rule_registry import Call, RuleSet, Shares, Site, blocks, passes, positive_contribution, select, share
from rule_registry.abslrp import alternatives, released
from rule_registry.lrp import residuals
from rule_registry.operations import elementwise

aten = torch.ops.aten

DEFAULT = "abslrp:signed=0 rest"
"""What `relprop.explain` did before the evidence: the paper's letter, against all other classes alike."""
BATCH = 4
FINALISTS = 8
"""How many variants are reported, at most."""

Contrast = Literal["none", "rest", "log-odds"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)
Kind = Literal["rule set", "parameter", "choice", "method", "control"]
Explain = Callable[[Pictures], Tensor]
"""From pictures to their maps."""


class VariantError(RelpropError, ValueError):
    """A name that stands for no variant."""


@dataclass(frozen=True)
class Variant:
    """A method under a name.

    Attributes
    ----------
    kind, name
        For the tables.
    rules
        What relprop explains with, if it does; else `name` is one of `relprop.evaluate`'s methods.
    contrast
        Of these rules.
    changes
        What is exchanged in the rules.
    passes
        Backward passes through the network per map, where it is none of relprop's.
    """

    kind: Kind
    name: str
    rules: str = ""
    contrast: Contrast = "none"
    changes: Mapping[Any, Any] | None = None
    passes: int = 0

    def rule_set(self, setting: Setting) -> RuleSet:
        """Return the rules, which may depend on what black and white are.

        Raises
        ------
        MissingRuleError, ParameterError
            There is no such rule set, or it has no such parameter.
        """
        rules = choose_rules(self.rules, setting.mean, setting.std)
        return rules.derive(self.changes) if self.changes else rules

    def concerns(self, sites: Iterable[Site], setting: Setting) -> bool:
        """Whether what is exchanged is about any of the operations."""
        if not self.changes:
            return True
        chosen = [selector for selector, _ in self.rule_set(setting).own]
        return any(selector.matches(site) for selector in chosen for site in sites)

    def count_passes(self, setting: Setting) -> int:
        """Count the backward passes of a map: one for each seed."""
        if not self.rules:
            return self.passes
        contrast = None if self.contrast == "none" else self.contrast
        return len(seed_names(contrast, in_one_pass(contrast, self.rule_set(setting))))

    def explainer(self, model: nn.Module, setting: Setting) -> Explainer:
        """Return what explains a model by these rules."""
        contrast = None if self.contrast == "none" else self.contrast
        return Explainer(model, rules=self.rule_set(setting), contrast=contrast, batch_size=BATCH)

    def method(self, model: nn.Module, setting: Setting) -> Any:
        """Return what `relprop.evaluate` takes for it."""
        return self.explainer(model, setting) if self.rules else self.name

    def on(self, model: nn.Module, setting: Setting) -> Explain:
        """Make the function that explains a model's pictures, batch by batch."""
        (method,) = make_methods({"it": self.method(model, setting)}, MethodContext(model)).values()

        def explain(pictures: Pictures) -> Tensor:
            parts = []
            for start in range(0, len(pictures.x), BATCH):
                x, target = (t[start : start + BATCH] for t in (pictures.x, pictures.target))
                index = pictures.indices[start : start + BATCH]
                parts.append(method.maps(Request(x.clone(), target, index, (pictures.state,) * len(index))).detach())
            return torch.cat(parts)

        return explain


def variants() -> list[Variant]:
    """List what is compared."""
    return [
        *(_of_rules("rule set", rules, contrast) for rules in rule_registry.names() for contrast in CONTRASTS),
        *(_of_rules("parameter", rules, contrast) for rules, contrast in _parameters()),
        *(
            Variant("choice", f"{base}, {name} rest", base, "rest", changes)
            for base in BASES
            for name, changes in CHOICES.items()
        ),
        *(Variant("method", name, passes=count) for name, count in METHODS.items()),
        *(Variant("control", name) for name in CONTROLS),
    ]


def choose(pattern: str, finalists: Sequence[str], default: str) -> list[Variant]:
    """Return the variants with names of a pattern, or the finalists; first of all the one they are compared with.

    Raises
    ------
    VariantError
        A name stands for none, or there are more than eight finalists.
    """
    first = find_variant(default)
    if finalists:
        others = [find_variant(name) for name in dict.fromkeys(finalists) if name != default]
    else:
        others = [one for one in variants() if fnmatchcase(one.name, pattern) and one.name != default]
    if finalists and len(others) >= FINALISTS:
        raise VariantError(f"{len(others)} finalists and the default are more than {FINALISTS}: choose fewer")
    return [first, *others]


def find_variant(name: str) -> Variant:
    """Return the variant of a name: one that is listed, or a rule set with parameters and a contrast.

    Raises
    ------
    VariantError
        It stands for none.
    """
    for variant in variants():
        if variant.name == name:
            return variant
    rules, _, ending = name.rpartition(" ")
    for contrast in CONTRASTS:
        if ending == contrast and rules.partition(":")[0] in rule_registry.names():
            return _of_rules("parameter", rules, contrast)
    raise VariantError(
        f'there is no variant "{name}": write a rule set and its contrast, as "abslrp:delta=0.001 rest" or '
        f'"epsilon-plus none" (contrasts are {", ".join(CONTRASTS)}), or one of {", ".join((*METHODS, *CONTROLS))}'
    )


def _of_rules(kind: Kind, rules: str, contrast: Contrast) -> Variant:
    return Variant(kind, f"{rules} {contrast}", rules, contrast)


def _parameters() -> Iterable[tuple[str, Contrast]]:
    """Yield every value of a parameter, for the rule sets and contrasts whose default it may become."""
    yield from ((LETTER, contrast) for contrast in CONTRASTS)
    for start in (f"{LETTER},", "abslrp:"):
        yield from ((f"{start}delta={delta:g}", "rest") for delta in DELTAS)
    yield "abslrp-paper:seed=signed", "rest"
    for name in rule_registry.names():
        defaults = rule_registry.get(name).parameters
        contrast = rule_registry.get(name).contrast or "none"
        for key, values in GAMMAS.items():
            yield from (
                (f"{name}:{key}={value:g}", contrast) for value in values if key in defaults and defaults[key] != value
            )


LETTER = "abslrp:signed=0"
"""Positive contributions alone, whatever the sign of the output."""
BASES = (LETTER, "abslrp")
"""The rule sets that a choice is made in."""
DELTAS = (0, 1e-3, 3e-2, 1e-1)
"""Beside 1e-2, the default."""
GAMMAS: Mapping[str, tuple[float, ...]] = {"dense_gamma": (0, 0.05), "residual_gamma": (0, 1)}
METHODS = {
    "grad-cam.GradCAM": 1,
    "grad-cam.HiResCAM": 1,
    "captum.IntegratedGradients:n_steps=16": 16,
    "attention-rollout": 0,
}
"""What people would use instead, and its backward passes."""


def _first_passes(call: Call, relevance: Any) -> Tensor:
    """Pass what arrives at the first of several outputs, ``(S, *output)``."""
    passed: Tensor = relevance[0]
    return passed


def _released_norm(call: Call, relevance: Tensor) -> Shares:
    """Layer norm as the authors' released code has it, rescaled to the mass that arrived.

    The relevance is ``(S, *output)``.
    """
    return share(call, released.layer_norm(call, relevance))


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
