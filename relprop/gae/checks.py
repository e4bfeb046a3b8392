"""Checks of pictures, classes and maps, before anything is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from relprop.errors import InputError, RelpropError, TargetError

Model = Callable[[Tensor], Tensor]
"""Anything that turns pictures ``(B, C, H, W)`` into logits ``(B, classes)``."""
Target = int | Sequence[int] | Tensor | None


class MapError(RelpropError, ValueError):
    """A relevance map can't be scored: wrong type, wrong shape, not finite."""


def check_model(model: Model) -> None:
    """Refuse a module in training mode: its outputs depend on the batch, or on chance."""
    if not callable(model):
        raise InputError(f"the model must be a callable of a batch of pictures, not a {type(model).__name__}")
    if isinstance(model, nn.Module) and model.training:
        raise InputError("the model is in training mode; call model.eval() first")


def check_pictures(x: Tensor) -> Tensor:
    """Return finite pictures ``(B, C, H, W)`` without their history."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"pictures must be a floating-point tensor, normalised as the model expects, not {kind}")
    if x.ndim != 4 or x.numel() == 0:
        raise InputError(f"pictures must be (B, C, H, W) with no axis empty, not {tuple(x.shape)}")
    bad = int((~x.isfinite()).sum())
    if bad:
        raise InputError(f"the pictures have {bad} of {x.numel()} values that are NaN or infinite")
    return x.detach()


def check_fours(count: int) -> None:
    """Refuse a batch that can't be cut into mosaics."""
    if count == 0 or count % 4:
        raise InputError(f"mosaics are made of four pictures each, so a batch holds a multiple of four, not {count}")


def check_size(size: Sequence[int]) -> tuple[int, int]:
    """Return height and width, at least two each: less has no quadrants."""
    height, width = size
    if min(height, width) < 2:
        raise InputError(f"a mosaic needs a height and a width of at least 2, not {height} x {width}")
    return height, width


def check_output(output: Tensor, batch: int) -> Tensor:
    """Return finite logits ``(B, classes)`` in float32 or wider."""
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != batch:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"the model must return logits ({batch}, classes), not {found}")
    if not output.isfinite().all():
        raise InputError("the model's output is NaN or infinite for some of the pictures")
    return wide(output)


def check_target(target: Target, output: Tensor) -> Tensor:
    """Return one class per sample, ``(B,)``; the largest output where none is given."""
    if target is None:
        return output.argmax(1)
    classes = torch.as_tensor(target, device=output.device)
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TargetError(f"target must hold class indices, not {classes.dtype}")
    if classes.ndim == 0:
        classes = classes.expand(len(output))
    if classes.shape != output.shape[:1]:
        raise TargetError(
            f"target has shape {tuple(classes.shape)}; give one class, or one for each of {len(output)} samples"
        )
    wrong = classes[(classes < 0) | (classes >= output.shape[1])]
    if wrong.numel():
        raise TargetError(f"target {int(wrong[0])} is out of range: there are classes 0 to {output.shape[1] - 1}")
    return classes.long()


def check_map(relevance: Tensor, lead: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return a finite map in float32 or wider, with a channel axis: ``(*lead, C, H, W)``."""
    if not isinstance(relevance, Tensor):
        raise MapError(f"a relevance map must be a tensor, not a {type(relevance).__name__}")
    front, rank = tuple(lead), len(lead)
    if relevance.shape == (*front, *size):
        relevance = relevance.unsqueeze(rank)
    fits = relevance.ndim == rank + 3 and relevance.shape[rank] > 0
    if not fits or relevance.shape[:rank] != front or relevance.shape[-2:] != tuple(size):
        wanted = ", ".join(map(str, (*front, "C", *size)))
        plain = ", ".join(map(str, (*front, *size)))
        raise MapError(f"the relevance map has shape {tuple(relevance.shape)}, not ({wanted}) or ({plain})")
    if relevance.is_complex():
        raise MapError(f"the relevance map must hold real numbers, not {relevance.dtype}")
    relevance = wide(relevance.detach())
    bad = ~relevance.isfinite()
    if bad.any():
        sample = int(bad.flatten(1).any(1).nonzero()[0])
        raise MapError(f"the map of sample {sample} holds NaN or infinite values ({int(bad.sum())} in all)")
    return relevance


def wide(values: Tensor) -> Tensor:
    """Return values of any shape in float32 or wider, whatever the model's precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
