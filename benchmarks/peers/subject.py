"""A model of the zoo as a plain function, from one tensor to numbers per class, which every peer explains."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from benchmarks.peers.adapters import PeerError
from benchmarks.peers.without_rules import adds_constants
from benchmarks.zoo.entries import Subject
from relprop.tracing.outputs import choose_output, explained
from relprop.verification.autograd import is_float

_ADDED = re.compile(r"bias|running_mean|pos_?emb|position_?emb")
"""Names of parameters and buffers that are added to activations."""


class Plain(nn.Module):
    """A model with everything but the explained tensor filled in.

    Parameters
    ----------
    model
        A copy of the subject's, which this module owns.
    arguments
        Its positional inputs, of which the one at ``position`` is replaced by the explained tensor.
    kwargs
        Its keyword inputs.
    position
        Which input is explained; without one the output of the module ``at`` is.
    at
        A module path.
    choose
        What of the output counts, ``(B, classes)``.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        position: int | None,
        at: str | None,
        choose: Callable[[Any], Tensor],
    ) -> None:
        super().__init__()
        self.model = model
        self.arguments = arguments
        self.kwargs = kwargs
        self.position = position
        self.at = at
        self.choose = choose

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, classes)``."""
        if self.position is not None:
            arguments = (*self.arguments[: self.position], x, *self.arguments[self.position + 1 :])
            return self.choose(self.model(*arguments, **self.kwargs))
        assert self.at is not None
        replaced = self.model.get_submodule(self.at).register_forward_hook(lambda *_: x)
        try:
            return self.choose(self.model(*self.arguments, **self.kwargs))
        finally:
            replaced.remove()


def plain(subject: Subject) -> tuple[Plain, Tensor]:
    """Return a copy of the subject's model in float64 as a `Plain` module, and what it explains, ``(B, ...)``.

    Raises
    ------
    PeerError
        If not one floating-point tensor is to be explained: no peer explains several at once.
    """
    inputs = subject.inputs if isinstance(subject.inputs, tuple) else (subject.inputs,)
    arguments, kwargs = tree_map(_wide, inputs), tree_map(_wide, dict(subject.kwargs))
    model = copy.deepcopy(subject.model).double().eval()
    at = subject.options.get("at")
    choose = _chooser(subject.options.get("output"), subject.options.get("target"))
    if at is not None:
        return Plain(model, arguments, kwargs, None, at, choose), _output_of(model, at, arguments, kwargs)
    floating = [k for k, value in enumerate(arguments) if is_float(value)]
    if len(floating) != 1 or any(map(is_float, kwargs.values())):
        raise PeerError("the model has not one floating-point input, and peers explain one")
    return Plain(model, arguments, kwargs, floating[0], None, choose), arguments[floating[0]]


def without_biases(model: Plain, x: Tensor) -> Plain | None:
    """Return a copy whose biases, running means and position embeddings are zero; None if it still adds constants.

    Whether it does is seen when it is called on x, ``(B, ...)``.
    """
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for path, tensor in (*copied.named_parameters(), *copied.named_buffers()):
            if _ADDED.search(path.rpartition(".")[2]) and tensor.is_floating_point():
                tensor.zero_()
    return None if adds_constants(copied, x) else copied


def _wide(value: Any) -> Any:
    return value.double() if is_float(value) else value


def _chooser(output: str | int | None, target: Any) -> Callable[[Any], Tensor]:
    """Return what makes ``(B, classes)`` of a model's output, or ``(B, 1)`` where the target is a function."""
    function = target if callable(target) else None

    def choose(returned: Any) -> Tensor:
        chosen, _ = choose_output(explained(returned, function, output), None)
        return chosen if function is None else chosen.reshape(len(chosen), 1)

    return choose


def _output_of(model: nn.Module, at: str, arguments: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what the module at a path returns in a call of the model, ``(B, ...)``."""
    kept: list[Tensor] = []
    handle = model.get_submodule(at).register_forward_hook(lambda _m, _i, output: kept.append(output.detach()))
    try:
        with torch.no_grad():
            model(*arguments, **kwargs)
    finally:
        handle.remove()
    return kept[0]
