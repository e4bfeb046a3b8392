"""Capture: any PyTorch model becomes a checked graph of ATen operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram

import rule_registry
from relprop.errors import CaptureError, InputError, TargetError
from relprop.graph.graph import Graph
from relprop.tracing.batch_axis import mark_batch, run_and_prove
from relprop.tracing.build_graph import build_graph
from relprop.tracing.causes import advice_for
from relprop.tracing.comparison import MismatchError, check_alone, check_batch, check_equal
from relprop.tracing.disk.cache import CacheEntry
from relprop.tracing.example import TracedModel, call_example
from relprop.tracing.export import gradient_regions, plain_mode
from relprop.tracing.fingerprint import cache_key_of, fingerprint
from relprop.tracing.inputs import Inputs, check_inputs
from relprop.tracing.loading import (
    Model,
    load_model,
    refuse_fixed_program,
    refuse_opaque,
    refuse_training,
    refuse_unusual_weights,
)
from relprop.tracing.lowering.lower import lower
from relprop.tracing.lowering.recognize import recognize
from relprop.tracing.outputs import choose_output
from relprop.tracing.sample_axes import argument_names, name_positions, with_other_guesses, with_samples_in
from relprop.tracing.trace import Traced, trace
from relprop.tracing.tracer import only_tracer
from relprop.tracing.undisturbed import undisturbed
from rule_registry import RuleSet

_cache: WeakKeyDictionary[Any, _Cache] = WeakKeyDictionary()


def capture(
    model: Model,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: Callable[[Any], Tensor] | None = None,
    output: str | int | None = None,
    rules: str | RuleSet = "abslrp",
    batched: Sequence[str] | None = None,
) -> Graph:
    """Capture a model as a functional graph of ATen operations with a dynamic batch.

    A structural copy that shares every parameter is exported, never the live model. The graph is checked once: its
    output on an example equals the model's, and the batch axis of every activation is proved. Captures are cached
    until the model's structure, one of its settings, the identity of one of its tensors, or what a target refers to
    changes.

    Forward hooks that return something, set an attribute of their module, write into a tensor they are given, or keep
    a feature that the forward reads later, are part of the model. One that only observes is called on ordinary tensors
    when the model is captured, and is no part of the graph. What hooks write to is copied for these calls, or put back
    after them: the user's own objects stay as they are. What another thread writes to the same global meanwhile may be
    put back with it.

    A ``torch.autograd.Function`` leaves the operations of its forward in the graph, not itself: rules are theirs, and
    its backward is no part of it. An operation made by ``torch.library.custom_op`` stays one node.

    ``squeeze`` never removes the batch axis. One sample gives ``(1, classes)``, even if the model itself returns
    ``(classes,)`` or fails for it.

    Parameters
    ----------
    model : nn.Module, fx.GraphModule, ExportedProgram or path of a ``.pt2``
        In evaluation mode.
    args, kwargs : tuple, mapping
        Positional and keyword inputs; every tensor among them whose first axis has as many entries as the first
        tensor's is taken to hold the samples there, unless the model doesn't treat them so.
    target : callable, optional
        Of the model's output, or of the one that ``output`` names; becomes part of the graph. It must keep the batch
        axis. Tensors that it refers to are constants.
    output : str or int, optional
        Which output is meant, where the model returns a dict, a tuple or a dataclass.
    rules : str or RuleSet
        The rule set that the graph is for. Operations that torch composes of others are written out in these, unless
        this rule set has a rule for the whole.
    batched : sequence of str, optional
        The inputs that hold the samples, see `relprop.Explainer`.

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
    chosen = rule_registry.get(rules) if isinstance(rules, str) else rules
    loaded, inputs = load_model(model), check_inputs(tuple(args), kwargs)
    return capture_inputs(
        loaded,
        inputs if batched is None else with_samples_in(inputs, batched, argument_names(loaded)),
        target=target,
        output=output,
        keep=whole_operations(chosen),
    )


