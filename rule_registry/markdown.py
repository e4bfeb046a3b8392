"""Tables for a README: the rule of each operation, and what distinguishes the rule sets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from torch._ops import OpOverload

from rule_registry.definition import Definition
from rule_registry.registry import ROOT, defined, get
from rule_registry.rule import Rule, shown
from rule_registry.rule_set import as_rule

STATED = ("abslrp", "epsilon")
"""The rule sets whose rules are listed operation by operation; of others the table lists what they change."""
MOVES = {False: "Moved exactly: the transpose of the move.", True: "Inert: passes unchanged."}
SAME = "the same"


def tables() -> str:
    """Return what the registry knows as two tables, and what rule sets have no rule for.

    A rule is the first line of its documentation. Operations share a row where the listed rule sets treat them alike.
    Those of other libraries are left out: which there are depends on what is imported.
    """
    first = _table(["operations", *map(_code, STATED)], _operations())
    second = _table(["rule set", "built on", "its own rules, for", "which are"], _rule_sets())
    return "\n\n".join([first, second, *_without_rules()])


def _operations() -> Iterator[list[str]]:
    stated, moves = [get(name).table for name in STATED], defined()[ROOT].table
    operations = list(dict.fromkeys(op for table in stated for op in table))
    operations = [op for op in operations if op not in moves and op.namespace == "aten"]
    for alike in _grouped(operations, lambda op: [_function(table.get(op)) for table in stated]):
        first, *others = (table.get(alike[0]) for table in stated)
        cells = [SAME if _function(rule) is _function(first) else _summary(rule) for rule in others]
        yield [_names(alike), _summary(first), *cells]
    for alike in _grouped(moves, lambda op: moves[op].kind == "passes"):
        yield [_names(alike), MOVES[moves[alike[0]].kind == "passes"], *[SAME for _ in STATED[1:]]]


def _rule_sets() -> Iterator[list[str]]:
    """Yield the rules that a rule set does not have from its base; one listed before is named after where."""
    places: dict[Any, str] = {_function(rule): "epsilon" for rule in get("epsilon").table.values()}
    for name, definition in defined().items():
        if name in STATED or definition.base is None or _is_apart(name):
            continue
        fixed = ", ".join(f"{key}={shown(value)}" for key, value in definition.fixed.items())
        head = [_code(name), _code(definition.base) + (f" with {fixed}" if fixed else "")]
        for where, rule in _own(definition):
            place = places.setdefault(_function(rule), name)
            repeated = place != name and rule.kind not in ("passes", "blocks")
            yield [*head, where, f"as of {_code(place)}" if repeated else rule.summary]
            head = ["", ""]
        if any(head):
            yield [*head, "", ""]


def _own(definition: Definition) -> list[tuple[str, Rule]]:
    """Return where each of a definition's own rules holds."""
    table = {op: rule for op, rule in definition.table.items() if op.namespace == "aten"}
    overrides = [
        (chosen, r) for chosen, r in definition.overrides if chosen.op is None or chosen.op.namespace == "aten"
    ]
    found = [(_names(ops), table[ops[0]]) for ops in _grouped(table, lambda op: _function(table[op]))]
    places: dict[tuple[str, Any], tuple[list[OpOverload], Rule]] = {}
    for selector, rule in overrides:
        rest = str(replace(selector, op=None))
        ops, _ = places.setdefault((rest, _function(rule)), ([], rule))
        ops += [selector.op] if selector.op is not None else []
    found += [(f"{rest}: {_names(ops)}" if ops else rest, rule) for (rest, _), (ops, rule) in places.items()]
    default = definition.settings.get("default")
    return found if default is None else [*found, ("anything else", as_rule(default))]


def _without_rules() -> Iterator[str]:
    for name in filter(_is_apart, defined()):
        there = [op for op in get(name).table if op not in defined()[ROOT].table and op.namespace == "aten"]
        yield f"{_code(name)} has rules for {_names(there)}, and what is moved or inert; for nothing else."


def _is_apart(name: str) -> bool:
    """Whether a rule set has nothing but rules of its own."""
    return name not in STATED and defined()[name].base == ROOT and get(name).default is None


def _grouped(operations: Iterable[OpOverload], key: Callable[[OpOverload], Any]) -> list[list[OpOverload]]:
    """Group operations by a key, groups in the order of their first one."""
    groups: list[tuple[Any, list[OpOverload]]] = []
    for op in operations:
        found = next((group for other, group in groups if other == key(op)), None)
        if found is None:
            groups.append((key(op), [op]))
        else:
            found.append(op)
    return [group for _, group in groups]


def _function(rule: Rule | None) -> Any:
    """Return what a rule does, whatever its parameters are."""
    function = None if rule is None else rule.function
    return function.func if isinstance(function, partial) else function


def _summary(rule: Rule | None) -> str:
    return "no rule" if rule is None else rule.summary


def _names(operations: Iterable[OpOverload]) -> str:
    """Write operations without namespace and overload, and those for several dimensions as one: ``conv1d/2d/3d``."""
    short = dict.fromkeys(op._schema.name.removeprefix("aten::") for op in operations)
    dims: dict[str, list[str]] = {}
    for name in short:
        plain = re.sub(r"(?<=[a-z])[123]d", "{}", name, count=1)
        dims.setdefault(plain, []).extend(re.findall(r"(?<=[a-z])[123]d", name)[:1])
    return ", ".join(_code(plain.format("/".join(sorted(found)))) for plain, found in dims.items())


def _code(name: str) -> str:
    return f"`{name}`"


def _table(titles: Iterable[str], rows: Iterable[list[str]]) -> str:
    lines = [list(titles), *rows]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
