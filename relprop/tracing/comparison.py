"""Comparing a graph with the model that it was captured from."""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.errors import CaptureError
from relprop.graph.dataflow import between, carries_relevance
from relprop.graph.graph import Graph
from relprop.tracing.batch_axis import perturbed
from relprop.tracing.example import TracedModel, call
from relprop.tracing.inputs import Inputs
from relprop.tracing.outputs import choose_output
from relprop.tracing.sample_axes import sample_rows

aten = torch.ops.aten

_SIZES = (2, 3, 5)
_NUMBERS = (aten.item.default, aten._local_scalar_dense.default)


class MismatchError(CaptureError):
    """A graph that computes something else than its model."""


def check_alone(graph: Graph, subject: TracedModel, given: Inputs) -> None:
    """Raise a `CaptureError` if a model computes something else for a sample among others than for it alone.

    So does one whose values leave its tensors: what it computes of them would pass for a constant.

    A model that takes no such batch, or returns no row for each of its samples, is asked for no more than what is
    given: of that it must return a row for each sample.

    Parameters
    ----------
    graph : Graph
        Of one sample.
    subject : TracedModel
        The model.
    given : Inputs
        The samples that are to be explained.
    """
    reached = between(graph, [node for node in graph.inputs if graph.batch.get(node)], lambda node: True)
    for node in graph.calls():
        if node in reached and node.target in _NUMBERS and any(map(carries_relevance, node.all_input_nodes)):
            raise CaptureError(f"{graph.describe(node)} makes a number of a sample's values: relevance can't follow it")
    batches = [given, *(perturbed(given.samples(size)) for size in _SIZES)]
    for inputs in batches:
        size = inputs.batch_size
        rows = sample_rows(subject, inputs)
        if rows is not None:
            found = torch.cat([graph.module()(*inputs.slice(k, k + 1)) for k in range(size)])
            check_equal(found, rows, graph.precision, f"{type(subject.model).__name__}, one sample at a time,")
        elif inputs is given:
            raise CaptureError(f"{type(subject.model).__name__} returns no row for each of {size} samples")


def check_batch(graph: Graph, subject: TracedModel, inputs: Inputs) -> None:
    """Raise a `CaptureError` if the graph computes something else than the model for a batch of this size."""
    try:
        returned = call(subject.copy()[0], inputs)
    except Exception:  # whatever the model raises: it takes no such batch, so nothing is wrong for it
        return
    expected, _ = choose_output(returned, None)
    found = graph.module()(*inputs.tensors)
    if inputs.batch_size == 1 and expected.numel() == found.numel():  # a squeeze took the batch axis
        expected = expected.reshape(found.shape)
    name = f"{type(subject.model).__name__} for a batch of {inputs.batch_size}"
    check_equal(found, expected, graph.precision, name)


_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def check_equal(captured: Tensor, reference: Tensor, precision: torch.dtype, name: str) -> None:
    """Raise a `CaptureError` if the output ``(B, ...)`` of a graph differs from the model's, in shape or values."""
    if captured.shape != reference.shape:
        raise MismatchError(
            f"the captured graph of {name} returns {tuple(captured.shape)}, the model {tuple(reference.shape)}"
        )
    captured, wanted = captured.double(), reference.double()
    scale = float(wanted.where(wanted.isfinite(), 0.0).abs().max().clamp(min=1e-12))
    # Equal entries may be infinite: classes are masked out by minus infinity.
    error = float((captured - wanted).where(captured != wanted, 0.0).abs().max()) / scale
    if not error <= _TOLERANCE.get(precision, 1e-4):
        raise MismatchError(
            f"the captured graph of {name} computes something else: its output differs by {error:.1e} of the "
            "largest output. Does the model draw random numbers, or depend on a state that a call changes? An "
            "nn.TransformerEncoder with padding computes otherwise in evaluation mode: enable_nested_tensor=False."
        )
