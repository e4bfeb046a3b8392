"""The one error that lists all operations without a rule, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from relprop.errors import CaptureError
from relprop.graph.dataflow import is_real
from relprop.graph.graph import Graph
from relprop.graph.module_outputs import module_outputs
from rule_registry import RuleSet


def explain_missing(graph: Graph, rules: RuleSet, missing: Sequence[fx.Node]) -> str:
    """Say which operations have no rule, where they are, and what would give them one."""
    unreal = [node for node in missing if not is_real(node)]
    places = "\n".join(f"  {graph.describe(node)}{', of complex numbers' * (node in unreal)}" for node in missing)
    operations = sorted({str(node.target) for node in missing})
    found = f"rule set {rules.name!r} has no rule for {len(missing)} operations ({', '.join(operations)}):\n{places}\n"
    if unreal:
        return found + _behind(graph, unreal) + _OF_COMPLEX_NUMBERS.format(op=unreal[0].target)
    advice = [_ADVICE.format(name=rules.name, op=operations[0])]
    if all(torch.Tag.pointwise in node.target.tags for node in missing):  # type: ignore[union-attr]
        advice.append(_PASSING.format(op=operations[0]))
    if rules.conserves:
        advice.append(_GENERAL)
    return found + "\n".join(advice)


def _behind(graph: Graph, unreal: Sequence[fx.Node]) -> str:
    """Advise to explain what a module made of complex numbers: the outermost that hands on real ones."""
    for _, path in graph.origins[unreal[0]].calls:
        inside = [node for node in unreal if any(where == path for _, where in graph.origins[node].calls)]
        if path and len(inside) == len(unreal) and _hands_on_one(graph, path):
            return f'Explain what the module hands on that holds them, a spectrogram say: pass at="{path}".\n'
    return "Put these operations, of a spectrogram say, into a module of their own, and pass its path as at=...\n"


def _hands_on_one(graph: Graph, path: str) -> bool:
    """Whether a module hands on one tensor of real numbers."""
    try:
        return len(module_outputs(graph, path, path)) == 1
    except CaptureError:  # several, or complex ones
        return False


_ADVICE = """\
Register one, for example:
  @rule_registry.register("{name}", torch.ops.{op})
  def my_rule(call, relevance):
      return relevance  # one tensor (S, *input) per activation input, or rule_registry.share(call, ...)"""
_PASSING = """\
or pass rules=rule_registry.get(...).derive({{torch.ops.{op}: rule_registry.passes}}) if relevance is to pass \
unchanged."""
_GENERAL = "absLRP's formula through Jacobians is rules=...derive(default=rule_registry.positive_contribution)."
_OF_COMPLEX_NUMBERS = """\
Rules are for real numbers unless they say otherwise. Write the model with real numbers there, or derive rules that
hand one real number of relevance to each complex entry, for example:
  rule_registry.get(...).derive({{torch.ops.{op}: rule_registry.Rule("mine", my_rule, complex=True)}})
The rule set "gradient" and those built on it hold for complex numbers too."""
