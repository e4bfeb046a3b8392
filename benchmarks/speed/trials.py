"""Trials: a model with random weights and a batch of pictures, which jobs are timed on."""

from __future__ import annotations

from ast import literal_eval
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.conditions import Conditions
from benchmarks.zoo.weights import settle
from relprop.errors import RelpropError, first_line


class TrialError(RelpropError, ValueError):
    """A model that can't be made as described."""


@dataclass(frozen=True)
class Trial:
    """What is to be made.

    Attributes
    ----------
    model
        A timm model, perhaps with options: ``vit_tiny_patch16_224:depth=6,num_classes=10``.
    batch
        Pictures at once.
    side
        Height and width of the pictures, if not the model's own.
    """

    model: str
    batch: int
    side: int | None = None

    def make(self, conditions: Conditions) -> tuple[nn.Module, Tensor]:
        """Return the model with random, settled weights in evaluation mode, and its pictures, ``(batch, C, H, W)``.

        Raises
        ------
        TrialError
            There is no such model, it lacks an option, or it takes no pictures of that side.
        """
        name, options = parse(self.model)
        if self.side is not None and _has_fixed_size(name):
            options["img_size"] = self.side
        try:
            made: Any = timm.create_model(name, **options).eval().requires_grad_(False)
        except (RuntimeError, TypeError, ValueError) as error:
            raise TrialError(f"timm can't make {self.model!r}: {first_line(error)}") from error
        channels, *size = made.default_cfg["input_size"]
        shape = (channels, self.side, self.side) if self.side is not None else (channels, *size)
        x = torch.randn(self.batch, *shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                made(x[:1])
        except (AssertionError, RuntimeError, ValueError) as error:
            size = " x ".join(map(str, shape[1:]))
            raise TrialError(f"{self.model} takes no pictures of {size} pixels: {first_line(error)}") from error
        return conditions.place(settle(made, x)), conditions.place(x)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Part ``NAME:OPTION=VALUE,...``.

    Raises
    ------
    TrialError
        An option has no value.
    """
    name, _, listed = text.partition(":")
    options: dict[str, Any] = {}
    for setting in filter(None, listed.split(",")):
        key, equals, value = setting.partition("=")
        if not equals:
            raise TrialError(f"{text!r}: {setting!r} is not OPTION=VALUE, as in vit_tiny_patch16_224:depth=6")
        try:
            options[key] = literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return name, options


def _has_fixed_size(name: str) -> bool:
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return config is not None and bool(config.fixed_input_size)
