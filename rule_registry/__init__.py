"""A registry of relevance rules: what each operation does with the relevance that arrives at its output.

Rules are pure functions of tensors and know no graph; the engine that applies them is the package `relprop`.
"""

from rule_registry import abslrp, additions, gradient, lrp, reductions, sampling, similarity
from rule_registry.batch_axis import BatchAxis
from rule_registry.call import Call, Relevances, Shares, Site, Slot, denominator, share, sum_to
from rule_registry.gradient.jacobians import positive_contribution
from rule_registry.moves import structural
from rule_registry.registry import define, get, names, register
from rule_registry.rule import Choice, Parameter, Rule, RuleSet, blocks, passes
from rule_registry.select import Selector, select

__all__ = [
    "BatchAxis",
    "Call",
    "Choice",
    "Parameter",
    "Relevances",
    "Rule",
    "RuleSet",
    "Selector",
    "Shares",
    "Site",
    "Slot",
    "abslrp",
    "additions",
    "blocks",
    "define",
    "denominator",
    "get",
    "gradient",
    "lrp",
    "names",
    "passes",
    "positive_contribution",
    "reductions",
    "register",
    "sampling",
    "select",
    "share",
    "similarity",
    "structural",
    "sum_to",
]
