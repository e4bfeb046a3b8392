"""A model of the zoo: its name, and how to make it with inputs that fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Subject:
    """A model ready to be explained.

    Attributes
    ----------
    model
        With random, settled weights, in evaluation mode.
    inputs
        The model's positional inputs, samples first: a tensor, or a tuple.
    kwargs
        Its keyword inputs.
    options
        Options of `relprop.explain`: ``target``, ``output``, ``at``, ``contrast``.
    exact
        The same model in 64-bit precision, where `torch.nn.Module.double` does not make it one.
    """

    model: nn.Module
    inputs: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: nn.Module | None = None


@dataclass(frozen=True)
class Entry:
    """A model by name.

    Attributes
    ----------
    source
        Where it comes from, as ``timm`` or ``huggingface``.
    name
        Its name there; unique within the source.
    family
        What groups models of one design: timm's module name, elsewhere the name itself.
    build
        Makes it, given how many samples the inputs hold: a module-level function or a `functools.partial` of one,
        since a sweep sends entries to other processes.
    """

    source: str
    name: str
    family: str
    build: Callable[[int], Subject]
