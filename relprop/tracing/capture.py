"""Capture: any PyTorch model becomes a checked graph of ATen operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from relprop.errors import CaptureError, InputError, RelpropError, TargetError, first_line
from relprop.graph.graph import Graph
from relprop.tracing.batch_axis import mark_batch, run_and_prove
from relprop.tracing.build_graph import build_graph
from relprop.tracing.export import Wrapped, export, gradient_regions, plain_mode
from relprop.tracing.fingerprint import fingerprint, state_of
from relprop.tracing.inputs import batched_inputs, example, signature
from relprop.tracing.loading import Model, opened, refuse_fixed_program, refuse_training
from relprop.tracing.lowering.lower import lower
from relprop.tracing.model_copy import callable_copy, drop_observers
from relprop.tracing.outputs import choose_output

_lock = threading.RLock()
_cache: WeakKeyDictionary[Any, dict[Any, Graph]] = WeakKeyDictionary()


def capture(
    model: Model,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: Callable[[Any], Tensor] | None = None,
    output: str | int | None = None,
) -> Graph:
    """Capture a model as a functional graph of ATen operations with a dynamic batch.

    A structural copy that shares every parameter is exported, never the live model. The graph is checked once: its
    output on an example equals the model's, and the batch axis of every activation is proved. Captures are cached
    until the model's structure, one of its settings, the identity of one of its tensors, or what a target refers to
    changes.

    Forward hooks that return something, set an attribute of their module, or write into a tensor they are given, are
    part of the model. One that only observes is called once, on ordinary tensors, when the model is captured, and is
    no part of the graph.

    A ``torch.autograd.Function`` leaves the operations of its forward in the graph, not itself: rules are theirs, and
    its backward is no part of it. An operation made by ``torch.library.custom_op`` stays one node.

    A squeeze never takes the batch axis: a single sample leaves the graph as ``(1, classes)``, as it would beside
    others, also where the model itself returns ``(classes,)`` for it, or fails.

    Parameters
    ----------
    model : nn.Module, fx.GraphModule, ExportedProgram or path of a ``.pt2``
        In evaluation mode.
    args, kwargs : tuple, mapping
        Positional and keyword inputs; every tensor among them whose first axis has as many entries as the first
        tensor's is taken to hold the samples there.
    target : callable, optional
        Of the model's output, or of the one that ``output`` names; becomes part of the graph. It must keep the batch
        axis. Tensors that it refers to are constants.
    output : str or int, optional
        Which output is meant, where the model returns a dict, a tuple or a dataclass.

    Returns
    -------
    Graph

    Raises
    ------
    CaptureError
        If the model is in training mode, can't be traced, returns no single tensor, mixes the samples of a batch,
        or computes something else than its graph.
    InputError
        If the model itself fails on the inputs.
    TargetError
        If the target fails on the output, or returns no number per sample.
    """
    kwargs = dict(kwargs or {})
    model = opened(model)
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not leaves:
        raise InputError("the model needs at least one tensor as its input")
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError("a TorchScript module can't be traced: pass the nn.Module it was made from")
    if isinstance(model, nn.Module):
        refuse_training(model)
    with _lock, plain_mode():
        key = (
            signature(args, kwargs),
            state_of(target),
            fingerprint(target) if isinstance(target, nn.Module) else None,
            output,
            fingerprint(model) if isinstance(model, nn.Module) else None,
        )
        graphs = _cache.setdefault(model, {})
        if key not in graphs:
            if len(graphs) >= _CACHE_LIMIT:
                graphs.pop(next(iter(graphs)))
            graphs[key] = _capture(model, args, kwargs, target, output)
        return graphs[key]


_CACHE_LIMIT = 8
"""Graphs kept per model: one per input shape, target and output in use."""


def _capture(
    model: nn.Module | ExportedProgram,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    target: Callable[[Any], Tensor] | None,
    output: str | int | None,
) -> Graph:
    batched = batched_inputs(args, kwargs)
    args, kwargs = example(args, kwargs)
    if isinstance(model, ExportedProgram):
        refuse_fixed_program(model)
    runnable, originals = (model.module(), {}) if isinstance(model, ExportedProgram) else callable_copy(model)
    if isinstance(target, nn.Module):
        target, held = callable_copy(target)
        originals |= held
    as_it_is = model if isinstance(model, ExportedProgram) and target is None and not gradient_regions(model) else None
    wrapped = Wrapped(runnable, target, output) if as_it_is is None else Wrapped(runnable)
    reference = _call(wrapped, args, kwargs, batched)
    drop_observers(wrapped)
    if target is not None and not (isinstance(reference, Tensor) and reference.ndim):
        found = "a single number" if isinstance(reference, Tensor) else f"a {type(reference).__name__}"
        raise TargetError(f"a callable target must return one number per sample, (B,), not {found}")
    flat, select = choose_output(reference, None if as_it_is is None else output)
    if flat.is_complex():
        raise CaptureError(
            f"the output of {type(model).__name__} is complex, and only a real number can be explained: give target a "
            "function of the output, as in target=lambda output: output.abs()[:, 3]"
        )
    program = export(wrapped, args, kwargs, batched) if as_it_is is None else lower(as_it_is)
    if flat.isnan().any():
        raise InputError(
            f"the output of {type(model).__name__} is not a number (NaN) for this input: look at its weights, and at "
            "the scale of the input"
        )
    graph = build_graph(program, select, originals)
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if len(leaves) != len(graph.inputs):
        raise CaptureError(
            f"the exported program takes {len(graph.inputs)} tensors, {len(leaves)} were given: pass the inputs "
            "it was exported with"
        )
    mark_batch(graph, [node for node, is_batched in zip(graph.inputs, batched, strict=True) if is_batched])
    _check_equal(run_and_prove(graph, leaves, batched), flat, graph.precision, type(model).__name__)
    return graph


def _call(wrapped: Wrapped, args: tuple[Any, ...], kwargs: Mapping[str, Any], batched: Sequence[bool]) -> Any:
    """Run the copy on the example; a forward that changes its inputs or its buffers changes clones of them."""
    buffers = {name: buffer.clone() for name, buffer in wrapped.named_buffers()}
    inputs = pytree.tree_map_only(Tensor, Tensor.clone, (args, dict(kwargs)))
    try:
        return torch.func.functional_call(wrapped, buffers, inputs)
    except RelpropError:  # of the output that is meant, or the target
        raise
    except Exception as error:  # whatever the model raises
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        shapes = ", ".join(
            f"({', '.join([*'B'[:mark], *map(str, leaf.shape[mark:])])}) {leaf.dtype} on {leaf.device}"
            for leaf, mark in zip(leaves, batched, strict=True)
        )
        held = next(wrapped.parameters(), None)
        weights = "" if held is None else f"; its weights are {held.dtype} on {held.device}"
        raise InputError(
            f"{type(wrapped.model).__name__} fails on an input of {shapes}{weights}, the first axis being the batch: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def _check_equal(captured: Tensor, reference: Tensor, precision: torch.dtype, name: str) -> None:
    if captured.shape != reference.shape:
        raise CaptureError(
            f"the captured graph of {name} returns {tuple(captured.shape)}, the model {tuple(reference.shape)}"
        )
    captured, wanted = captured.double(), reference.double()
    scale = float(wanted.where(wanted.isfinite(), 0.0).abs().max().clamp(min=1e-12))
    # Equal entries may be infinite: classes are masked out by minus infinity.
    error = float((captured - wanted).where(captured != wanted, 0.0).abs().max()) / scale
    if not error <= _TOLERANCE.get(precision, 1e-4):
        raise CaptureError(
            f"the captured graph of {name} computes something else: its output differs by {error:.1e} of the "
            "largest output. Does the model draw random numbers, or depend on a state that a call changes? An "
            "nn.TransformerEncoder with padding computes otherwise in evaluation mode: enable_nested_tensor=False."
        )