def whole_operations(rules: RuleSet) -> frozenset[OpOverload]:
    """Return the operations that stay whole in a graph for a rule set: those that it has a rule of its own for.

    A rule set with a rule for everything, as ``gradient`` has, gets the graph of ``abslrp``: the two share captures.
    """
    own = rules.operations()
    return own if rules.default is None else own | rule_registry.get("abslrp").operations()


def capture_inputs(
    model: nn.Module | ExportedProgram,
    inputs: Inputs,
    *,
    target: Callable[[Any], Tensor] | None,
    output: str | int | None,
    keep: frozenset[OpOverload],
) -> Graph:
    """Capture a loaded model for checked inputs, see `capture`; composite operations in ``keep`` stay whole."""
    if isinstance(model, nn.Module):
        refuse_opaque(model)
        refuse_training(model)
    with only_tracer(), plain_mode():
        what = (
            cache_key_of(target),
            fingerprint(target) if isinstance(target, nn.Module) else None,
            output,
            fingerprint(model) if isinstance(model, nn.Module) else None,
        )
        cache = _cache.setdefault(model, _Cache())
        signature = (inputs.signature(), inputs.batch_size, what)
        if inputs.is_guess and signature in cache.marks:
            inputs = replace(inputs, batched=cache.marks[signature])
        if (found := cache.find(inputs, what, keep)) is None:
            with undisturbed(model) as put_back:
                subject = TracedModel(model, target, None if _is_graph(model, target) else output, put_back)

                def capture_as(guess: Inputs) -> tuple[_Captured, Inputs]:
                    return cache.find(guess, what, keep) or _capture_any(subject, guess, output, keep), guess

                found, inputs = with_other_guesses(inputs, subject, capture_as)
            cache.keep(inputs, what, found)
            cache.marks = dict([*cache.marks.items(), (signature, inputs.batched)][-_CACHE_LIMIT:])
        return found.graph


def _is_graph(model: nn.Module | ExportedProgram, target: Callable[[Any], Tensor] | None) -> bool:
    """Whether a model is an exported program already, for what is explained."""
    return isinstance(model, ExportedProgram) and target is None and not gradient_regions(model)


_CACHE_LIMIT = 8
"""Graphs kept per model: one per input shape, target and output in use. Those used last are kept."""


