"""The definition of a rule set: its settings, its registered rules, and how a rule set is built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch._ops import OpOverload

from rule_registry.rule import Parameter, Rule, shown
from rule_registry.rule_set import RuleSet, as_rule
from rule_registry.select import Selector, check_overload

Refusal = Callable[[Mapping[str, Any]], str]
"""From parameters to what is wrong with them; empty if all is well."""


@dataclass
class Definition:
    """A rule set as `define` and `register` made it.

    Parameters
    ----------
    name, summary : str
        For `get`, tables and error messages.
    base : str, optional
        Rule set whose rules hold wherever this one has none of its own.
    settings : dict
        Further fields of `RuleSet`.
    parameters, fixed : dict
        Defaults of the parameters that `get` accepts, and of those that it does not.
    refuse : callable, optional
        What is wrong with parameters.
    complex, moves, linear : bool
        Whether all rules registered in it hold for complex numbers, are moves, or linear: see `Rule`.
    choices : dict
        Settings that `get` accepts as parameters: the words each may be, the default first.
    version : int
        As of `RuleSet`.
    module : str
        Where it is defined: a notebook cell or a module that runs again may define it again.
    table, overrides
        What is registered, as in `RuleSet`.
    """

    name: str
    summary: str
    base: str | None
    settings: dict[str, Any]
    parameters: dict[str, Parameter]
    fixed: dict[str, Parameter]
    refuse: Refusal | None = None
    complex: bool = False
    moves: bool = False
    linear: bool = False
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    version: int = 1
    module: str = ""
    table: dict[OpOverload, Rule] = field(default_factory=dict)
    overrides: list[tuple[Selector, Rule]] = field(default_factory=list)

    def add(self, rule: Rule, where: Sequence[OpOverload | Selector]) -> None:
        """Enter a rule for operations or selections: for all of them, or for none where one is refused.

        A function of the same module and name replaces the one before: a notebook cell may run again.

        Raises
        ------
        ValueError
            If one of them has another rule already.
        TypeError
            If one is neither an operation nor a selection.
        """
        rule = declared(rule, complex=self.complex, moves=self.moves, linear=self.linear)
        entries: dict[Any, Rule] = {**self.table, **dict(self.overrides)}
        for key in where:
            if not isinstance(key, Selector):
                check_overload(key)
            if key in entries and not entries[key].is_renewed_by(rule):
                raise ValueError(
                    f"rule set {self.name!r} already has the rule {entries[key]} for {key}; override it with "
                    "RuleSet.derive, or define a rule set with this one as its base"
                )
            entries[key] = rule
        for key in where:
            if isinstance(key, Selector):
                self.overrides = [(other, found) for other, found in self.overrides if other != key] + [(key, rule)]
            else:
                self.table[key] = rule


def declared(rule: Rule, **declarations: Any) -> Rule:
    """Return a rule with what else is declared of it; what is false or None declares nothing."""
    new = {name: value for name, value in declarations.items() if value and getattr(rule, name) != value}
    return replace(rule, **new) if new else rule


def choices_of(chain: Sequence[Definition]) -> dict[str, tuple[str, ...]]:
    """Return the settings that are parameters of a rule set: what a base leaves open, it may settle."""
    choices: dict[str, tuple[str, ...]] = {}
    for link in reversed(chain):
        choices = {name: words for name, words in choices.items() if name not in link.settings} | link.choices
    return choices


def as_switch(name: str, value: Parameter) -> bool:
    """Return a parameter that is True or False, for which 1 and 0 stand too.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if value not in (0, 1):
        raise ValueError(f"the parameter {name!r} must be True or False, not {shown(value)}")
    return bool(value)


def build(chain: Sequence[Definition], parameters: Mapping[str, Parameter]) -> RuleSet:
    """Make a rule set from its definition and those it is built on.

    Parameters
    ----------
    chain : sequence of Definition
        The rule set's own, its base's, and so on.
    parameters : mapping
        Values in place of defaults.

    Raises
    ------
    TypeError
        If the rule set has no such parameter, or a rule needs one that is not there.
    ValueError
        If a rule set of the chain refuses the parameters, or one that must be True or False is neither.
    """
    definition = chain[0]
    values: dict[str, Parameter] = {}
    fixed: dict[str, Parameter] = {}
    settings: dict[str, Any] = {}
    choices = choices_of(chain)
    table: dict[OpOverload, Rule] = {}
    overrides: list[tuple[Selector, Rule]] = []
    for link in reversed(chain):
        values |= link.parameters | link.fixed
        fixed |= link.fixed
        settings |= link.settings
        own = {op: _with_mass(rule, link, settings) for op, rule in link.table.items()}
        table |= own
        if overrides:
            # A rule of its own wins over any of the base, also over one for a narrower choice of sites.
            overrides += [(Selector(op=op), rule) for op, rule in own.items()]
        overrides += [(selector, _with_mass(rule, link, settings)) for selector, rule in link.overrides]
    values |= {name: words[0] for name, words in choices.items()}
    free = values.keys() - fixed.keys()
    unknown = parameters.keys() - free
    if unknown:
        accepted = ", ".join(sorted(free)) or "none"
        raise TypeError(f"rule set {definition.name!r} has no parameter {sorted(unknown)}; it accepts: {accepted}")
    switches = {name for name, value in values.items() if isinstance(value, bool)}
    values |= {name: as_switch(name, v) if name in switches else v for name, v in parameters.items()}
    settings |= {name: values[name] for name in choices}
    for link in chain:
        if link.refuse is not None and (wrong := link.refuse(values)):
            raise ValueError(f"rule set {definition.name!r}: {wrong}")
    if "default" in settings:
        settings["default"] = as_rule(settings["default"]).bind(values)
    return RuleSet(
        name=definition.name,
        summary=definition.summary,
        table=MappingProxyType({op: rule.bind(values) for op, rule in table.items()}),
        overrides=tuple((selector, rule.bind(values)) for selector, rule in overrides),
        parameters=MappingProxyType(values),
        version=definition.version,
        **settings,
    )


def _with_mass(rule: Rule, link: Definition, settings: Mapping[str, Any]) -> Rule:
    """Return a rule that says what becomes of the mass, as the rule set it is registered in has it.

    Moves, and what passes or blocks, are alike in all: they follow the rule set that they are used in.
    """
    if link.moves or rule.mass is not None or rule.kind in ("passes", "blocks"):
        return rule
    return replace(rule, mass=settings.get("mass", "conserved"))
