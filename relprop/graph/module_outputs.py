"""The modules that left an operation in a graph, and the tensor that each of them hands on."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import fx

from relprop.errors import CaptureError, near_names
from relprop.graph.dataflow import between, carries_relevance, is_complex, value_inputs
from relprop.graph.graph import Graph
from rule_registry import BatchAxis


def module_paths(graph: Graph) -> list[str]:
    """Return the paths of all modules that left an operation, in order of their first use."""
    paths = (where for node in graph.calls() for _, where in graph.origins[node].calls if where)
    return list(dict.fromkeys(paths))


def matching_modules(graph: Graph, pattern: str) -> list[str]:
    """Return the modules whose path matches a glob.

    Raises
    ------
    CaptureError
        If there are none.
    """
    found = [path for path in module_paths(graph) if fnmatchcase(path, pattern)]
    if not found:
        raise CaptureError(no_such_module(graph, pattern))
    return found


def no_such_module(graph: Graph, pattern: str) -> str:
    """Say that a glob matches no module, and which ones there are."""
    paths = module_paths(graph)
    hint = near_names(pattern, paths) or f". The modules begin: {', '.join(paths[:12])} …"
    return (
        f"no module matches {pattern!r}{hint} (a module that does nothing, as an identity, is none: it has no "
        "relevance of its own)"
    )


def layer_outputs(graph: Graph, patterns: Sequence[str]) -> dict[str, list[fx.Node]]:
    """Return the nodes at the outputs of all modules that one of the globs matches, by module path.

    Raises
    ------
    CaptureError
        If a glob matches no module, or a module hands on no tensor of samples.
    """
    layers = {
        path: module_outputs(graph, path, pattern) for pattern in patterns for path in matching_modules(graph, pattern)
    }
    for path, nodes in layers.items():
        if not nodes:
            raise CaptureError(f"module {path!r} has no output that carries the batch; name one inside it")
    return layers


def module_outputs(graph: Graph, path: str, pattern: str) -> list[fx.Node]:
    """Return the node at the output of a module, one for each time it is called; none where none carries the batch.

    A graph does not know what a forward returned. What counts is what is read outside of the module, whichever way
    it got there, and of several such tensors those that relevance may come to.

    Parameters
    ----------
    graph : Graph
        With its batch axes marked.
    path : str
        Of the module.
    pattern : str
        What the user called it by, for error messages.

    Raises
    ------
    CaptureError
        If the module hands on several tensors, or complex numbers.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.calls():
        key = next((key for key, where in graph.origins[node].calls if where == path), None)
        if key is not None and graph.batch.get(node) is not None and _leaves(graph, node, key):
            calls.setdefault(key, []).append(node)
    return [_only(graph, path, pattern, leaving) for leaving in calls.values()]


def _leaves(graph: Graph, node: fx.Node, key: str) -> bool:
    return any(
        user.op == "output" or (node in value_inputs(user) and key not in {k for k, _ in graph.origins[user].calls})
        for user in node.users
    )


def _only(graph: Graph, path: str, pattern: str, leaving: list[fx.Node]) -> fx.Node:
    if len(leaving) > 1:
        reached = between(graph, leaving, carries_relevance)
        leaving = [node for node in leaving if node in reached] or leaving
    module = f"module {path!r}" + (f", which {pattern!r} matches," if path != pattern else "")
    places = "".join(f"\n  {node.name}: {graph.describe(node)}" for node in leaving)
    if len(leaving) > 1 or not isinstance(graph.batch[leaving[0]], BatchAxis):
        raise CaptureError(
            f"{module} hands on several tensors, not one; name the modules inside it, or behind it, that make one "
            f"each (a hook may name their operations):{places}"
        )
    if is_complex(leaving[0]):
        raise CaptureError(f"{module} hands on complex numbers; name a module that hands on real ones:{places}")
    return leaving[0]
