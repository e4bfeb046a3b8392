"""Finding which axis of every activation carries the samples, and proving it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import SymInt, Tensor, fx

from relprop.errors import CaptureError
from relprop.graph import Graph, is_floating
from rule_registry import BatchAxis

_SIZES = (2, 3, 5)


def mark_batch(graph: Graph, batched: Sequence[fx.Node]) -> None:
    """Mark the batch axis of every value that depends on a batched input.

    Parameters
    ----------
    graph : Graph
        Its ``batch`` mapping is filled in.
    batched : sequence of fx.Node
        The inputs whose first axis is the batch.

    Raises
    ------
    CaptureError
        If a value depends on the inputs but no single axis of it carries the batch.
    """
    symbol = batched[0].meta["val"].shape[0]
    if not isinstance(symbol, SymInt):
        raise CaptureError(
            f"the graph is fixed at a batch of {symbol}: export it with a dynamic batch axis, "
            'as in torch.export.export(model, (x,), dynamic_shapes=({0: Dim("batch")},)), with at least two samples'
        )
    depends = set(batched)
    for node in batched:
        graph.batch[node] = BatchAxis(0)
    for node in graph.calls():
        if not is_floating(node) or depends.isdisjoint(node.all_input_nodes):
            if not depends.isdisjoint(node.all_input_nodes) and _is_tensor(node):
                depends.add(node)
            continue
        depends.add(node)
        value = node.meta["val"]
        if isinstance(value, tuple | list):
            graph.batch[node] = tuple(_axis(part, symbol) for part in value)
        else:
            graph.batch[node] = _axis(value, symbol)
    lost = [n for n in graph.calls() if n in depends and is_floating(n) and graph.batch[n] is None]
    if lost:
        places = "\n".join(f"  {graph.describe(node)}: shape {tuple(node.meta['val'].shape)}" for node in lost[:5])
        raise CaptureError(
            f"samples of a batch are mixed: no single axis of these {len(lost)} values carries the batch\n{places}\n"
            "Relevance is per sample, so the model must treat the samples of a batch apart."
        )


def _is_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    return any(isinstance(v, Tensor) for v in values)


def _axis(value: Any, symbol: SymInt) -> BatchAxis | None:
    if not isinstance(value, Tensor) or not torch.is_floating_point(value):
        return None
    found = [
        BatchAxis(axis, factor)
        for axis, size in enumerate(value.shape)
        if isinstance(size, SymInt) and (factor := _multiple(size, symbol)) is not None
    ]
    return found[0] if len(found) == 1 else None


def _multiple(size: SymInt, symbol: SymInt) -> int | None:
    """Return k where ``size`` is k times the batch."""
    name, expression = symbol.node.expr, size.node.expr
    values = [expression.subs(name, n) for n in _SIZES]
    factors = {value / n for value, n in zip(values, _SIZES, strict=True)}
    if len(factors) != 1:
        return None
    (factor,) = factors
    return int(factor) if factor.is_integer and factor > 0 else None


def run_and_prove(graph: Graph, leaves: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """Run the graph twice side by side, with one sample perturbed, and compare the other samples.

    Parameters
    ----------
    graph : Graph
        With its batch axes marked.
    leaves : sequence of Tensor
        An example of at least two samples, one tensor per input of the graph.
    batched : sequence of bool
        Which of them have the batch as their first axis.

    Returns
    -------
    Tensor
        The graph's output on the example.

    Raises
    ------
    CaptureError
        If a sample's part of some value changed although only another sample did.
    """
    runs = [dict(zip(graph.inputs, leaves, strict=True))]
    perturbed = [_perturb(leaf) if is_batched else leaf for leaf, is_batched in zip(leaves, batched, strict=True)]
    runs.append(dict(zip(graph.inputs, perturbed, strict=True)))
    last_use: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        for source in node.all_input_nodes:
            last_use[source] = node
    for node in graph.graph.nodes:
        if node.op == "output":
            return runs[0][graph.output]
        for values in runs:
            if node.op == "get_attr":
                values[node] = graph.tensors[str(node.target)]
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
        if node.op == "call_function" and graph.batch.get(node) is not None:
            _compare(graph, node, runs[0][node], runs[1][node])
        for source in node.all_input_nodes:
            if last_use[source] is node and source is not graph.output:
                for values in runs:
                    del values[source]
    raise AssertionError("a graph without an output")


def _perturb(leaf: Tensor) -> Tensor:
    """Change the first sample and leave the others."""
    changed = leaf.clone()
    if leaf.is_floating_point():
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(leaf.shape[1:], generator=generator).to(leaf)
        changed[0] += noise * leaf.float().std().nan_to_num(1.0).clamp(min=1e-3).to(leaf)
    else:
        changed[0] = leaf[0].flip(-1) if leaf.ndim > 1 else leaf[0]
    return changed


def _compare(graph: Graph, node: fx.Node, before: Any, after: Any) -> None:
    marks = graph.batch[node]
    if isinstance(marks, tuple):
        pairs = [(m, a, b) for m, a, b in zip(marks, before, after, strict=True) if m is not None]
    else:
        assert marks is not None
        pairs = [(marks, before, after)]
    for mark, old, new in pairs:
        rest = slice(mark.factor, None)
        old, new = (value.movedim(mark.axis, 0)[rest] for value in (old, new))
        if torch.equal(old, new):
            continue
        old, new = old.double(), new.double()
        scale = old[old.isfinite()].abs().max() if old.isfinite().any() else old.new_zeros(())
        close = torch.isclose(old, new, rtol=1e-4, atol=1e-5 * float(scale), equal_nan=True)
        if not close.all():
            raise CaptureError(
                f"axis {mark.axis} of {graph.describe(node)} has {mark.factor} entries per sample, but perturbing "
                "one sample changed another's: the batch is interleaved (not sample-major), or the model mixes "
                "the samples of a batch"
            )
