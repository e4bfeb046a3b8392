"""Rules, rule sets, and the registry that holds them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from torch import Tensor
from torch._ops import OpOverload

from rule_registry.call import Call, Relevances, Site
from rule_registry.select import Selector, check_overload

Function = Callable[..., Relevances]
F = TypeVar("F", bound=Function)
Kind = Literal["rule", "passes", "blocks"]


PLUGINS = "rule_registry.rules"
"""Entry-point group under which other packages name the modules that register their rules."""


@dataclass(frozen=True)
class Rule:
    """How relevance goes from the output of an operation to its inputs.

    Parameters
    ----------
    name : str
        What tables and programs call it.
    function : callable
        ``function(call, relevance) -> relevances``; further keyword-only parameters are filled in from the
        rule set's. The relevance is ``(S, *output)``, S seeds in front (a tuple with None for what nobody
        used, where the operation returns several tensors).
    kind : {"rule", "passes", "blocks"}
        Passing and blocking are declared, so that a missing rule is always an error.
    """

    name: str
    function: Function
    kind: Kind = "rule"

    def __call__(self, call: Call, relevance: Any) -> Relevances:
        """Apply the function."""
        return self.function(call, relevance)

    def __str__(self) -> str:
        return self.name

    def bind(self, parameters: Mapping[str, float]) -> Rule:
        """Fill in the keyword-only parameters of the function that a rule set defines.

        What is bound already (the rule of another rule set, say) stays.

        Raises
        ------
        TypeError
            If the function needs a parameter that is not there.
        """
        bound = self.function.keywords if isinstance(self.function, partial) else {}
        accepted = inspect.signature(self.function).parameters.values()
        wanted = {p.name: p for p in accepted if p.kind is p.KEYWORD_ONLY and p.name not in bound}
        for name, parameter in wanted.items():
            if name not in parameters and parameter.default is parameter.empty:
                known = ", ".join(sorted(parameters)) or "none"
                raise TypeError(f"rule {self} needs the parameter {name!r}; its rule set has: {known}")
        values = {name: value for name, value in parameters.items() if name in wanted}
        return replace(self, function=partial(self.function, **values)) if values else self


def _pass(call: Call, relevance: Tensor) -> Tensor:
    return relevance


def _block(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
    return ()


passes = Rule("passes", _pass, "passes")
"""The relevance reaches the one activation input unchanged."""
blocks = Rule("blocks", _block, "blocks")
"""No relevance reaches the inputs, on purpose."""


@dataclass(frozen=True)
class RuleSet:
    """A rule for every operation, under one name.

    Parameters
    ----------
    name, summary : str
        For tables and error messages.
    table : mapping of OpOverload to Rule
        The rule of each operation.
    overrides : tuple of (Selector, Rule)
        Rules for a narrower choice of sites; the last one that matches wins, before the table.
    default : Rule, optional
        The rule of operations that are not in the table. Without one they are an error.
    parameters : mapping
        Values for the keyword-only parameters of the rules.
    contrast : {"rest", None}
        The contrast `relprop.explain` uses unless told otherwise.
    conserves : bool
        Whether every operation hands on the mass that arrived.
    largest_one : bool
        Whether maps are divided by their largest magnitude, as some publish them.
    """

    name: str
    summary: str
    table: Mapping[OpOverload, Rule]
    overrides: tuple[tuple[Selector, Rule], ...] = ()
    default: Rule | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    contrast: Literal["rest"] | None = None
    conserves: bool = True
    largest_one: bool = False

    def find(self, site: Site) -> Rule | None:
        """Return the rule of a site, or None where there is none."""
        for selector, rule in reversed(self.overrides):
            if selector.matches(site):
                return rule
        return self.table.get(site.op, self.default)

    def derive(
        self,
        changes: Mapping[OpOverload | Selector, Rule | Function],
        name: str | None = None,
        summary: str | None = None,
    ) -> RuleSet:
        """Make a rule set that differs from this one, which stays as it is.

        Parameters
        ----------
        changes : mapping
            From an operation, or a `select` of sites, to a rule or a plain function. Later entries win.
        name, summary : str, optional
            Of the new rule set; by default told from this one's.

        Returns
        -------
        RuleSet

        Raises
        ------
        TypeError
            If a key is neither an operation nor a selection, or a rule needs a parameter this rule set lacks.
        """
        overrides = list(self.overrides)
        for where, what in changes.items():
            if not isinstance(where, Selector):
                check_overload(where)
                where = Selector(op=where)
            overrides.append((where, as_rule(what).bind(self.parameters)))
        return replace(
            self,
            name=name or f"{self.name} (derived)",
            summary=summary or self.summary,
            overrides=tuple(overrides),
        )

    def __str__(self) -> str:
        rows = [f"{op!s:<48} {rule}" for op, rule in sorted(self.table.items(), key=lambda row: str(row[0]))]
        rows += [f"{selector!s:<48} {rule}" for selector, rule in self.overrides]
        if self.default is not None:
            rows.append(f"{'anything else':<48} {self.default}")
        return "\n".join([f"{self.name}: {self.summary}", *rows])


@dataclass
class _Definition:
    summary: str
    base: str | None
    settings: dict[str, Any]
    parameters: dict[str, float]
    table: dict[OpOverload, Rule] = field(default_factory=dict)
    overrides: list[tuple[Selector, Rule]] = field(default_factory=list)


_definitions: dict[str, _Definition] = {}


def as_rule(what: Rule | Function) -> Rule:
    """Wrap a plain function as a rule named after it."""
    return what if isinstance(what, Rule) else Rule(getattr(what, "__name__", repr(what)), what)


def define(
    name: str,
    summary: str,
    *,
    base: str | None = None,
    parameters: Mapping[str, float] | None = None,
    **settings: Any,
) -> None:
    """Open a rule set under a name, to be filled with `register`.

    Parameters
    ----------
    name, summary : str
        For `get`, tables and error messages.
    base : str, optional
        Rule set whose rules hold wherever this one has none of its own.
    parameters : mapping, optional
        Defaults of the parameters that `get` accepts.
    **settings
        Further fields of `RuleSet` (``default``, ``contrast``, ``conserves``, ``largest_one``).

    Raises
    ------
    ValueError
        If the name is taken.
    LookupError
        If there is no rule set named ``base``.
    TypeError
        If there is no such setting.
    """
    if name in _definitions:
        raise ValueError(f"a rule set named {name!r} is defined already")
    if base is not None:
        _definition(base)
    unknown = settings.keys() - {f.name for f in fields(RuleSet)}
    if unknown:
        raise TypeError(f"a rule set has no setting {sorted(unknown)}")
    _definitions[name] = _Definition(summary, base, settings, dict(parameters or {}))


def register(rule_set: str, *where: OpOverload | Selector, rule: Rule | Function | None = None) -> Callable[[F], F]:
    """Register a rule for one or more operations, or selections of sites, in a rule set.

    Use it as a decorator of a rule function, or pass ``rule=passes`` (or another `Rule`) directly.

    Raises
    ------
    LookupError
        If there is no such rule set.
    ValueError
        If one of the operations or selections has a rule in this rule set already; none is registered then.
    TypeError
        If one is neither an operation nor a selection.

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

    def add(function: F) -> F:
        entry = as_rule(rule if rule is not None else function)
        taken: dict[Any, Rule] = {**definition.table, **dict(definition.overrides)}
        for key in where:
            if not isinstance(key, Selector):
                check_overload(key)
            if key in taken:
                raise ValueError(
                    f"rule set {rule_set!r} already has the rule {taken[key]} for {key}; override it with "
                    "RuleSet.derive, or define a rule set with this one as its base"
                )
            taken[key] = entry
        for key in where:
            if isinstance(key, Selector):
                definition.overrides.append((key, entry))
            else:
                definition.table[key] = entry
        get.cache_clear()
        return function

    if rule is not None:
        add(as_rule(rule).function)
    return add


