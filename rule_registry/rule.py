"""Rules, and sets of them with a rule for every operation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor
from torch._ops import OpOverload

from rule_registry.call import Call, Relevances, Site
from rule_registry.select import Selector, check_overload

Function = Callable[..., Relevances]
Parameter = float | tuple[float, ...]
"""A number, or one for each channel."""
Kind = Literal["rule", "passes", "blocks", "merges", "fallback"]


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
    kind : {"rule", "passes", "blocks", "merges", "fallback"}
        Passing and blocking are declared, so that a missing rule is always an error. A batch norm whose rule merges
        is one layer with the layer before, whose rule it then has; the function is for where there is none. A
        fallback is a general rule that somebody chose for operations without one: reports name these.
    complex : bool
        Whether it holds for operations on complex numbers too, where relevance is one real number for each entry, as
        everywhere; under the gradient and its kin the complex gradient. Other rules are not asked there.
    overwrites : bool
        Whether the function works on the relevance where it lies if the call says that nobody else reads it, see
        `rule_registry.call.times`, and keeps nothing: what it returns is in no memory but that of the call's tensors,
        or new, so that the engine may overwrite it. A rule that is made of such functions is only told so if it says
        the same.
    """

    name: str
    function: Function
    kind: Kind = "rule"
    complex: bool = False
    overwrites: bool = False

    def __call__(self, call: Call, relevance: Any) -> Relevances:
        """Apply the function."""
        return self.function(call, relevance)

    def __str__(self) -> str:
        return self.name

    def describe(self) -> str:
        """Name and parameters, as in ``gamma(gamma=0.25, stabilizer=1e-06)``."""
        bound = self.function.keywords if isinstance(self.function, partial) else {}
        values = ", ".join(f"{name}={shown(value)}" for name, value in sorted(bound.items()))
        return f"{self}({values})" if values else str(self)

    @property
    def summary(self) -> str:
        """First line of the function's documentation; the name where it has none."""
        function = self.function.func if isinstance(self.function, partial) else self.function
        return (inspect.getdoc(function) or self.name).partition("\n")[0]

    def bind(self, parameters: Mapping[str, Parameter]) -> Rule:
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


def shown(value: Parameter) -> str:
    """Write a parameter as tables do."""
    return f"({', '.join(map(shown, value))})" if isinstance(value, tuple) else f"{value:g}"


def _pass(call: Call, relevance: Tensor) -> Tensor:
    """Pass unchanged."""
    return relevance


