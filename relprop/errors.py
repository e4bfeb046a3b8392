"""What can go wrong, or is only to be told, by name. Every error says what happened, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RelpropError(Exception):
    """Base of all errors that this package raises on purpose."""


class RelpropWarning(UserWarning):
    """Something to know about results; the command line tells it on one line of stderr."""


class CaptureError(RelpropError):
    """The model could not be turned into a graph that provably computes the same."""


class InputError(RelpropError, ValueError):
    """An input of the model can't be explained: wrong type, wrong shape, not finite, empty."""


class TargetError(RelpropError, ValueError):
    """The target names nothing in the model's output."""


class MissingRuleError(RelpropError, LookupError):
    """Some operations of the model have no rule in the chosen rule set, or there is no such rule set."""


class RuleError(RelpropError):
    """A rule can't be applied to an operation, or returned something that does not fit it."""


class HookError(RelpropError):
    """A relevance hook returned something that can't take the place of the relevance it was given."""


def near_names(word: str, known: Iterable[str]) -> str:
    """Return words for the end of a message that suggest what a mistyped name may have meant; empty if nothing."""
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), folded, n=5)
    return f"; near names: {', '.join(folded[name] for name in near)}" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
