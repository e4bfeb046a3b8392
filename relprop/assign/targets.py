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
    """Return one class per sample, ``(B,)``; None for the largest outputs, and where the target is a function.

    Raises
    ------
    TargetError
        If it is no class, or not one per sample, or the model has no such class.
    """
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
    device, count = graph.output.meta["val"].device, graph.output.meta["val"].shape[1]
    _refuse_multi_hot(name, given, count, batch)
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
    wrong = classes[(classes < 0) | (classes >= count)]
    if wrong.numel():
        raise TargetError(f"{name} {int(wrong[0])} is out of range: the model has classes 0 to {count - 1}")
    return classes.long()


def _refuse_multi_hot(name: str, given: Any, count: int, batch: int) -> None:
    """Say what to write in place of a row of zeros and ones, which may mean any number of classes."""
    try:
        rows = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        return
    by_sample = rows.ndim == 2 and rows.shape[1] == count and count > 1
    of_all = rows.ndim == 1 and len(rows) == count and (len(rows) != batch or rows.dtype == torch.bool)
    if not (by_sample or of_all) or rows.is_complex() or not bool(((rows == 0) | (rows == 1)).all() and rows.any()):
        return
    classes = (rows[0] if by_sample else rows).nonzero()[:, 0].tolist()
    raise TargetError(
        f"{name} {tuple(rows.shape)} holds zeros and ones for all {count} classes; a class index for each sample is "
        f"meant. For the sum of these outputs write target=lambda output: output[:, {classes}].sum(1), and explain "
        "samples that have other classes by themselves; for one class after the other give these as target"
    )
