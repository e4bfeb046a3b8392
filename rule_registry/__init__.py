"""A registry of relevance rules: what each operation does with the relevance that arrives at its output.

Rules are pure functions of tensors and know no graph; the engine that applies them is the package `relprop`.
"""

from rule_registry import (
    abslrp,
    additions,
    attention,
    backprop,
    gradient,
    lrp,
    reductions,
    released,
    sampling,
    similarity,
    structural,
    writes,
)
from rule_registry.batch import BatchAxis
from rule_registry.call import Call, Relevances, Shares, Site, Slot, denominator, share, sum_to
from rule_registry.fallback import positive_contribution
from rule_registry.registry import define, get, names, register
from rule_registry.rules import Choice, Parameter, Rule, RuleSet, blocks, passes
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
    "attention",
    "backprop",
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
    "released",
    "sampling",
    "select",
    "share",
    "similarity",
    "structural",
    "sum_to",
    "writes",
]
