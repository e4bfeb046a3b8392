"""Transposed products of affine operations: what every rule multiplies its inputs by.

Each takes a call and what stands in the place of its output, ``(S, *output)``, and returns ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rule_registry.call import Call
from rule_registry.memory_layout import layout

aten = torch.ops.aten

TRANSPOSED_CONVOLUTIONS = (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)
CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
    *TRANSPOSED_CONVOLUTIONS,
)
"""Convolutions and transposed convolutions in any number of dimensions."""
LAYERS = (aten.linear.default, *CONVOLUTIONS)
"""Operations with a weight."""

POOLED_AXES = {
    getattr(aten, name.format(axes)).default: axes
    for name in (
        "avg_pool{}d",
        "adaptive_avg_pool{}d",
        "max_pool{}d",
        "max_pool{}d_with_indices",
        "adaptive_max_pool{}d",
    )
    for axes in (1, 2, 3)
}
"""How many axes each pooling pools. In front of them are samples and channels, or one axis of both alone."""


def convolution(call: Call, weight: Tensor, s: Tensor) -> Tensor:
    """Transpose a convolution with a weight in place of its own, which may have other input channels.

    From ``(S, B, C_out, ...)`` to ``(S, B, C_in, ...)``, with the input channels of the weight.
    """
    x, arguments = call["input"], call.arguments
    dims = weight.ndim - 2
    stride, dilation = each(call["stride"], dims), each(call["dilation"], dims)
    padding = call["padding"]
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        widths = reach if padding == "same" else [0] * dims
        padding = [(width + 1) // 2 for width in widths]
        if any(width % 2 for width in widths):
            # "same" pads the odd entry behind: as a padding on both sides that is one entry too many in front,
            # and so one output too many there, at which no relevance arrived.
            s = F.pad(s, [side for width in reversed(widths) for side in (width % 2, 0)])
    padding = each(padding, dims)
    transposes = "output_padding" in arguments
    if {*weight.shape[2:]} == {1} and call["groups"] == 1 and not any(padding) and not transposes:
        pointwise = _pointwise(weight.flatten(1), s)
        return pointwise if {*stride} == {1} else _spaced(pointwise, stride, x)
    merged = s.flatten(0, 1)
    channels = weight.shape[0] if transposes else weight.shape[1] * call["groups"]
    like = _empty_like(x, len(s), channels).flatten(0, 1)  # for its shape and layout alone
    pulled, _, _ = aten.convolution_backward(
        merged,
        like,
        weight,
        None,
        stride,
        padding,
        dilation,
        transposes,
        each(arguments.get("output_padding", 0), dims),
        call["groups"],
        [True, False, False],
    )
    product: Tensor = pulled.unflatten(0, (s.shape[0], -1))
    return product


def kernel(call: Call, x: Tensor, s: Tensor) -> Tensor:
    """Transpose a convolution as a function of its weight, with an input in place of its own; ``(S, *weight)``.

    Raises
    ------
    NotImplementedError
        If its padding is given in words.
    """
    weight, arguments = call["weight"], call.arguments
    if isinstance(call["padding"], str):
        raise NotImplementedError(
            f"{call.site.op} at {call.site.path!r} has a computed weight and padding={call['padding']!r}: pad by number"
        )
    dims = weight.ndim - 2
    settings = [each(call[name], dims) for name in ("stride", "padding", "dilation")]
    rest = ("output_padding" in arguments, each(arguments.get("output_padding", 0), dims), call["groups"])
    found = [aten.convolution_backward(seed, x, weight, None, *settings, *rest, [False, True, False])[1] for seed in s]
    return torch.stack(found)


def _empty_like(x: Tensor, seeds: int, channels: int) -> Tensor:
    """Return memory for relevances ``(S, B, channels, ...)`` that are laid out like an activation ``(B, C, ...)``."""
    sizes = (seeds * x.shape[0], channels, *x.shape[2:])
    flat = torch.empty(sizes, dtype=x.dtype, device=x.device, memory_format=layout(x))
    memory: Tensor = flat.unflatten(0, (seeds, -1))
    return memory


def _pointwise(weight: Tensor, s: Tensor) -> Tensor:
    """Transpose a product with all channels at each position: by ``(C_out, C_in)`` to ``(S, B, C_in, ...)``."""
    if layout(s[0]) == torch.contiguous_format:
        # One product for each sample takes no longer than the general kernel (benchmarks choices: pointwise).
        product: Tensor = (weight.T @ s.flatten(3)).unflatten(3, s.shape[3:])
        return product
    return linear(weight, s.movedim(2, -1)).movedim(-1, 2)


def _spaced(tensor: Tensor, stride: Sequence[int], x: Tensor) -> Tensor:
    """Put entries ``(S, B, C, ...)`` at every so many positions of each spatial axis of x, and zeros between them."""
    spaced = _empty_like(x, tensor.shape[0], tensor.shape[2]).zero_()
    spaced[(slice(None),) * 3 + tuple(slice(None, None, step) for step in stride)] = tensor
    return spaced


def layer(call: Call, weight: Tensor, s: Tensor) -> Tensor:
    """Transpose a fully connected or convolutional layer, with a weight in place of its own."""
    return linear(weight, s) if call.site.op == aten.linear.default else convolution(call, weight, s)


def linear(weight: Tensor, s: Tensor) -> Tensor:
    """Transpose a fully connected layer with a weight ``(C_out, C_in)`` in place of its own: to ``(S, ..., C_in)``.

    It is one product over all rows. Where these are not one block of memory, torch would compute one for each sample.
    """
    product: Tensor = (s.flatten(0, -2) @ weight).unflatten(0, s.shape[:-1])
    return product


def each(value: Any, dims: int) -> list[int]:
    """Return a setting for each axis, which may be given once for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def avg_pool(call: Call, s: Tensor) -> Tensor:
    """Transpose an average pooling in one to three dimensions."""
    windows = [list(call[name]) for name in ("kernel_size", "stride", "padding")]
    modes = (call["ceil_mode"], call["count_include_pad"], call.arguments.get("divisor_override"))
    axes = POOLED_AXES[call.site.op]
    if axes == 1:  # two, the first of which is one entry high
        windows = [[neutral, *window] if window else [] for neutral, window in zip((1, 1, 0), windows, strict=True)]
    backward = aten.avg_pool3d_backward if axes == 3 else aten.avg_pool2d_backward
    return _pooled(call, s, backward, *windows, *modes)


