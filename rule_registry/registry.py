"""The registry: rule sets by name, open to additions."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypedDict, TypeVar, Unpack, overload

from torch._ops import OpOverload

from rule_registry.definition import Definition, Refusal, build, choices_of, declared
from rule_registry.parameters import as_parameter, as_word
from rule_registry.plugins import need_plugins
from rule_registry.rule import Fold, Function, Mass, Parameter, Rule
from rule_registry.rule_set import RuleSet, as_rule
from rule_registry.select import Selector

F = TypeVar("F", bound=Function)

ROOT = "structural"
"""The rule set that all others are built on, which explains nothing by itself."""
SETTINGS = frozenset(f.name for f in fields(RuleSet)) - {
    "name",
    "summary",
    "table",
    "overrides",
    "own",
    "parameters",
    "version",
    "origin",
}
"""What `define` may set: the other fields of a rule set follow from what is registered."""


_definitions: dict[str, Definition] = {}


def define(
    name: str,
    summary: str,
    *,
    base: str | None = None,
    parameters: Mapping[str, Parameter] | None = None,
    fixed: Mapping[str, Parameter] | None = None,
    refuse: Refusal | None = None,
    complex: bool = False,
    moves: bool = False,
    linear: bool = False,
    choices: Mapping[str, Sequence[str]] | None = None,
    version: int = 1,
    **settings: Any,
) -> None:
    """Open a rule set under a name, to be filled with `register`.

    The module that defined a rule set may define it again, as a notebook cell that runs again does: what is registered
    in it stays.

    Parameters
    ----------
    name, summary : str
        For `get`, tables and error messages.
    base : str, optional
        Rule set whose rules hold wherever this one has none of its own. It may be defined later: `get` needs it.
    parameters : mapping, optional
        Defaults of the parameters that `get` accepts.
    fixed : mapping, optional
        Parameters, of the base or of rules of its own, that this rule set gives a value for good: `get` does not
        accept them.
    refuse : callable, optional
        From the parameters to what is wrong with them, which `get` raises; empty if all is well.
    complex, moves, linear : bool
        Whether all rules registered in it hold for complex numbers too, are moves, or linear: see `Rule`.
    choices : mapping, optional
        Settings that `get` accepts as parameters: the words each may be, the default first.
    version : int
        A rule set whose numbers change under the same name, also by those of its base, gets a new one.
    **settings
        Further fields of `RuleSet` (``default``, ``contrast``, ``seed``, ``mass`` …).

    Raises
    ------
    ValueError
        If the name is taken by another module, a setting can't have that value, or a parameter is not finite.
    TypeError
        If there is no such setting, the default rule can't be called, or a parameter is no number.
    """
    module, earlier = sys._getframe(1).f_globals.get("__name__", ""), _definitions.get(name)
    if earlier is not None and earlier.module != module:
        raise ValueError(f"a rule set named {name!r} is defined already, by {earlier.module}")
    words = {setting: tuple(found) for setting, found in (choices or {}).items()}
    unknown = (settings.keys() | words.keys()) - SETTINGS
    if unknown:
        raise TypeError(f"a rule set has no setting {sorted(unknown)}; there are: {', '.join(sorted(SETTINGS))}")
    RuleSet(name, summary, {}, **settings)  # refuses values there are not
    for setting, found in words.items():
        for word in found:
            RuleSet(name, summary, {}, **{**settings, setting: word})
    if settings.get("default") is not None:
        as_rule(settings["default"])
    own, held = (_numbers(given or {}) for given in (parameters, fixed))
    definition = Definition(
        name, summary, base, settings, own, held, refuse, complex, moves, linear, words, version, module
    )
    if earlier is not None:
        definition.table, definition.overrides = earlier.table, earlier.overrides
    _definitions[name] = definition
    _get.cache_clear()


def _numbers(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    return {name: as_parameter(name, value) for name, value in parameters.items()}


class Declarations(TypedDict, total=False):
    """What may be declared of a rule where it is registered, see `Rule`."""

    overwrites: bool
    moves: bool
    picks: bool
    opposed: bool
    contributes: bool
    linear: bool
    factored: bool
    keeps: bool
    mass: Mass
    fold: Fold


@overload
def register(
    rule_set: str, *where: OpOverload | Selector, rule: None = None, **declarations: Unpack[Declarations]
) -> Callable[[F], F]: ...


@overload
def register(
    rule_set: str, *where: OpOverload | Selector, rule: Rule | Function, **declarations: Unpack[Declarations]
) -> None: ...


def register(
    rule_set: str,
    *where: OpOverload | Selector,
    rule: Rule | Function | None = None,
    **declarations: Unpack[Declarations],
) -> Callable[[F], F] | None:
    """Register a rule for one or more operations, or selections of sites, in a rule set.

    Use it as a decorator of a rule function, or pass ``rule=passes`` (or another `Rule`) directly.

    Parameters
    ----------
    rule_set : str
        Its name.
    *where : OpOverload or Selector
        The operations or selections.
    rule : Rule or callable, optional
        Where it is no decorator.
    **declarations
        ``overwrites``, ``moves``, ``picks``, ``opposed``, ``contributes``, ``linear``, ``factored``, ``keeps``,
        ``mass``, ``fold``: what is declared of the rule, beside what the rule itself declares. See `Rule`.

    Raises
    ------
    LookupError
        If there is no such rule set.
    ValueError
        If one of the operations or selections has another rule in this rule set already; none is registered then. A
        function of the same module and name replaces the one before.
    TypeError
        If one is neither an operation nor a selection, there is none, the rule can't be called, or there is no such
        declaration.

    Examples
    --------
    >>> import torch, rule_registry
    >>> aten = torch.ops.aten
    >>> rule_registry.define("mine", "absLRP with a flat softmax", base="abslrp")
    >>> @rule_registry.register("mine", aten.softmax.int)
    ... def flat(call, relevance):
    ...     return relevance.mean(-1, keepdim=True).expand_as(relevance)
    """
    definition = _definition(rule_set)
    if not where:
        raise TypeError("register() needs the operations or selections that the rule is for")
    if wrong := declarations.keys() - Declarations.__annotations__.keys():
        accepted = ", ".join(Declarations.__annotations__)
        raise TypeError(f"a rule has no declaration {sorted(wrong)}; there are: {accepted}")

    def add(function: F) -> F:
        entry = declared(as_rule(function), **declarations)
        definition.add(entry, where)
        _get.cache_clear()
        return function

    if rule is None:
        return add
    add(rule)
    return None


def get(name: str, **parameters: Parameter | Sequence[float]) -> RuleSet:
    """Return a rule set by name.

    Parameters
    ----------
    name : str
        One of `names`.
    **parameters
        Values in place of the rule set's defaults, for example ``delta=0.0`` for ``"abslrp"``; numbers,
        sequences of numbers, one for each channel, True and False, or words, as ``seed="signed"`` for
        ``"abslrp-paper"``.

    Raises
    ------
    LookupError
        If there is no rule set of that name, or one that it is built on was never defined.
    TypeError
        If it has no such parameter, or the value is no number.
    ValueError
        If a number is not finite, a word is none of those there are, the rule set refuses these parameters together,
        or it is built on itself.
    ImportError
        If a package that registers rules can't be loaded; it is named.
    """
    need_plugins()
    choices = choices_of(_chain(name))
    values = {k: as_word(k, v, choices[k]) if k in choices else as_parameter(k, v) for k, v in parameters.items()}
    return _get(name, tuple(sorted(values.items(), key=lambda item: item[0])))


@lru_cache(maxsize=32)
def _get(name: str, parameters: tuple[tuple[str, Parameter], ...]) -> RuleSet:
    return replace(build(_chain(name), dict(parameters)), origin=(name, parameters))


def get_again(name: str, parameters: tuple[tuple[str, Parameter], ...]) -> RuleSet:
    """Return the rule set of an origin, see `RuleSet`."""
    need_plugins()
    return _get(name, parameters)


def _chain(name: str) -> list[Definition]:
    """Return the definition of a rule set, that of its base, and so on."""
    chain = [_definition(name)]
    while (base := chain[-1].base) is not None:
        if base in (path := [link.name for link in chain]):
            raise ValueError(
                f"rule sets are built on one another in a circle: {' -> '.join([*path, base])}; give one of them "
                "another base"
            )
        try:
            chain.append(_definition(base))
        except LookupError as error:
            raise LookupError(
                f"rule set {chain[-1].name!r} is built on {base!r}: {error}; define it, or import what does"
            ) from None
    return chain


def names() -> list[str]:
    """Names of the rule sets there are.

    Raises
    ------
    ImportError
        If a package that registers rules can't be loaded; it is named.
    """
    need_plugins()
    return sorted(_definitions.keys() - {ROOT})


def defined() -> Mapping[str, Definition]:
    """Return what each rule set adds to its base, in the order of their definition."""
    need_plugins()
    return MappingProxyType(_definitions)


def _definition(name: str) -> Definition:
    if name not in _definitions:
        rule_set_names = sorted(_definitions.keys() - {ROOT})
        near = difflib.get_close_matches(name, rule_set_names, n=3)
        hint = f"; near names: {', '.join(near)}" if near else ""
        if ":" in name:
            hint = f"; parameters are arguments, as in rule_registry.get({name.partition(':')[0]!r}, ...)"
        raise LookupError(f"no rule set named {name!r}{hint}; there are: {', '.join(rule_set_names)}")
    return _definitions[name]
