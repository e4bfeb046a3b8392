"""Interpolation: separable, so its weights are one small matrix per axis."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call, Shares, denominator, share
from rule_registry.registry import register

aten = torch.ops.aten


@register(
    "abslrp",
    aten.upsample_nearest2d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bicubic2d.vec,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.vec,
)
def interpolate(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Two-dimensional interpolation, bicubic's negative weights included."""
    x, s = call.input, relevance / denominator(call, delta)
    rows, columns = _weights(call, 0), _weights(call, 1)
    row, column = (rows.clamp(min=0), rows.clamp(max=0)), (columns.clamp(min=0), columns.clamp(max=0))

    def pull(*pairs: tuple[Tensor, Tensor]) -> Tensor:
        products = [a.T @ s @ b for a, b in pairs]
        return torch.stack(products).sum(0)

    values = pull((row[0], column[0]), (row[1], column[1])) * x.clamp(min=0)
    if not call.site.nonnegative[0]:
        values = values + pull((row[0], column[1]), (row[1], column[0])) * x.clamp(max=0)
    return share(call, values, net=call.batch.dot(s, call.result))


def _weights(call: Call, axis: int) -> Tensor:
    """Weights along one axis, ``(out, in)``: the operation on that axis' unit vectors.

    They are laid out along the last axis in either case: torch's antialiasing kernels return wrong values for
    images that are one entry wide, not for those that are one entry high.
    """
    size = call.input.shape[2 + axis]
    units = torch.eye(size, dtype=call.input.dtype, device=call.input.device).reshape(size, 1, 1, size)
    arguments = {**call.arguments, "input": units}
    factors, target = arguments["scale_factors"], arguments["output_size"]
    if target is not None:
        arguments["output_size"] = [1, target[axis]]
    if factors is not None:
        arguments["scale_factors"] = [1.0, factors[axis]]
    response: Tensor = call.site.op(**arguments)
    return response.reshape(size, -1).T
