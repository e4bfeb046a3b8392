"""Rule sets by name, with parameters in the text: ``NAME:PARAM=VALUE,...``."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import rule_registry
from relprop.errors import MissingRuleError, RelpropError, no_rule_set
from rule_registry import Parameter, RuleSet


class ParameterError(RelpropError, ValueError):
    """A parameter that a rule set does not have, or a value that it can't be."""


_SWITCHES = {"true": 1.0, "false": 0.0}


def as_rule_set(rules: str | RuleSet) -> RuleSet:
    """Return a rule set that may be given by its name.

    Raises
    ------
    MissingRuleError
        If there is no such rule set.
    """
    if isinstance(rules, RuleSet):
        return rules
    try:
        return rule_registry.get(rules)
    except LookupError as error:
        raise MissingRuleError(str(error)) from error


def choose_rules(text: str, mean: Sequence[float] = (), std: Sequence[float] = ()) -> RuleSet:
    """Return the rule set that ``NAME`` or ``NAME:PARAM=VALUE,...`` stands for; ``1/2/3`` is a value per channel.

    A value is a number, or a word where the rule set has one, as in ``abslrp-paper:seed=signed``.

    Parameters
    ----------
    text : str
        As the user wrote it.
    mean, std : sequence of float, optional
        Normalisation of each channel of pictures in [0, 1], which says between which bounds the input lies: the
        parameters ``low`` and ``high`` of rules that depend on that.

    Raises
    ------
    MissingRuleError
        If there is no such rule set.
    ParameterError
        If it has no such parameter, or the value can't be one.
    """
    name, _, settings = text.partition(":")
    try:
        defaults = rule_registry.get(name).parameters
    except LookupError as error:
        raise no_rule_set(text, rule_registry.names()) from error
    parameters: dict[str, Parameter] = {}
    named: set[str] = set()
    if mean and {"low", "high"} <= defaults.keys():
        scale = list(zip(mean, std, strict=True))
        parameters = {key: tuple((edge - m) / s for m, s in scale) for key, edge in (("low", 0), ("high", 1))}
    for setting in filter(None, settings.split(",")):
        key, _, value = (part.strip() for part in setting.partition("="))
        if isinstance(defaults.get(key), str) and key not in named:
            named.add(key)
            parameters[key] = value
            continue
        try:
            numbers = tuple(_SWITCHES[v] if v in _SWITCHES else float(v) for v in value.strip().lower().split("/"))
        except ValueError as error:
            raise ParameterError(f"rules {text}: {setting!r} is not PARAM=NUMBER, as in abslrp:delta=0.02") from error
        if not all(map(isfinite, numbers)) or key in named:
            raise ParameterError(f"rules {text}: {setting!r} is not finite, or names its parameter again")
        named.add(key)
        parameters[key] = numbers if len(numbers) > 1 else numbers[0]
    try:
        return rule_registry.get(name, **parameters)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"rules {text}: {error}") from error
