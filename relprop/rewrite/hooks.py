"""Relevance hooks: functions of the user's at places of a model, called while relevance flows through them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, fx, nn

from relprop.assign.contrasts import ContrastKind
from relprop.assign.plan import Plan
from relprop.errors import CaptureError, HookError
from relprop.graph.module_outputs import module_outputs, module_paths, no_such_module
from relprop.rewrite.seed import in_one_pass, seed_names
from relprop.rewrite.signed import net, split_signs
from rule_registry import BatchAxis
from rule_registry.factored import Factored, whole
from rule_registry.tracing import has_values


@dataclass(frozen=True)
class NodeInfo:
    """Where a hook is called.

    Parameters
    ----------
    path : str
        The module at whose output relevance is; of an operation chosen by its own name, the innermost around it.
    name, operation : str
        Of the node that returned this output, as programs call it; the operation is ``"input"`` for an input.
    call : int
        Which call of a module that is called repeatedly, from 0 in the order of the forward pass.
    batch : BatchAxis
        Where the samples lie in the output, counted without the seed axis.
    seeds : tuple of str
        What the entries of the seed axis stand for: ``("target",)``, with contrast ``("target", "rest")``
        or the other class, ``("target", "208")``; where both are in one seed ``("target minus rest",)``.
    """

    path: str
    name: str
    operation: str
    call: int
    batch: BatchAxis
    seeds: tuple[str, ...]


Hook = Callable[[NodeInfo, Tensor], Tensor | None]
"""From a place and the relevance there, ``(S, *output)``, to a replacement of the same shape, or None."""


class RelevanceHook(nn.Module):
    """One hook at its place in the program.

    Parameters
    ----------
    hook : callable
        The user's function.
    info : NodeInfo
        What describes the place to it.
    signs_apart : bool
        Whether relevance that it makes negative goes on in two parts, see `relprop.rewrite.signed`.
    """

    def __init__(self, hook: Hook, info: NodeInfo, signs_apart: bool) -> None:
        super().__init__()
        self.hook = hook
        self.info = info
        self.signs_apart = signs_apart

    @property
    def called(self) -> str:
        """Name of the function."""
        return str(getattr(self.hook, "__name__", type(self.hook).__name__))

    def forward(self, flows: Tensor | Factored) -> tuple[Tensor | Factored, Tensor, bool]:
        """Call the hook.

        Parameters
        ----------
        flows : Tensor or Factored
            The relevance ``(S, *output)``, or ``(2 S, *output)`` where its signs go apart.

        Returns
        -------
        Tensor, Tensor, bool
            The relevance that goes on, as it came where the hook only observed; the masses ``(2, S, B)`` before and
            behind the hook; and whether it is known that the hook only observed.
        """
        relevance = net(whole(flows), len(self.info.seeds))
        mass = self.info.batch.sum(relevance)
        given = relevance.clone()  # one to keep or to change: what flows may be used elsewhere too
        returned = self.hook(self.info, given)
        # A traced hook returns no values; without them the two parts always go apart.
        traced = not has_values(given)
        if returned is None:
            if not traced and given._version:
                raise self._error("changed the relevance in place but returned nothing: return what it made of it")
            return flows, torch.stack([mass, mass]), not traced
        self._check(returned, relevance, traced)
        record = torch.stack([mass, self.info.batch.sum(returned)])
        if self.signs_apart and (traced or bool((returned < 0).any())):
            returned = split_signs(returned)
        return returned, record, False

    def extra_repr(self) -> str:
        """Say function and place, for printed programs."""
        return f"{self.called} at {self.info.path!r}"

    def _check(self, returned: object, relevance: Tensor, traced: bool) -> None:
        """Raise a `HookError` unless a hook returned finite relevance like that it was given, ``(S, *output)``."""
        if not isinstance(returned, Tensor):
            raise self._error(f"returned a {type(returned).__name__}, where a tensor or None is expected")
        for what in ("shape", "dtype", "device"):
            found, expected = getattr(returned, what), getattr(relevance, what)
            if found != expected:
                found, expected = (tuple(v) if what == "shape" else v for v in (found, expected))
                raise self._error(f"returned relevance of {what} {found}, where {expected} is expected")
        if not traced and not returned.isfinite().all():
            was = "" if relevance.isfinite().all() else " (the relevance passed to it was not finite either)"
            raise self._error(f"returned relevance that is not finite{was}")

    def _error(self, what: str) -> HookError:
        return HookError(f"the hook {self.called} at {self.info.path or self.info.name!r} {what}")


def attach_hooks(plan: Plan, hooks: Mapping[str, Hook], contrast: ContrastKind) -> dict[fx.Node, list[RelevanceHook]]:
    """Find where hooks are called.

    Parameters
    ----------
    plan : Plan
        From `relprop.assign.assign`.
    hooks : mapping
        From module paths, or globs of them, to hooks; what matches no module is looked for among the names of
        operations and inputs.
    contrast : int, "rest", "log-odds", "class" or None
        Whether there is a second seed, and of what.

    Returns
    -------
    mapping of fx.Node to list of RelevanceHook
        At one node they are called in the order of the mapping, and of the modules within one another.

    Raises
    ------
    CaptureError
        If a hook matches nothing that relevance passes as a single tensor.
    """
    seeds = seed_names(contrast, in_one_pass(contrast, plan.rules))
    placed: dict[fx.Node, list[RelevanceHook]] = {}
    for pattern, hook in hooks.items():
        for path, call, node in _matching(plan, pattern):
            batch = plan.graph.batch[node]
            assert isinstance(batch, BatchAxis)
            info = NodeInfo(path, node.name, _operation(node), call, batch, seeds)
            placed.setdefault(node, []).append(RelevanceHook(hook, info, plan.conserves))
    return placed


def _matching(plan: Plan, pattern: str) -> list[tuple[str, int, fx.Node]]:
    """Return module path, number of the call and node of every place that a pattern means."""
    graph = plan.graph
    paths = [path for path in module_paths(graph) if fnmatchcase(path, pattern)]
    named = [node for node in graph.graph.nodes if fnmatchcase(node.name, pattern)]
    if not (paths or named):
        raise CaptureError(
            f"a hook is at no place there is: {no_such_module(graph, pattern)}; nor is that the name of an operation, "
            "which print(explainer.plan(x)) lists"
        )
    if paths:
        found = [(path, call, node) for path in paths for call, node in enumerate(module_outputs(graph, path, pattern))]
    else:
        found = [(graph.origins[node].path if node in graph.origins else "", 0, node) for node in named]
    found = [place for place in found if plan.carries(place[2])]
    if not found:
        raise CaptureError(
            f"no relevance passes {pattern!r} as a single tensor: a hook must be at a module or an operation between "
            "the source and the target; where one returns several tensors, name what is inside it or behind it"
        )
    return found


def _operation(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    returned_by = node.args[0] if node.target is operator.getitem else node
    assert isinstance(returned_by, fx.Node)
    return str(returned_by.target)
