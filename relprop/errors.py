"""Exceptions and warnings. Every error says what happened, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class RelpropError(Exception):
    """Base of all errors that this package raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong. ``<name>`` stands for an option that would help.
    **options : str
        The value of each such option, as Python writes it: ``contrast="None"``.

    Examples
    --------
    >>> error = RelpropError("there is one class: pass <contrast>", contrast="None")
    >>> str(error)
    'there is one class: pass contrast=None'
    >>> error.spell(lambda name, value: f"--{name} {value.lower()}")
    'there is one class: pass --contrast none'
    """

    def __init__(self, message: str = "", **options: str) -> None:
        self.message = message
        self.options = options
        super().__init__(self.spell(lambda name, value: f"{name}={value}"))

    def spell(self, spelling: Callable[[str, str], str]) -> str:
        """Return the message with every option as ``spelling(name, value)`` writes it."""
        text = self.message
        for name, value in self.options.items():
            text = text.replace(f"<{name}>", spelling(name, value))
        return text


class RelpropWarning(UserWarning):
    """A remark on results; the command line prints it on one line of stderr."""


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


NEAR = 5
"""So many names are suggested at most."""


def near_names(word: str, names: Iterable[str]) -> str:
    """Return words for the end of a message that suggest what a mistyped name may have meant; empty if nothing.

    Names that contain the word come first.
    """
    folded, part = {name.casefold(): name for name in names}, word.casefold()
    containing = [name for name in folded if len(part) > 2 and part in name]
    near = dict.fromkeys([*containing, *difflib.get_close_matches(part, folded, n=NEAR)])
    return f"; near names: {', '.join(folded[name] for name in list(near)[:NEAR])}" if near else ""


def no_rule_set(text: str, names: Iterable[str]) -> MissingRuleError:
    """Return the error for a text that begins with the name of no rule set."""
    name = text.partition(":")[0]
    near = near_names(name, names)
    return MissingRuleError(f"rules {text}: no rule set named {name!r}{near}; relprop rules lists all")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
