"""Targets: one class per sample, or a function of the output, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.errors import TargetError
from relprop.graph.graph import Graph, Marks
from rule_registry import BatchAxis

Target = int | Sequence[int] | Tensor | Callable[[Any], Tensor] | None


def layout(shape: Sequence[Any], mark: Marks) -> str:
    """Write a shape with B for the batch, and say where the samples are if they are not along the first axis alone."""
    sizes, where = [str(size) if isinstance(size, int) else "B" for size in shape], ""
    if isinstance(mark, BatchAxis) and mark != BatchAxis(0):
        each = mark.factor * mark.outer
        what = "the samples" if each == 1 else f"{each} entries for each sample"
        sizes[mark.axis] = "B" if each == 1 else f"{each} B"
        where = f" with {what} along axis {mark.axis}"
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''}){where}"


def target_classes(graph: Graph, target: Target, batch: int) -> Tensor | None:
    """Return one class per sample, None for the largest outputs, or raise one clear `TargetError`."""
    if target is None or callable(target):
        return None
    return check_classes("target", target, graph, batch)


def check_classes(name: str, given: Any, graph: Graph, batch: int) -> Tensor:
    """Return one class per sample, ``(B,)``, of what was given for the option of that name.

    Raises
    ------
    TargetError
        If it is no class, or not one per sample, or the model has no such class.
    """
    device = graph.output.meta["val"].device
    if isinstance(given, bool) or (isinstance(given, Tensor) and given.dtype in (torch.bool,)):
        raise TargetError(f"{name} must be a class index, not a truth value")
    try:
        classes = torch.as_tensor(given, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"{name} must be a class index, or one per sample, not {given!r}") from error
    if classes.is_floating_point() or classes.is_complex():
        raise TargetError(f"{name} must hold whole numbers, not {classes.dtype}")
    if classes.ndim == 0:
        classes = classes.expand(batch)
    if classes.shape != (batch,):
        raise TargetError(
            f"{name} has shape {tuple(classes.shape)}; give one class, or one for each of {batch} samples"
        )
    count = graph.output.meta["val"].shape[1]
    wrong = classes[(classes < 0) | (classes >= count)]
    if wrong.numel():
        raise TargetError(f"{name} {int(wrong[0])} is out of range: the model has classes 0 to {count - 1}")
    return classes.long()
