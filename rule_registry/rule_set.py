"""Sets of rules, with a rule for every operation, under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import Literal, get_args

from torch._ops import OpOverload

from rule_registry.call import Site
from rule_registry.rule import Function, Mass, Parameter, Rule, shown
from rule_registry.select import Selector, check_overload


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


@dataclass(frozen=True, repr=False)
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
    contrast : {"rest", "log-odds", None}
        The default contrast of `relprop.explain`; ``"rest"`` in place of ``"log-odds"`` where a softmax does not turn
        the output into probabilities, and none where there is one output.
    seed : {"one", "output", "signed"}
        Relevance at the target: one, or the output that is explained, as rules that decompose it have it. Signed, it
        is one at the target and ``-1 / classes`` at all others, where these are the contrast, in one pass.
    mass : {"conserved", "measured", "ignored"}
        What becomes of the mass under rules that do not say, see `Rule`.
    times_input : bool
        Whether what arrives at an activation is multiplied with it: a gradient becomes a relevance.
    normalize : {"largest", "l1", None}
        What maps are divided by, as some publish them: their largest magnitude, or their L1 norm, which the map of
        each seed is divided by before one is subtracted from the other. A signed seed's map stays as it is.
    purpose : str
        What it is good for, in words: lists group rule sets by it. Those built on it have the same.
    version : int
        A rule set whose numbers change under the same name gets a new one. Files record it.
    own : tuple of (Selector, Rule)
        Those of the overrides that `derive` added: meant for a certain model.
    origin : tuple, optional
        Name and parameters by which the registry makes it, or what it was derived from, again.
    """

    name: str
    summary: str
    table: Mapping[OpOverload, Rule]
    overrides: tuple[tuple[Selector, Rule], ...] = ()
    default: Rule | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    contrast: Literal["rest", "log-odds"] | None = None
    seed: Literal["one", "output", "signed"] = "one"
    mass: Mass = "conserved"
    times_input: bool = False
    normalize: Literal["largest", "l1"] | None = None
    purpose: str = ""
    version: int = 1
    own: tuple[tuple[Selector, Rule], ...] = ()
    origin: tuple[str, tuple[tuple[str, Parameter], ...]] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.contrast not in ("rest", "log-odds", None) or self.seed not in ("one", "output", "signed"):
            raise ValueError(
                f'a rule set has contrast "rest", "log-odds" or None, and seed "one", "output" or "signed", not '
                f"{self.contrast!r} and {self.seed!r}"
            )
        if self.mass not in get_args(Mass):
            raise ValueError(f"a rule set has mass {', '.join(get_args(Mass))}, not {self.mass!r}")
        if self.normalize not in ("largest", "l1", None):
            raise ValueError(f'a rule set has normalize "largest", "l1" or None, not {self.normalize!r}')

    @property
    def linear(self) -> bool:
        """Whether all of it is linear in the relevance at the target, so that a contrast is one pass.

        It is where nothing is rescaled to the mass that arrived, and every rule declares that it is linear.
        """
        return all(rule.linear and self.mass_of(rule) != "conserved" for rule in self._rules())

    @property
    def conserves(self) -> bool:
        """Whether every rule hands on the mass that arrives."""
        return all(self.mass_of(rule) == "conserved" for rule in self._rules())

    @property
    def measures(self) -> bool:
        """Whether mass is followed that some rule does not hand on."""
        return any(self.mass_of(rule) == "measured" for rule in self._rules())

    def mass_of(self, rule: Rule) -> Mass:
        """Return what becomes of the mass under a rule of this rule set."""
        return self.mass if rule.mass is None else rule.mass

    def _rules(self) -> list[Rule]:
        rules = [*self.table.values(), *(rule for _, rule in self.overrides)]
        return rules if self.default is None else [*rules, self.default]

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

    def operations(self) -> frozenset[OpOverload]:
        """Return the operations that have an entry of their own: in the table, or in an override that names them.

        Overrides for a path, class or position alone and the rule of anything else name none. Capture keeps these
        operations whole, so that their rules see them.

        Examples
        --------
        >>> import torch, rule_registry
        >>> aten, rules = torch.ops.aten, rule_registry.get("abslrp")
        >>> aten.digamma.default in rules.operations()
        False
        >>> aten.digamma.default in rules.derive({aten.digamma.default: rule_registry.passes}).operations()
        True
        """
        named = (selector.op for selector, _ in self.overrides)
        return frozenset(self.table).union(op for op in named if op is not None)

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
            Of the new rule set; by default they follow from this one's.
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

    def kinds_of_mass(self) -> frozenset[Mass]:
        """Return what becomes of the mass under its rules, moves aside; several where that depends on the rule."""
        return frozenset(self.mass_of(rule) for rule in self._rules() if not rule.moves)

    def describe_parameters(self) -> str:
        """Return the parameters and their values, by name."""
        return ", ".join(f"{name}={shown(value)}" for name, value in sorted(self.parameters.items()))

    def describe(self) -> str:
        """Parameters, seed, contrast and what becomes of the mass, in a line."""
        kinds = self.kinds_of_mass()
        mass = " or ".join(sorted(kinds)) + (", by rule" if len(kinds) > 1 else "")
        parameters = self.describe_parameters() or "none"
        return f"parameters {parameters}; seed {self.seed}; contrast {self.contrast or 'none'}; mass {mass}"

    def __str__(self) -> str:
        rows = self._rows()
        width = max((len(where) for where, _ in rows), default=0)
        return "\n".join([*self._lines(), *(f"  {where:<{width}}  {rule}" for where, rule in rows)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        cells = (f"<tr><td>{escape(where)}</td><td>{escape(rule)}</td></tr>" for where, rule in self._rows())
        return f"<div><p>{'<br>'.join(map(escape, self._lines()))}</p><table>{''.join(cells)}</table></div>"

    def _lines(self) -> list[str]:
        return [f"{self.name}: {self.summary}", self.describe(), "the first row that holds is the rule:"]

    def _rows(self) -> list[tuple[str, str]]:
        """Return where each rule holds, and which it is."""
        rows = [(str(selector), rule.describe()) for selector, rule in reversed(self.overrides)]
        rows += sorted((str(op), rule.describe()) for op, rule in self.table.items())
        return rows if self.default is None else [*rows, ("anything else", self.default.describe())]


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
