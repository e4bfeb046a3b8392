"""Which inputs hold the samples: the user names them, or their numbers of rows give a guess that the model tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from relprop.errors import CaptureError, InputError, near_names
from relprop.tracing.example import TracedModel, call
from relprop.tracing.inputs import Inputs
from relprop.tracing.outputs import choose_output

_MOST = 5
"""Of more inputs with as many rows as there are samples, not every choice is tried."""


def argument_names(model: nn.Module | ExportedProgram) -> tuple[str, ...]:
    """Return the names of the arguments of a model's ``forward`` that may be given by position."""
    if isinstance(model, ExportedProgram):
        return ()
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # of a function that is not written in Python
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def name_positions(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the names of inputs that are given by position: the first one is ``x``, unless another argument is."""
    return ("x", *arguments[1:]) if "x" not in arguments[1:] else tuple(arguments)


def input_names(inputs: Inputs, arguments: Sequence[str]) -> list[str]:
    """Return a name for each tensor, in order."""
    names, positions = [], name_positions(arguments)
    for path, leaf in pytree.tree_flatten_with_path((inputs.args, dict(inputs.kwargs)))[0]:
        if isinstance(leaf, Tensor):
            keys: list[Any] = [getattr(key, "key", getattr(key, "idx", key)) for key in path]
            where, name, *inside = keys
            if where == 0:
                name = positions[name] if name < len(positions) else f"args_{name}"
            names.append("_".join(map(str, (name, *inside))))
    return names


def with_samples_in(inputs: Inputs, batched: Sequence[str], arguments: Sequence[str]) -> Inputs:
    """Mark the inputs that are named as those that hold the samples; what is inside of one counts as that one.

    Raises
    ------
    InputError
        If there is no such input, or if two of them have unlike numbers of rows.
    """
    names = input_names(inputs, arguments)
    first = name_positions(arguments)[0]
    chosen = {first if arguments and name == arguments[0] else name for name in batched}
    marks = tuple(any(name == part or name.startswith(f"{part}_") for part in chosen) for name in names)
    for part in chosen:
        if not any(name == part or name.startswith(f"{part}_") for name in names):
            raise InputError(f"no input is named {part!r}{near_names(part, names)}; there are: {', '.join(names)}")
    rows = {name: tensor.shape[:1] for name, tensor, mark in zip(names, inputs.tensors, marks, strict=True) if mark}
    if not rows:
        raise InputError(f"batched must name the inputs that hold the samples; there are: {', '.join(names)}")
    if len(set(rows.values())) > 1 or not all(rows.values()):
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in rows.items())
        raise InputError(f"the inputs that hold the samples have unlike numbers of rows: {found}")
    return replace(inputs, batched=marks, is_guess=False)


def with_other_guesses(inputs: Inputs, subject: TracedModel, capture: Callable[[Inputs], Any]) -> Any:
    """Capture a model with the inputs marked as holding the samples, or else with those that behave so.

    Other inputs may have as many rows by chance. One holds no samples if the model computes something else, or
    nothing, for its first rows beside the first samples.

    Raises
    ------
    CaptureError, InputError
        As ``capture`` does, with the guess named, and what to do if it is wrong.
    """
    try:
        return capture(inputs)
    except (CaptureError, InputError) as error:
        if not inputs.is_guess:
            raise
        for guess in _other_guesses(inputs, subject):
            try:
                return capture(guess)
            except (CaptureError, InputError):
                continue
        options = dict(error.options)
        note = _what_was_guessed(inputs, subject, options)
        if not note:
            raise
        raise type(error)(f"{error.message}\n{note}", **options) from (error.__cause__ or error)


def _other_guesses(inputs: Inputs, subject: TracedModel) -> Iterator[Inputs]:
    """Yield inputs with fewer marks, under which the model treats each sample as it does beside the others."""
    candidates = [k for k, batched in enumerate(inputs.batched) if batched]
    if not 1 < len(candidates) <= _MOST:
        return
    expected = sample_rows(subject, inputs)
    if expected is None:
        return
    for size in range(len(candidates) - 1, 0, -1):
        for chosen in combinations(candidates, size):  # those with the first input come first
            guess = replace(inputs, batched=tuple(k in chosen for k in range(len(inputs.batched))))
            found = sample_rows(subject, guess.samples(2 if inputs.batch_size != 2 else 3))
            common = min(len(expected), 2)
            if found is not None and len(found) != len(expected) and _same(found[:common], expected[:common]):
                yield guess


def sample_rows(subject: TracedModel, inputs: Inputs) -> Tensor | None:
    """Return the model's output, ``(B, ...)``, if it takes the batch and returns a row for each sample; else None."""
    try:
        output, _ = choose_output(call(subject.copy()[0], inputs), None)
    except Exception:  # whatever the model raises for a guess
        return None
    return output if output.ndim and len(output) == inputs.batch_size else None


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs ``(B, ...)`` are equal within rounding."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)


def _what_was_guessed(inputs: Inputs, subject: TracedModel, options: dict[str, str]) -> str:
    """Say which inputs were taken to hold the samples, and what to do if that is wrong; empty if it can't be."""
    names = input_names(inputs, argument_names(subject.model))
    held = [name for name, batched in zip(names, inputs.batched, strict=True) if batched]
    if sample_rows(subject, inputs) is None and _takes_one(inputs, subject):
        ones = ", ".join(f"{name}[None]" for name in held)
        return f"It runs on the same input with a batch axis in front: pass {ones}"
    if len(names) == 1:
        return ""
    options["batched"] = f"({', '.join(map(repr, held[:1]))},)"
    others = [name for name in names if name not in held]
    return (
        f"It is a guess that the samples lie along the first axis of {', '.join(held)}, which has {inputs.batch_size} "
        f"rows{', and not in ' + ', '.join(others) if others else ''}. If others hold them, name these with <batched>"
    )


def _takes_one(inputs: Inputs, subject: TracedModel) -> bool:
    """Whether the model takes the inputs with one more axis in front, as one sample."""
    try:
        one = inputs.replace(lambda tensor, batched: tensor[None] if batched else tensor)
        output, _ = choose_output(call(subject.copy()[0], one), None)
    except Exception:  # whatever the model raises
        return False
    return output.ndim > 1 and len(output) == 1