@lru_cache(maxsize=32)
def get(name: str, **parameters: float) -> RuleSet:
    """Return a rule set by name.

    Parameters
    ----------
    name : str
        One of `names`.
    **parameters
        Values in place of the rule set's defaults, for example ``delta=0.0`` for ``"abslrp"``.

    Raises
    ------
    LookupError
        If there is no rule set of that name.
    TypeError
        If it has no such parameter.
    """
    load_plugins()
    definition = _definition(name)
    chain = [definition]
    while chain[-1].base is not None:
        chain.append(_definition(chain[-1].base))
    values: dict[str, float] = {}
    settings: dict[str, Any] = {}
    table: dict[OpOverload, Rule] = {}
    overrides: list[tuple[Selector, Rule]] = []
    for link in reversed(chain):
        values |= link.parameters
        settings |= link.settings
        table |= link.table
        if overrides:
            # A rule of its own wins over any of the base, also over one for a narrower choice of sites.
            overrides += [(Selector(op=op), rule) for op, rule in link.table.items()]
        overrides += link.overrides
    unknown = parameters.keys() - values.keys()
    if unknown:
        accepted = ", ".join(sorted(values)) or "none"
        raise TypeError(f"rule set {name!r} has no parameter {sorted(unknown)}; it accepts: {accepted}")
    values |= parameters
    return RuleSet(
        name=name,
        summary=definition.summary,
        table=MappingProxyType({op: rule.bind(values) for op, rule in table.items()}),
        overrides=tuple((selector, rule.bind(values)) for selector, rule in overrides),
        parameters=MappingProxyType(values),
        **settings,
    )


def names() -> list[str]:
    """Names of the rule sets there are."""
    load_plugins()
    return sorted(name for name in _definitions if name != "structural")


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Import what other packages register under the entry-point group ``rule_registry.rules``.

    Raises
    ------
    ImportError
        If one of them fails; it names the package.
    """
    for entry in entry_points(group=PLUGINS):
        try:
            entry.load()
        except Exception as error:  # whatever a package raises when it is imported
            package = entry.dist.name if entry.dist is not None else "a package"
            raise ImportError(
                f"the rules that {package} registers as {entry.name!r} ({entry.value}) can't be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error


def _definition(name: str) -> _Definition:
    if name not in _definitions:
        known = ", ".join(sorted(_definitions))
        raise LookupError(f"no rule set named {name!r}; there are: {known}")
    return _definitions[name]