def adaptive_avg_pool(call: Call, s: Tensor) -> Tensor:
    """Transpose an average pooling to a given size."""
    three = POOLED_AXES[call.site.op] == 3
    return _pooled(call, s, aten._adaptive_avg_pool3d_backward if three else aten._adaptive_avg_pool2d_backward)


def _pooled(call: Call, s: Tensor, backward: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Apply torch's own transpose of a pooling, with the seeds merged into the batch."""
    axes = POOLED_AXES[call.site.op]
    merged, shape = s.flatten(0, -axes - 2), call.input.shape[-axes - 1 :]
    if axes == 1:
        merged, shape = merged.unsqueeze(2), torch.Size([shape[0], 1, shape[1]])
    like = call.input.new_empty(1).expand(merged.shape[0], *shape)
    return backward(merged, like, *arguments).reshape(s.shape[0], *call.input.shape)


def mean(call: Call, s: Tensor) -> Tensor:
    """Transpose a mean over some axes."""
    return total(call, s) / (call.input.numel() // call.result.numel())


def total(call: Call, s: Tensor) -> Tensor:
    """Transpose a sum over some axes: give them back."""
    shape = call.input.shape
    if not call.arguments.get("keepdim"):
        dims = call.arguments.get("dim")
        dims = range(len(shape)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        for d in sorted(d % len(shape) for d in dims):
            s = s.unsqueeze(d + 1)
    return s.expand(s.shape[0], *shape)


def cumulated(call: Call, s: Tensor) -> Tensor:
    """Transpose a running sum: sum from the end."""
    dim = call["dim"] % call.input.ndim + 1
    return s.flip(dim).cumsum(dim).flip(dim)


def folded(call: Call, s: Tensor) -> Tensor:
    """Transpose the sum of overlapping patches: cut them out."""
    windows = (call[name] for name in ("kernel_size", "dilation", "padding", "stride"))
    patches: Tensor = aten.im2col(s.flatten(0, 1), *windows)
    return patches.reshape(s.shape[0], *call.input.shape)


def interpolation_weights(call: Call) -> list[Tensor]:
    """Weights of an interpolation along each axis, ``(out, in)``: the operation on that axis' unit vectors.

    They are laid out along the last axis in every case: torch's antialiasing kernels return wrong values for
    images that are one entry wide, not for those that are one entry high.
    """
    return [_axis_weights(call, axis) for axis in range(call.input.ndim - 2)]


def _axis_weights(call: Call, axis: int) -> Tensor:
    """Return the weights of an interpolation along one axis, ``(out, in)``."""
    size, flat = call.input.shape[2 + axis], [1] * (call.input.ndim - 3)
    units = torch.eye(size, dtype=call.input.dtype, device=call.input.device).reshape(size, 1, *flat, size)
    arguments = {**call.arguments, "input": units}
    factors, target = arguments["scale_factors"], arguments["output_size"]
    if target is not None:
        arguments["output_size"] = [*flat, target[axis]]
    if factors is not None:
        arguments["scale_factors"] = [*map(float, flat), factors[axis]]
    response: Tensor = call.site.op(**arguments)
    return response.reshape(size, -1).T


def interpolated(weights: Sequence[Tensor], s: Tensor) -> Tensor:
    """Transpose an interpolation: the product with the weights ``(out, in)`` of each axis in turn."""
    *others, last = weights
    for axis, weight in enumerate(others, start=-1 - len(others)):
        s = (weight.T @ s.movedim(axis, -2)).movedim(-2, axis)
    return s @ last


def interpolation(call: Call, s: Tensor) -> Tensor:
    """Transpose an interpolation."""
    return interpolated(interpolation_weights(call), s)


AVERAGES: dict[Any, Callable[[Call, Tensor], Tensor]] = {
    aten.avg_pool1d.default: avg_pool,
    aten.avg_pool2d.default: avg_pool,
    aten.avg_pool3d.default: avg_pool,
    aten.adaptive_avg_pool1d.default: adaptive_avg_pool,
    aten.adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten.adaptive_avg_pool3d.default: adaptive_avg_pool,
    aten.mean.dim: mean,
    aten.mean.default: mean,
    aten.sum.dim_IntList: total,
    aten.sum.default: total,
    aten.cumsum.default: cumulated,
    aten.col2im.default: folded,
    aten.upsample_nearest1d.vec: interpolation,
    aten.upsample_nearest2d.vec: interpolation,
    aten.upsample_nearest3d.vec: interpolation,
    aten._upsample_nearest_exact1d.vec: interpolation,
    aten._upsample_nearest_exact2d.vec: interpolation,
    aten._upsample_nearest_exact3d.vec: interpolation,
    aten.upsample_linear1d.vec: interpolation,
    aten.upsample_bilinear2d.vec: interpolation,
    aten.upsample_trilinear3d.vec: interpolation,
    aten._upsample_bilinear2d_aa.vec: interpolation,
}
"""Transposes of sums whose weights are never negative: averages, running sums, interpolation."""

BICUBIC = (aten.upsample_bicubic2d.vec, aten._upsample_bicubic2d_aa.vec)
"""Interpolation whose weights have both signs."""
