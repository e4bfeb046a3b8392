"""Rules for torchvision's operations on boxes; imported where torchvision is.

All are linear in the features, or choose among them. Where they look is held, as the positions of a sampling grid are:
boxes receive nothing.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, share
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import stabilised
from rule_registry.orientation import halves, orientation
from rule_registry.registry import register

ops = torch.ops.torchvision

AVERAGES = (ops.roi_align.default, ops.ps_roi_align.default, ops.ps_roi_pool.default)
"""Averages over cells of boxes, whose weights are never negative."""
MAXIMA = (ops.roi_pool.default,)


def _features(call: Call) -> Tensor:
    """Return the features that boxes are cut from, ``(B, C, H, W)``.

    Raises
    ------
    NotImplementedError
        If it is constant.
    """
    if not call.is_active("input"):
        raise NotImplementedError(
            f"{call.site.op} at {call.site.path!r} reads a constant where an activation says: its rule holds the "
            "positions, so that nothing is left to hand relevance to"
        )
    x: Tensor = call["input"]
    return x


def _first(relevance: Tensor | Sequence[Tensor | None]) -> Tensor:
    """Return the relevance ``(S, *output)`` of the first of several outputs: the others are positions."""
    found = relevance if isinstance(relevance, Tensor) else relevance[0]
    assert found is not None
    return found


def _with_nothing(call: Call, values: Tensor) -> list[Tensor]:
    """Return the relevance of the features, ``(S, B, C, H, W)``, and zeros for whatever else is an activation."""
    return [
        values if slot.name == "input" else values.new_zeros(len(values), *call.value(slot).shape)
        for slot in call.site.active
    ]


def _by_seed(pull: Callable[[Tensor], Tensor], s: Tensor) -> Tensor:
    """Apply a transpose that knows no seeds, ``(*output)`` to ``(*input)``, to each of them, and stack."""
    return torch.stack([pull(part.contiguous()) for part in s])


def _from_boxes(call: Call, s: Tensor) -> Tensor:
    """Transpose the average, or the choice, of each cell: ``(S, boxes, C, h, w)`` to ``(S, B, C, H, W)``."""
    op, (batch, channels, height, width) = call.site.op, _features(call).shape
    sizes = (call["spatial_scale"], call["pooled_height"], call["pooled_width"])
    shape = (batch, channels, height, width)
    rois = call["rois"]
    if op == ops.roi_align.default:
        last = (call["sampling_ratio"], call["aligned"])
        return _by_seed(lambda part: ops._roi_align_backward(part, rois, *sizes, *shape, *last), s)
    places = call.output[1]
    if op == ops.ps_roi_align.default:
        ratio = call["sampling_ratio"]
        return _by_seed(lambda part: ops._ps_roi_align_backward(part, rois, places, *sizes, ratio, *shape), s)
    backward = ops._ps_roi_pool_backward if op == ops.ps_roi_pool.default else ops._roi_pool_backward
    return _by_seed(lambda part: backward(part, rois, places, *sizes, *shape), s)


@register(ABSLRP, *AVERAGES, picks=True, contributes=True)
def averaged_in_boxes(call: Call, relevance: Tensor | Sequence[Tensor | None], *, delta: float, signed: bool) -> Shares:
    """Average of each cell of a box: ``x^+ W^T s^+ + |x^-| W^T s^-``."""
    x, sign = _features(call), orientation(call, signed)
    s = _first(relevance) / denominator(call, delta)
    if sign is None:
        values = _from_boxes(call, s) * x.clamp(min=0)
    else:
        raised, lowered = halves(s, sign)
        values = _from_boxes(call, raised) * x.clamp(min=0) - _from_boxes(call, lowered) * x.clamp(max=0)
    total = call.site.input_batch[0].sum(_from_boxes(call, s) * x.abs())
    return share(call, *_with_nothing(call, values), total=total)


@register(EPSILON, *AVERAGES, picks=True)
def proportional_in_boxes(
    call: Call, relevance: Tensor | Sequence[Tensor | None], *, stabilizer: float
) -> Sequence[Tensor]:
    """Average of each cell of a box: in proportion to the weighted features."""
    s = _first(relevance) / stabilised(call.result, stabilizer)
    return _with_nothing(call, _from_boxes(call, s) * _features(call))


@register(ABSLRP, *MAXIMA, picks=True, contributes=True)
@register(EPSILON, *MAXIMA, picks=True)
def largest_in_boxes(call: Call, relevance: Tensor | Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Maximum of each cell of a box: to the largest entry."""
    return _with_nothing(call, _from_boxes(call, _first(relevance)))
