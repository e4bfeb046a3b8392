"""Parameters of rule sets: which values are allowed, and which a rule set refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from numbers import Real
from typing import Any

from rule_registry.rule import Number, shown


def as_parameter(name: str, value: Any) -> Number:
    """Return a parameter as rules have it, a number or a tuple of them, or refuse it.

    Raises
    ------
    TypeError
        If the value is neither.
    ValueError
        If a number is not finite.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    several = isinstance(value, Sequence) and not isinstance(value, str)
    numbers = tuple(value) if several else (value,)
    if not numbers or not all(isinstance(number, Real) for number in numbers):
        raise TypeError(f"the parameter {name!r} must be a number, or one for each channel, not {value!r}")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"the parameter {name!r} must be finite, not {value!r}")
    return numbers if several else value


def as_word(name: str, value: Any, words: Sequence[str]) -> str:
    """Return a parameter that is one of some words, or refuse it.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if value not in words:
        raise ValueError(f"the parameter {name!r} must be {' or '.join(map(repr, words))}, not {value!r}")
    return str(value)


def not_negative(*names: str) -> Callable[[Mapping[str, Number]], str]:
    """Return what says that one of these parameters is negative, or not a single number."""

    def wrong(parameters: Mapping[str, Number]) -> str:
        found = ((name, parameters[name]) for name in names)
        refused = [f"{name}={shown(value)}" for name, value in found if isinstance(value, tuple) or value < 0]
        return f"{', '.join(refused)} must be one number that is not negative" if refused else ""

    return wrong


def wrong_bounds(parameters: Mapping[str, Number]) -> str:
    """Say what is wrong with the bounds ``low`` and ``high``, each of which is a number or one for each channel."""
    bounds = parameters["low"], parameters["high"]
    low, high = (value if isinstance(value, tuple) else (value,) for value in bounds)
    if len(low) != len(high) and 1 not in (len(low), len(high)):
        return f"low is for {len(low)} channels and high for {len(high)}"
    pairs = zip(low, high, strict=True) if len(low) == len(high) else product(low, high)
    if all(below < above for below, above in pairs):
        return ""
    return f"low must be below high in every channel, not {shown(bounds[0])} and {shown(bounds[1])}"
