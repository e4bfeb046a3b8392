"""The inputs of a model, checked once, and which of their tensors hold the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from relprop.errors import InputError
from relprop.graph.graph import Graph
from relprop.tracing.unusual_tensors import as_plain, name_of


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors among the leaves of a nested structure, in order; each may have any shape."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Positional and keyword inputs of a model, as `check_inputs` returns them.

    Parameters
    ----------
    args, kwargs : tuple, mapping
        As the model is called.
    tensors : tuple of Tensor
        The tensors among them, in order.
    batched : tuple of bool
        Which of these hold the samples along their first axis: ``(B, ...)``.
    given : tuple of Tensor
        The tensors as they were given, of classes of their own perhaps; empty for inputs made of others.
    is_guess : bool
        Whether the marks follow from the numbers of rows alone.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    batched: tuple[bool, ...]
    given: tuple[Tensor, ...] = ()
    is_guess: bool = True

    @staticmethod
    def of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        """Find the tensors that hold the samples: those with as many rows as the first tensor that has an axis."""
        tensors = tuple(tensors_in((args, dict(kwargs))))
        size = next((tensor.shape[0] for tensor in tensors if tensor.ndim), None)
        return Inputs(args, kwargs, tensors, tuple(bool(t.ndim) and t.shape[0] == size for t in tensors))

    @property
    def batch_size(self) -> int:
        """How many samples there are."""
        return next(t.shape[0] for t, batched in zip(self.tensors, self.batched, strict=True) if batched)

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return next(t.device for t, batched in zip(self.tensors, self.batched, strict=True) if batched)

    def map(
        self, function: Callable[[Tensor, bool], Any], other: Callable[[Any], Any] = lambda leaf: leaf
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments with ``function(tensor, batched)`` in the place of each tensor.

        Parameters
        ----------
        function : callable
            Of a tensor, and whether it holds the samples, as one ``(B, ...)`` does.
        other : callable
            Of everything that is no tensor, which by default stays as it is.
        """
        marks = iter(self.batched)

        def mapped(leaf: Any) -> Any:
            return function(leaf, next(marks)) if isinstance(leaf, Tensor) else other(leaf)

        changed: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(mapped, (self.args, dict(self.kwargs)))
        return changed

    def replace(self, function: Callable[[Tensor, bool], Tensor]) -> Inputs:
        """Apply ``function(tensor, batched)`` to every tensor; those of samples stay ``(B, ...)``."""
        args, kwargs = self.map(function)
        return Inputs(args, kwargs, tuple(tensors_in((args, kwargs))), self.batched, (), self.is_guess)

    def marked_as(self, graph: Graph) -> Inputs:
        """Mark the tensors that hold the samples in a graph."""
        marks = tuple(graph.batch.get(node) is not None for node in graph.inputs)
        return replace(self, batched=marks, is_guess=False)

    def signature(self) -> tuple[object, ...]:
        """Return what a capture depends on: all but the values of tensors and the number of samples."""
        leaves, structure = pytree.tree_flatten((self.args, dict(self.kwargs)))
        marks = iter(self.batched)

        def describe(leaf: Any) -> object:
            if isinstance(leaf, Tensor):
                batched = next(marks)
                return leaf.shape[1:] if batched else leaf.shape, batched, leaf.dtype, leaf.device
            # 1, 1.0 and True are equal and no number is equal to NaN: as keys they differ by type and bits.
            return type(leaf), leaf.hex() if isinstance(leaf, float) else leaf

        return (str(structure), *map(describe, leaves))

    def samples(self, count: int) -> Inputs:
        """Return inputs with so many samples; where there are fewer, they repeat."""

        def take(tensor: Tensor, batched: bool) -> Tensor:
            if not batched:
                return tensor.clone()
            times = -(-count // len(tensor))
            return torch.cat([tensor[:count]] * times)[:count]

        return self.replace(take)

    def slice(self, start: int, stop: int) -> list[Tensor]:
        """Return the tensors for samples ``start`` to ``stop - 1``: ``(stop - start, ...)`` where they hold samples."""
        return [t[start:stop] if batched else t for t, batched in zip(self.tensors, self.batched, strict=True)]

    def plain(self) -> Inputs:
        """Return inputs that are no part of an autograd tape and can be used outside of inference mode."""
        return self.replace(lambda tensor, _: tensor.clone() if tensor.is_inference() else tensor.detach())

    def describe(self) -> str:
        """Return shapes, types and devices of the tensors, with B for the batch."""
        return ", ".join(
            f"({', '.join([*'B'[:batched], *map(str, tensor.shape[batched:])])}) {tensor.dtype} on {tensor.device}"
            for tensor, batched in zip(self.tensors, self.batched, strict=True)
        )


def check_inputs(x: Any, kwargs: Mapping[str, Any] | None) -> Inputs:
    """Return the inputs, or raise one clear `InputError`.

    Parameters
    ----------
    x : Tensor, tuple, list or Inputs
        The positional input, or all of them; samples first, ``(B, ...)``. Checked inputs are returned as they are.
    kwargs : mapping, optional
        The keyword inputs.
    """
    if isinstance(x, Inputs):
        return x
    args = tuple(x) if isinstance(x, tuple | list) and not isinstance(x, PackedSequence) else (x,)
    (args, kwargs), given = as_plain((args, dict(kwargs or {})))
    inputs = replace(Inputs.of(args, kwargs), given=given)
    marks = iter(inputs.batched)
    for where, leaf in pytree.tree_flatten_with_path((inputs.args, inputs.kwargs))[0]:
        name = name_of(where, len(args))
        if isinstance(leaf, Tensor):
            _check_tensor(name, leaf, next(marks))
        elif leaf is not None and not isinstance(leaf, bool | int | float | str):
            raise InputError(
                f"input {name} is a {type(leaf).__name__}; the model takes tensors (torch.as_tensor helps)"
            )
    if not inputs.tensors:
        raise InputError("the model needs at least one tensor as its input")
    if not any(inputs.batched):
        raise InputError("every input is a single number; one of them must have a batch axis in front")
    return inputs


def _check_tensor(name: str, leaf: Tensor, batched: bool) -> None:
    """Raise an `InputError` for a tensor ``(B, ...)`` that is empty, not finite, or holds integer pixels."""
    if leaf.numel() == 0:
        raise InputError(f"input {name} is empty: shape {tuple(leaf.shape)}")
    # An attention mask may be infinite; what carries samples is explained and may not.
    bad = leaf.isnan() if not batched else ~leaf.isfinite()
    if leaf.is_floating_point() and bad.any():
        raise InputError(f"input {name} has {int(bad.sum())} of {leaf.numel()} values that are NaN or infinite")
    if leaf.dtype == torch.uint8 and batched and leaf.ndim > 2:
        raise InputError(
            f"input {name} is an integer image (uint8): convert it with x.float() / 255 and normalise it as the "
            "model expects"
        )
