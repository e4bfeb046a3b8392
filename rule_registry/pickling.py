"""Rule sets for other processes: by the name they are registered under, and what was added to them.

Most rules are closures, and operations belong to the process: neither can be pickled. A process that unpickles a rule
set looks it up again, so it must have imported what registers it.
"""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import reduce
from typing import Any

import torch
from torch._ops import OpOverload

from rule_registry.registry import get_again
from rule_registry.rule import Parameter, Rule
from rule_registry.rule_set import RuleSet
from rule_registry.select import Selector

_FOLLOWS = frozenset({"table", "overrides", "own", "parameters", "origin"})
"""Fields of a rule set that follow from its origin and what was added."""
_Added = tuple[tuple[dict[str, Any], str | None, Rule], ...]
"""Of a selection: its fields, the name of its operation, and the rule."""


def _reduced(rules: RuleSet) -> tuple[Any, ...]:
    """Return how a rule set is made again."""
    if rules.origin is None:
        raise pickle.PicklingError(f"the rule set {rules.name!r} was made by hand: define and register it, then get it")
    base = get_again(*rules.origin)
    if rules is base:
        return get_again, rules.origin
    added = rules.own[len(base.own) :]
    chosen = [selector for selector, _ in (*base.overrides, *added)]
    if rules.table.keys() != base.table.keys() or [selector for selector, _ in rules.overrides] != chosen:
        raise pickle.PicklingError(f"the rule set {rules.name!r} differs from {base.name!r} by more than `derive` adds")
    settings = {f.name: getattr(rules, f.name) for f in fields(RuleSet) if f.name not in _FOLLOWS}
    changed = {name: value for name, value in settings.items() if value is not getattr(base, name)}
    return _made_again, (*rules.origin, tuple(_entry(selector, rule) for selector, rule in added), changed)


def _made_again(
    name: str, parameters: tuple[tuple[str, Parameter], ...], added: _Added, changed: Mapping[str, Any]
) -> RuleSet:
    base = get_again(name, parameters)
    entries = tuple((Selector(**chosen, op=_operation(op)), rule) for chosen, op, rule in added)
    return replace(base, overrides=(*base.overrides, *entries), own=(*base.own, *entries), **changed)


def _entry(selector: Selector, rule: Rule) -> tuple[dict[str, Any], str | None, Rule]:
    chosen = {f.name: getattr(selector, f.name) for f in fields(Selector) if f.name != "op"}
    return chosen, None if selector.op is None else str(selector.op), rule


def _operation(name: str | None) -> OpOverload | None:
    return None if name is None else reduce(getattr, name.split("."), torch.ops)  # type: ignore[return-value]


copyreg.pickle(RuleSet, _reduced)
