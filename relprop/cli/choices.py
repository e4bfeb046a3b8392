"""What people write for ``--rules`` and ``--target``, understood or refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import rule_registry
from relprop.errors import MissingRuleError, RelpropError, TargetError
from rule_registry import RuleSet


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


def choose_rules(text: str) -> RuleSet:
    """Return the rule set that ``NAME`` or ``NAME:PARAM=VALUE,...`` stands for.

    Raises
    ------
    MissingRuleError
        If there is no such rule set.
    ParameterError
        If it has no such parameter, or the value is no number.
    """
    name, _, settings = text.partition(":")
    parameters = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        try:
            parameters[key.strip()] = float(value)
        except ValueError as error:
            raise ParameterError(f"--rules {text}: {setting!r} is not PARAM=NUMBER, as in abslrp:delta=0.02") from error
    try:
        return rule_registry.get(name, **parameters)
    except LookupError as error:
        raise MissingRuleError(f"--rules {text}: {error}{_near(name, rule_registry.names())}") from error
    except TypeError as error:
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
    if top := re.fullmatch(r"top([1-9]\d*)", text):
        if int(top[1]) > len(labels):
            raise TargetError(f"--target {text}: there are only {len(labels)} classes")
        return Choice(top=int(top[1]))
    if re.fullmatch(r"-?\d+", text):
        if not 0 <= int(text) < len(labels):
            raise TargetError(f"--target {text}: the model has classes 0 to {len(labels) - 1}")
        return Choice(index=int(text))
    found = [k for k, label in enumerate(labels) if label.casefold() == text.casefold()]
    if not found:
        raise TargetError(f"--target {text}: no class has that name{_near(text, labels)}")
    if len(found) > 1:
        raise TargetError(f"--target {text}: classes {' and '.join(map(str, found))} have that name; give the number")
    return Choice(index=found[0])


def _near(word: str, known: Sequence[str]) -> str:
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), folded, n=5)
    return f"; near names: {', '.join(folded[name] for name in near)}" if near else ""
