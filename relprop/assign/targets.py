"""What may go in: inputs, targets and contrasts are checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from relprop.errors import TargetError
from relprop.graph.graph import Graph, Marks
from rule_registry import BatchAxis, RuleSet

Target = int | Sequence[int] | Tensor | Callable[[Any], Tensor] | None
Contrast = int | Literal["rest", "default"] | None
Against = int | Literal["rest"] | None
"""A contrast that is settled: with one class, with all others, or none."""


def choose_contrast(graph: Graph, contrast: Contrast, rules: RuleSet, callable_target: bool) -> Against:
    """Settle the contrast; raise a `TargetError` where output, target and contrast do not go together."""
    shape, mark = graph.output.meta["val"].shape, graph.batch.get(graph.output)
    apart = mark is None or mark == BatchAxis(0)  # an output without a mark does not depend on the samples at all
    wanted: Against = None
    if contrast != "default":
        wanted = contrast
    elif not callable_target:
        wanted = rules.contrast
    if callable_target:
        if not apart or len(shape) != 1:
            raise TargetError(
                f"a callable target must return one number per sample, (B,), not {_layout(shape, mark)}; for example "
                "lambda output: output[:, 3:5].logsumexp(1)"
            )
        if wanted is not None:
            raise TargetError(
                f"contrast {wanted!r} needs classes; a callable target has none, so pass <contrast>", contrast="None"
            )
        return None
    if not apart or len(shape) != 2:
        raise TargetError(
            f"the output is {_layout(shape, mark)}, not (B, classes): give target a function of it that returns one "
            "number per sample, name another output with <output>, or wrap the model in a module that returns "
            "(B, classes)",
            output="...",
        )
    if wanted is not None and shape[1] == 1:
        raise TargetError(
            f"contrast {wanted!r} needs at least two classes; this model has one output: pass <contrast>",
            contrast="None",
        )
    if isinstance(wanted, int) and not 0 <= wanted < shape[1]:
        raise TargetError(f"contrast {wanted} is out of range: the model has classes 0 to {shape[1] - 1}")
    return wanted


def check_apart(classes: Tensor | None, against: Against) -> None:
    """Raise a `TargetError` where a class is to be set against itself."""
    if isinstance(against, int) and classes is not None and (classes == against).any():
        samples = (classes == against).nonzero()[:, 0].tolist()
        raise TargetError(
            f"contrast {against} is the target itself of {len(samples)} of {len(classes)} samples, the first of them "
            f"sample {samples[0]}: name another class, or another target for these"
        )


def _layout(shape: Sequence[Any], mark: Marks) -> str:
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
    device = graph.output.meta["val"].device
    if isinstance(target, bool) or (isinstance(target, Tensor) and target.dtype in (torch.bool,)):
        raise TargetError("target must be a class index, not a truth value")
    try:
        classes = torch.as_tensor(target, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"target must be a class index, or one per sample, not {target!r}") from error
    if classes.is_floating_point() or classes.is_complex():
        raise TargetError(f"target must hold whole numbers, not {classes.dtype}")
    if classes.ndim == 0:
        classes = classes.expand(batch)
    if classes.shape != (batch,):
        raise TargetError(
            f"target has shape {tuple(classes.shape)}; give one class, or one for each of {batch} samples"
        )
    count = graph.output.meta["val"].shape[1]
    wrong = classes[(classes < 0) | (classes >= count)]
    if wrong.numel():
        raise TargetError(f"target {int(wrong[0])} is out of range: the model has classes 0 to {count - 1}")
    return classes.long()