class _Cache:
    """What was captured of a model.

    Attributes
    ----------
    marks : dict
        Which inputs held the samples, by the names the user gave and the number of samples.
    """

    def __init__(self) -> None:
        self.graphs: dict[Any, list[_Captured]] = {}
        self.marks: dict[Any, tuple[bool, ...]] = {}

    def find(self, inputs: Inputs, what: Any, keep: frozenset[OpOverload]) -> _Captured | None:
        """Return a graph that serves, which then is the one used last."""
        key = (inputs.signature(), what)
        if key in self.graphs:
            self.graphs[key] = self.graphs.pop(key)
        return next((captured for captured in self.graphs.get(key, []) if captured.serves(keep)), None)

    def keep(self, inputs: Inputs, what: Any, captured: _Captured) -> None:
        """Keep a graph in the place of the one that was used longest ago."""
        key = (inputs.signature(), what)
        cached = self.graphs.pop(key, [])
        while len(self.graphs) >= _CACHE_LIMIT:
            self.graphs.pop(next(iter(self.graphs)))
        self.graphs[key] = [*cached[-_CACHE_LIMIT + 1 :], captured]


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, and which of the composite operations on the way stayed whole in it."""

    graph: Graph
    composites: frozenset[OpOverload]
    kept: frozenset[OpOverload]

    def serves(self, keep: frozenset[OpOverload]) -> bool:
        """Whether a capture that keeps these operations would return the same graph."""
        return self.composites & keep == self.kept


def _capture_any(
    subject: TracedModel, given: Inputs, output: str | int | None, keep: frozenset[OpOverload]
) -> _Captured:
    """Capture a model for every batch, or else for one sample at a time.

    No tracer gets a loop over samples into a graph of every batch. For one sample it is written out.
    """
    try:
        return _capture(subject, given, output, keep)
    except CaptureError as error:
        if isinstance(subject.model, ExportedProgram) or isinstance(error, MismatchError):
            raise  # a program is one graph already; of a model that differs from its trace no graph can be trusted
        try:
            captured = _capture(subject, given, output, keep, samples=1)
            check_alone(captured.graph, subject, given)
        except Exception:  # whatever the second try meets, what counts is why the first one failed
            raise CaptureError(error.message + advice_for(subject.model), **error.options) from error.__cause__
        return captured


def _capture(
    subject: TracedModel, given: Inputs, output: str | int | None, keep: frozenset[OpOverload], samples: int = 2
) -> _Captured:
    model, target = subject.model, subject.target
    refuse_unusual_weights(model)
    if isinstance(model, ExportedProgram):
        refuse_fixed_program(model)
    as_it_is = model if isinstance(model, ExportedProgram) and _is_graph(model, target) else None
    example = call_example(subject, given, samples)
    inputs, reference = example.inputs, example.returned
    if target is not None and not (isinstance(reference, Tensor) and reference.ndim):
        found = "a single number" if isinstance(reference, Tensor) else f"a {type(reference).__name__}"
        raise TargetError(f"a callable target must return one number per sample, (B,), not {found}")
    flat, select = choose_output(reference, None if as_it_is is None else output)
    if flat.is_complex():
        raise CaptureError(
            f"the output of {type(model).__name__} is complex, and only a real number can be explained: give target a "
            "function of the output, as in target=lambda output: output.abs()[:, 3]"
        )
    place = None
    if isinstance(model, nn.Module) and target is None and samples > 1:
        place = CacheEntry.of(model, inputs, output, keep)
    if place is not None and (kept := _read(place, inputs, flat, keep)) is not None:
        return kept
    traced = trace(subject, example) if as_it_is is None else Traced(as_it_is, {})
    program, composites = lower(traced.program, keep)
    if flat.isnan().any():
        raise InputError(
            f"the output of {type(model).__name__} is not a number (NaN) for this input: look at its weights, and at "
            "the scale of the input"
        )
    graph = build_graph(program, select, traced.originals, name_positions(argument_names(model)))
    graph, recognized = recognize(graph, keep)
    composites |= recognized
    if len(inputs.tensors) != len(graph.inputs):
        raise CaptureError(
            f"the exported program takes {len(graph.inputs)} tensors, {len(inputs.tensors)} were given: pass the "
            "inputs it was exported with"
        )
    held = [node for node, batched in zip(graph.inputs, inputs.batched, strict=True) if batched]
    mark_batch(graph, held, graph_of_one=samples == 1)
    computed = run_and_prove(graph, inputs)
    check_equal(computed[0], flat, graph.precision, type(model).__name__)
    if example.needs_hooks and example.for_others is not None:  # what was kept at an earlier call would be the same
        others, _ = choose_output(example.for_others, None)
        if not others.isnan().any():
            check_equal(computed[1], others, graph.precision, type(model).__name__)
    for size in sorted(traced.unlike):
        check_batch(graph, subject, inputs.samples(size))
    if place is not None and not (
        traced.unlike or example.needs_hooks
    ):  # what a model remembers is another at each call
        place.write(graph, composites)
    return _Captured(graph, composites, composites & keep)


def _read(place: CacheEntry, inputs: Inputs, output: Tensor, keep: frozenset[OpOverload]) -> _Captured | None:
    """Return the graph that an earlier process captured, if its output equals the model's, ``(B, ...)``."""
    found = place.read()
    if found is None or len(found[0].inputs) != len(inputs.tensors):
        return None
    graph, composites = found
    try:
        check_equal(graph.module()(*inputs.tensors), output, graph.precision, "a graph that was kept")
    except Exception:  # whatever a graph of another model raises: it is captured anew
        return None
    return _Captured(graph, composites, composites & keep)
