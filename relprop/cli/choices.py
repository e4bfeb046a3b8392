"""What people write for ``--rules`` and ``--target``, understood or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import rule_registry
from relprop.errors import MissingRuleError, RelpropError, TargetError, near_names
from rule_registry import Parameter, RuleSet

if TYPE_CHECKING:
    from relprop.models import Classifier


SIDE_BY_SIDE = 20
"""Classes of a picture that one sheet shows at most."""


class ParameterError(RelpropError, ValueError):
    """A parameter that a rule set does not have, or a value that is no number."""


@dataclass(frozen=True)
class Choice:
    """Which classes of a picture are explained.

    Parameters
    ----------
    index : int, optional
        This class; by default the predicted one.
    top : int
        So many of the most probable classes, where no class is named.
    """

    index: int | None = None
    top: int = 1


def choose_rules(text: str, classifier: Classifier | None = None) -> RuleSet:
    """Return the rule set that ``NAME`` or ``NAME:PARAM=VALUE,...`` stands for; ``1/2/3`` is a value per channel.

    Parameters
    ----------
    text : str
        What was asked for.
    classifier : Classifier, optional
        Its normalisation says between which bounds the input lies, for rules that depend on that.

    Raises
    ------
    MissingRuleError
        If there is no such rule set.
    ParameterError
        If it has no such parameter, or the value is no number.
    """
    name, _, settings = text.partition(":")
    try:
        known = rule_registry.get(name).parameters
    except LookupError as error:
        near = near_names(name, rule_registry.names())
        raise MissingRuleError(f"--rules {text}: no rule set named {name!r}{near}; relprop rules lists all") from error
    parameters: dict[str, Parameter] = {}
    named: set[str] = set()
    if classifier is not None and {"low", "high"} <= known.keys():
        scale = list(zip(classifier.mean, classifier.std, strict=True))
        parameters = {key: tuple((edge - m) / s for m, s in scale) for key, edge in (("low", 0), ("high", 1))}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        try:
            numbers = tuple(map(float, value.split("/")))
        except ValueError as error:
            raise ParameterError(f"--rules {text}: {setting!r} is not PARAM=NUMBER, as in abslrp:delta=0.02") from error
        if not all(map(isfinite, numbers)) or key.strip() in named:
            raise ParameterError(f"--rules {text}: {setting!r} is not finite, or names its parameter again")
        named.add(key.strip())
        parameters[key.strip()] = numbers if len(numbers) > 1 else numbers[0]
    try:
        return rule_registry.get(name, **parameters)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"--rules {text}: {error}") from error


def choose_target(text: str | None, labels: Sequence[str]) -> Choice:
    """Return what ``CLASS``, ``INDEX`` or ``topN`` stands for.

    Raises
    ------
    TargetError
        If there is no such class, or several have that name.
    """
    if text is None:
        return Choice()
    text = text.strip()
    if top := re.fullmatch(r"top(\d+)", text):
        most = min(SIDE_BY_SIDE, len(labels))
        if not 1 <= int(top[1]) <= most:
            raise TargetError(f"--target {text}: N is from 1 to {most}")
        return Choice(top=int(top[1]))
    if re.fullmatch(r"-?\d+", text):
        if not 0 <= int(text) < len(labels):
            raise TargetError(f"--target {text}: the model has classes 0 to {len(labels) - 1}")
        return Choice(index=int(text))
    found = [k for k, label in enumerate(labels) if label.casefold() == text.casefold()]
    if not found:
        raise TargetError(f"--target {text}: no class has that name{near_names(text, labels)}")
    if len(found) > 1:
        raise TargetError(f"--target {text}: classes {' and '.join(map(str, found))} have that name; give the number")
    return Choice(index=found[0])
