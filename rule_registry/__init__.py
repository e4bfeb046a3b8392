"""A registry of relevance rules: what each operation does with the relevance that arrives at its output.

Rules are pure functions of tensors and know no graph; the engine that applies them is the package `relprop`.
"""

import rule_registry.pickling  # noqa: F401 - says how rule sets are pickled
from rule_registry import abslrp, gradient, lrp, mixed
from rule_registry.batch_axis import BatchAxis
from rule_registry.call import Call, Relevances, Shares, Site, Slot, denominator, share, sum_to
from rule_registry.gradient.jacobians import positive_contribution
from rule_registry.moves import structural
from rule_registry.operations.layers import (
    ChannelMap,
    LayerArguments,
    declare_layer,
    fold_into,
    layer_arguments,
    weights_of,
)
from rule_registry.orientation import oriented_denominator
from rule_registry.registry import define, get, names, register
from rule_registry.rule import Mass, Parameter, Rule, blocks, passes
from rule_registry.rule_set import Choice, RuleSet
from rule_registry.select import Selector, select

__all__ = [
    "BatchAxis",
    "Call",
    "ChannelMap",
    "Choice",
    "LayerArguments",
    "Mass",
    "Parameter",
    "Relevances",
    "Rule",
    "RuleSet",
    "Selector",
    "Shares",
    "Site",
    "Slot",
    "abslrp",
    "blocks",
    "declare_layer",
    "define",
    "denominator",
    "fold_into",
    "get",
    "gradient",
    "layer_arguments",
    "lrp",
    "mixed",
    "names",
    "oriented_denominator",
    "passes",
    "positive_contribution",
    "register",
    "select",
    "share",
    "structural",
    "sum_to",
    "weights_of",
]
