"""Finding which axis of every activation carries the samples, and proving it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import SymInt, Tensor, fx

from relprop.errors import CaptureError
from relprop.graph.dataflow import between, carries_relevance, is_tensor
from relprop.graph.graph import Graph
from relprop.tracing.inputs import Inputs
from rule_registry import BatchAxis

_SIZES = (2, 3, 5)


def refuse_fixed_batch(size: int | SymInt) -> None:
    """Raise a `CaptureError` for a graph whose batch axis has a size of its own."""
    if not isinstance(size, SymInt):
        raise CaptureError(
            f"the graph is fixed at a batch of {size}: export it with a dynamic batch axis and at least two "
            'samples, as in torch.export.export(model, (x,), dynamic_shapes=({0: Dim("batch")},))'
        )


def mark_batch(graph: Graph, batched: Sequence[fx.Node], *, graph_of_one: bool = False) -> None:
    """Mark the batch axis of every value on the way from a batched input to the output.

    How an axis of several entries per sample is laid out is settled by `run_and_prove`.

    Parameters
    ----------
    graph : Graph
        Its ``batch`` mapping is filled in.
    batched : sequence of fx.Node
        The inputs whose first axis is the batch.
    graph_of_one : bool
        Whether the graph is that of one sample, to which every entry of every value belongs.

    Raises
    ------
    CaptureError
        If no single axis of such a value carries the batch.
    """
    size = batched[0].meta["val"].shape[0]
    if not graph_of_one:
        refuse_fixed_batch(size)
    for node in batched:
        graph.batch[node] = BatchAxis(0)
    lost = []
    on_the_way = between(graph, batched, is_tensor)
    for node in graph.calls():
        if node not in on_the_way or not carries_relevance(node):
            continue
        value = node.meta["val"]
        if isinstance(value, tuple | list):
            graph.batch[node] = tuple(_axis(part, size) for part in value)
        else:
            graph.batch[node] = _axis(value, size)
            if graph.batch[node] is None:
                lost.append(node)
    if lost:
        places = "\n".join(f"  {graph.describe(node)}: shape {tuple(node.meta['val'].shape)}" for node in lost[:5])
        raise CaptureError(
            f"samples of a batch are mixed: no single axis of these {len(lost)} values carries the batch\n"
            f"{places}\nRelevance is per sample, so the model must treat the samples of a batch apart. If "
            "another of its outputs does, name that one with <output>",
            output="...",
        )


def _axis(value: Any, batch: int | SymInt) -> BatchAxis | None:
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return None
    if isinstance(batch, int):  # of the one sample are all entries of an axis, whichever has a known number of them
        known = ((axis, size) for axis, size in enumerate(value.shape) if isinstance(size, int) and size)
        return next((BatchAxis(axis, size) for axis, size in known), None)
    multiples = [_multiple(size, batch) if isinstance(size, SymInt) else 0 for size in value.shape]
    found = [BatchAxis(axis, multiple) for axis, multiple in enumerate(multiples) if multiple]
    return found[0] if len(found) == 1 else None


def _multiple(size: SymInt, symbol: SymInt) -> int:
    """Return k where ``size`` is k times the batch, else 0."""
    name, expression = symbol.node.expr, size.node.expr
    values = [expression.subs(name, n) for n in _SIZES]
    factors = {value / n for value, n in zip(values, _SIZES, strict=True)}
    if len(factors) != 1:
        return 0
    (factor,) = factors
    return int(factor) if factor.is_integer and factor > 0 else 0


def perturbed(inputs: Inputs) -> Inputs:
    """Return inputs of which the first sample has other values."""
    return inputs.replace(lambda tensor, batched: _perturb(tensor) if batched else tensor)


def run_and_prove(graph: Graph, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Run the graph twice side by side, with one sample perturbed, and compare the other samples.

    Where an axis has several entries per sample this also settles in which order they lie.

    Parameters
    ----------
    graph : Graph
        With its batch axes marked; marks of merged axes are replaced by what was proved.
    inputs : Inputs
        An example of at least two samples, with one tensor per input of the graph.

    Returns
    -------
    Tensor, Tensor
        The graph's output ``(B, ...)`` on the example, and where its first sample is perturbed.

    Raises
    ------
    CaptureError
        If a sample's part of some value changed although only another sample did.
    """
    runs = [dict(zip(graph.inputs, example.tensors, strict=True)) for example in (inputs, perturbed(inputs))]
    last_use: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        for source in node.all_input_nodes:
            last_use[source] = node
    for node in graph.graph.nodes:
        if node.op == "output":
            return runs[0][graph.output], runs[1][graph.output]
        for values in runs:
            if node.op == "get_attr":
                values[node] = graph.tensors[str(node.target)]
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
        if node.op == "call_function" and graph.batch.get(node) is not None:
            _settle(graph, node, runs[0][node], runs[1][node])
        for source in node.all_input_nodes:
            if last_use[source] is node and source is not graph.output:
                for values in runs:
                    del values[source]
    raise AssertionError("a graph without an output")


def _perturb(leaf: Tensor) -> Tensor:
    """Change the first sample of ``(B, ...)`` and leave the others."""
    if leaf.is_complex():
        return torch.view_as_complex(_perturb(torch.view_as_real(leaf.resolve_conj())))
    changed = leaf.clone()
    if leaf.is_floating_point():
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(leaf.shape[1:], generator=generator, device="cpu").to(leaf)
        spread = leaf.float().std().nan_to_num(1.0) if leaf.numel() > 1 else leaf.new_ones(())  # one number has none
        changed[0] += noise * spread.clamp(min=1e-3).to(leaf)
    else:
        changed[0] = ~leaf[0] if leaf.dtype == torch.bool else leaf.min() + leaf.max() - leaf[0]
    return changed


def _settle(graph: Graph, node: fx.Node, before: Any, after: Any) -> None:
    """Replace the marks of a node by layouts under which only the first sample changed."""
    marks = graph.batch[node]
    if isinstance(marks, tuple):
        parts = zip(marks, before, after, strict=True)
        graph.batch[node] = tuple(m if m is None else _layout(graph, node, m, a, b) for m, a, b in parts)
    else:
        assert marks is not None
        graph.batch[node] = _layout(graph, node, marks, before, after)


def _layout(graph: Graph, node: fx.Node, mark: BatchAxis, before: Tensor, after: Tensor) -> BatchAxis:
    """Return the order of the entries along a merged axis of ``(..., k B, ...)`` for which one sample alone changed."""
    several = mark.factor
    for factor in sorted((k for k in range(1, several + 1) if several % k == 0), reverse=True):
        layout = BatchAxis(mark.axis, factor, several // factor)
        if _same(layout.rows(before)[1:], layout.rows(after)[1:]):
            return layout
    raise CaptureError(
        f"axis {mark.axis} of {graph.describe(node)} has {several} entries per sample, but perturbing one sample "
        "changed another's, in whatever order these entries lie: the model mixes the samples of a batch, or "
        "draws random numbers"
    )


def _same(before: Tensor, after: Tensor) -> bool:
    """Whether two tensors ``(...)`` of one shape are equal, entry by entry."""
    if torch.equal(before, after):
        return True
    exact = torch.promote_types(before.dtype, torch.float64)
    before, after = before.to(exact), after.to(exact)
    finite = before[before.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.isclose(before, after, rtol=1e-4, atol=1e-5 * scale, equal_nan=True).all())