def _block(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
    """Block: no relevance reaches the inputs."""
    return ()


passes = Rule("passes", _pass, "passes", complex=True)
"""The relevance reaches the one activation input unchanged."""
blocks = Rule("blocks", _block, "blocks", complex=True)
"""No relevance reaches the inputs, on purpose."""


@dataclass(frozen=True)
class Choice:
    """The rule of a site, and the entry of the rule set that it comes from.

    Parameters
    ----------
    rule : Rule
        What was chosen.
    entry : Selector, OpOverload or None
        The override, or else the operation in the table; None where it is the rule of anything else.
    """

    rule: Rule
    entry: Selector | OpOverload | None

    def __str__(self) -> str:
        if self.entry is None:
            return f"{self.rule.describe()}, the rule of anything else"
        kind = "override" if isinstance(self.entry, Selector) else "table"
        return f"{self.rule.describe()}, from the {kind}: {self.entry}"


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
    seed : {"one", "output"}
        Relevance at the target: one, or the output that is explained, as rules that decompose it have it.
    conserves : bool
        Whether every operation hands on the mass that arrived: `Shares` are rescaled to it.
    measures : bool
        Whether the mass is followed where it is not conserved: what biases and stabilisers absorb is reported.
    times_input : bool
        Whether what arrives at an activation is multiplied with it: a gradient becomes a relevance.
    largest_one : bool
        Whether maps are divided by their largest magnitude, as some publish them.
    own : tuple of (Selector, Rule)
        Those of the overrides that `derive` added: meant for a certain model.
    """

    name: str
    summary: str
    table: Mapping[OpOverload, Rule]
    overrides: tuple[tuple[Selector, Rule], ...] = ()
    default: Rule | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    contrast: Literal["rest"] | None = None
    seed: Literal["one", "output"] = "one"
    conserves: bool = True
    measures: bool = False
    times_input: bool = False
    largest_one: bool = False
    own: tuple[tuple[Selector, Rule], ...] = ()

    def __post_init__(self) -> None:
        if self.contrast not in ("rest", None) or self.seed not in ("one", "output"):
            raise ValueError(
                f'a rule set has contrast "rest" or None, and seed "one" or "output", not {self.contrast!r} and '
                f"{self.seed!r}"
            )

    def find(self, site: Site) -> Rule | None:
        """Return the rule of a site, or None where there is none."""
        choice = self.explain(site)
        return None if choice is None else choice.rule

    def explain(self, site: Site) -> Choice | None:
        """Return the rule of a site and why it is that one, or None where there is none.

        Examples
        --------
        >>> import torch, rule_registry
        >>> aten, back = torch.ops.aten, rule_registry.BatchAxis(0)
        >>> site = rule_registry.Site(aten.relu.default, "act", "ReLU", (), (), (), back)
        >>> print(rule_registry.get("abslrp").explain(site))
        passes, from the table: aten.relu.default
        """
        for selector, rule in reversed(self.overrides):
            if selector.matches(site):
                return Choice(rule, selector)
        if site.op in self.table:
            return Choice(self.table[site.op], site.op)
        return None if self.default is None else Choice(self.default, None)

    def derive(
        self,
        changes: Mapping[OpOverload | Selector, Rule | Function] | None = None,
        name: str | None = None,
        summary: str | None = None,
        default: Rule | Function | None = None,
    ) -> RuleSet:
        """Make a rule set that differs from this one, which stays as it is.

        Parameters
        ----------
        changes : mapping, optional
            From an operation, or a `select` of sites, to a rule or a plain function. Later entries win.
        name, summary : str, optional
            Of the new rule set; by default told from this one's.
        default : Rule or callable, optional
            The rule of every operation that has none, for example `positive_contribution`, in place of the error
            that lists them.

        Returns
        -------
        RuleSet

        Raises
        ------
        TypeError
            If a key is neither an operation nor a selection, or a rule needs a parameter this rule set lacks.
        """
        added = []
        for where, what in (changes or {}).items():
            if not isinstance(where, Selector):
                check_overload(where)
                where = Selector(op=where)
            added.append((where, as_rule(what).bind(self.parameters)))
        return replace(
            self,
            name=name or f"{self.name} (derived)",
            summary=summary or self.summary,
            overrides=(*self.overrides, *added),
            own=(*self.own, *added),
            default=self.default if default is None else as_rule(default).bind(self.parameters),
        )

    def describe(self) -> str:
        """Parameters, seed, contrast and what becomes of the mass, in a line."""
        mass = "conserved" if self.conserves else "measured" if self.measures else "not followed"
        parameters = ", ".join(f"{name}={shown(value)}" for name, value in sorted(self.parameters.items())) or "none"
        return f"parameters {parameters}; seed {self.seed}; contrast {self.contrast or 'none'}; mass {mass}"

    def __str__(self) -> str:
        rows = [(str(selector), rule.describe()) for selector, rule in reversed(self.overrides)]
        rows += sorted((str(op), rule.describe()) for op, rule in self.table.items())
        if self.default is not None:
            rows.append(("anything else", self.default.describe()))
        width = max((len(where) for where, _ in rows), default=0)
        return "\n".join(
            [
                f"{self.name}: {self.summary}",
                self.describe(),
                "the first row that holds is the rule:",
                *(f"  {where:<{width}}  {rule}" for where, rule in rows),
            ]
        )


def as_rule(what: Rule | Function) -> Rule:
    """Wrap a plain function as a rule named after it.

    Raises
    ------
    TypeError
        If it can't be called.
    """
    if not callable(what):
        named = f"the rule set {what.name!r}" if isinstance(what, RuleSet) else repr(what)
        raise TypeError(
            f"a rule is a function of (call, relevance) or a rule_registry.Rule, as rule_registry.passes, blocks and "
            f"positive_contribution are, not {named}"
        )
    return what if isinstance(what, Rule) else Rule(getattr(what, "__name__", repr(what)), what)
