"""Exported programs: loading them, and finding out what pictures they take."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from relprop.models.classifier import Loaded, ModelError
from relprop.models.loaders.weights import WeightsError
from relprop.models.preprocessing import Preprocessing, assume_imagenet, blank_input
from relprop.tracing.loading import load_exported
from relprop.tracing.outputs import choose_output


def is_program(name: str) -> bool:
    """Whether a model's name is the path of an exported program."""
    return Path(name).suffix.lower() == ".pt2"


def load_program(
    name: str, weights: Path | None, chosen: Preprocessing | None, trust: bool, output: str | None = None
) -> Loaded:
    """Load a ``.pt2`` file.

    Raises
    ------
    CaptureError
        It is missing, is no exported program, or is not trusted.
    ModelError
        It is no classifier of pictures; see `inspect_program`.
    WeightsError
        Weights are given as well.
    """
    if weights is not None:
        raise WeightsError(f"{name} carries its own weights: leave out --weights {weights}")
    with _quiet_export():
        program = load_exported(name, trust=trust)
    return inspect_program(name, program, chosen, f"file {name}", output)


def inspect_program(
    name: str, program: ExportedProgram, chosen: Preprocessing | None, origin: str, output: str | None = None
) -> Loaded:
    """Find out what an exported program takes and returns.

    Raises
    ------
    ModelError
        It takes anything but one float32 batch (B, C, height, width) with a dynamic first axis, or pictures of
        another size than they are prepared at, or returns anything but (B, classes).
    """
    inputs = _values(program, program.graph_signature.user_inputs)
    returned = _values(program, program.graph_signature.user_outputs)
    if output is not None:
        returned = [choose_output(pytree.tree_unflatten(returned, program.call_spec.out_spec), output)[0]]
    one = len(inputs) == 1 and inputs[0].ndim == 4 and inputs[0].dtype == torch.float32
    if not one or not isinstance(inputs[0].shape[1], int):
        raise ModelError(f"{name} takes {_describe(inputs)}, not one float32 batch of pictures (B, channels, h, w)")
    batch, channels, *sizes = inputs[0].shape
    if isinstance(batch, int):
        raise ModelError(
            f"{name} is fixed at a batch of {batch}: export it with a dynamic batch axis and at least two samples, "
            'as in torch.export.export(model, (x,), dynamic_shapes=({0: Dim("batch")},))'
        )
    if len(returned) != 1 or returned[0].ndim != 2 or not isinstance(returned[0].shape[1], int):
        raise ModelError(f"{name} returns {_describe(returned)}, not one tensor (B, classes)")
    height, width = (n if isinstance(n, int) else seen for n, seen in zip(sizes, _example_size(program), strict=True))
    preprocessing = (chosen or assume_imagenet(height, width)).with_channels(channels)
    given = blank_input(preprocessing).shape[1:]
    if any(isinstance(n, int) and n != m for n, m in zip(sizes, given, strict=True)):
        raise ModelError(
            f"{name} takes pictures of {width} x {height}, its preprocessing makes {given[1]} x {given[0]}"
        )
    return Loaded(name, program, preprocessing, origin, returned[0].shape[1])


def _example_size(program: ExportedProgram) -> tuple[int, int]:
    """Return height and width of the pictures that a program was exported with."""
    given = pytree.tree_leaves(program.example_inputs)
    return next(((x.shape[2], x.shape[3]) for x in given if isinstance(x, Tensor) and x.ndim == 4), (224, 224))


def _values(program: ExportedProgram, names: Iterable[Any]) -> list[Tensor]:
    """Return inputs or outputs of a program, as tensors of their shapes without values; others are left out."""
    nodes = {node.name: node for node in program.graph.nodes}
    values = (nodes[name].meta.get("val") for name in names if name in nodes)
    return [value for value in values if isinstance(value, Tensor)]


def _describe(tensors: Iterable[Tensor]) -> str:
    """Write shapes and number types, with B for what is not fixed: ``(B, 3, 224, 224) float32``."""
    parts = (
        f"({', '.join(str(n) if isinstance(n, int) else 'B' for n in t.shape)}) {str(t.dtype).removeprefix('torch.')}"
        for t in tensors
    )
    return " and ".join(parts) or "no tensor"


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Keep PyTorch from logging the stack trace of an error that is raised all the same."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
