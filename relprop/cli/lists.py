"""``relprop rules``, ``methods``, ``metrics`` and ``models``: lists of what has a name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relprop.cli.app import Debug, command, one_line_errors, say

if TYPE_CHECKING:
    from rule_registry import RuleSet

BEGIN, END = "<!-- relprop rules -->", "<!-- relprop rules end -->"
"""Lines of a markdown file that the tables of rules stand between."""


@command("List the rule sets, or the rules of one.", "relprop rules abslrp")
def rules(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show every rule of this rule set.")] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Put the tables of all operations and rules between the lines {BEGIN} and {END} of this file.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the rule sets by what they are good for, or one of them rule by rule."""
    if name is not None and markdown is not None:
        raise typer.BadParameter("--markdown is about all rule sets: leave NAME out")
    with one_line_errors(debug):
        import rule_registry
        from relprop.assign.rule_names import choose_rules
        from relprop.files import put_between
        from rule_registry.markdown import tables
        from rule_registry.purposes import OTHERS, PURPOSES

        if markdown is not None:
            put_between(markdown, BEGIN, END, tables())
            return
        if name is not None:
            say(str(choose_rules(name)))
            return
        groups: dict[str, list[RuleSet]] = {purpose: [] for purpose in PURPOSES}
        for rule_set in map(rule_registry.get, rule_registry.names()):
            groups.setdefault(rule_set.purpose or OTHERS, []).append(rule_set)
        for purpose, members in groups.items():
            say(f"{purpose}:")
            for rule_set in members:
                say(f"  {rule_set.name:<26} {rule_set.summary}")
                say(f"  {'':<26} {_facts(rule_set)}")


def _facts(rule_set: RuleSet) -> str:
    """Return words on a rule set: what a map costs, what it is set against, and whether relevance is conserved."""
    from relprop.rewrite.seed import in_one_pass, seed_names

    passes = len(seed_names(rule_set.contrast, in_one_pass(rule_set.contrast, rule_set)))
    facts = [f"contrast {rule_set.contrast or 'none'}", f"{passes} backward pass{'es' if passes > 1 else ''}"]
    kinds = rule_set.kinds_of_mass()
    if "ignored" in kinds:
        facts.append("does not conserve relevance")
    else:
        facts += ["conserves relevance"] if "conserved" in kinds else []
        facts += ["measures what biases absorb"] if "measured" in kinds else []
    return "; ".join(filter(None, [*facts, rule_set.describe_parameters()]))


@command("List the methods that can be evaluated.", "relprop methods 'captum.*'")
def methods(
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="List the names that match, or that hold this.")
    ] = None,
    debug: Debug = False,
) -> None:
    """List the methods that relprop evaluate scores, as -m takes them, with their options (NAME:OPTION=VALUE,...)."""
    with one_line_errors(debug):
        from relprop.evaluation.methods import list_methods

        found = list_methods(pattern or "*")
        for kind in dict.fromkeys(method.kind for method in found):
            say(f"{kind}:")
            for method in (method for method in found if method.kind == kind):
                words = [method.summary, ", ".join(method.options)]
                say(f"  {method.name:<34} {'; '.join(filter(None, words))}".rstrip())


@command("List the scores beside GAE.", "relprop metrics")
def metrics(debug: Debug = False) -> None:
    """List the scores that relprop evaluate has beside GAE."""
    with one_line_errors(debug):
        from relprop.evaluation import METRICS

        for name, metric in METRICS.items():
            low, high = metric.declared.valid_range
            masks = "; needs masks of objects" if metric.needs_mask else ""
            say(f"{name:<16} {metric.declared.long_name}")
            say(f"{'':<16} {low:g} to {high:g}, {metric.declared.direction}{masks}")


@command("List the models that have a name.", "relprop models 'vit_tiny*'")
def models(
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="List the names that match, as in 'resnet*'.")
    ] = None,
    debug: Debug = False,
) -> None:
    """List the models that can be named, by default those whose pretrained weights are at hand offline."""
    with one_line_errors(debug):
        from relprop.models import UnknownModelError, list_models

        found = list_models(pattern or "*")
        if not found:
            raise UnknownModelError(f"no model matches {pattern!r}; relprop models '*' lists all")
        shown = found if pattern else [model for model in found if model.weights in AT_HAND]
        for model in shown:
            say(f"{model.name:<48} {model.library:<12} {WHERE[model.weights]}")
        counts = Counter(model.library for model in found)
        matching = f" matching {pattern!r}" if pattern else ""
        say(
            f"{sum(counts.values())} models{matching} can be named ("
            + ", ".join(f"{count} of {library}" for library, count in sorted(counts.items()))
            + ")"
            + ("" if pattern else "; relprop models '*' lists them; a FILE.pt2 and package.module:function work too")
        )


AT_HAND = ("package", "cache")
WHERE = {
    "package": "weights in an installed package",
    "cache": "weights downloaded already",
    "download": "weights are downloaded when needed",
    "": "no pretrained weights: give --weights",
}
