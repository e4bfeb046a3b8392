"""Other readings of what absLRP's paper leaves open, as rules to choose in place of the rule set's own.

::

    rule_registry.get("abslrp").derive({torch.ops.aten.softmax.int: rule_registry.abslrp.alternatives.softmax})

Those for sums are in `rule_registry.lrp.residuals`.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rule_registry.call import Call, Shares, denominator, share
from rule_registry.operations.linear_maps import POOLED_AXES, each


def softmax(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Softmax by first-order expansion: absLRP's formula for the contributions ``x_i z_j (1[i = j] - z_i)``.

    Of a positive logit the contribution to its own output is positive, of a negative one those to all others.
    """
    dim = call["dim"] % call.input.ndim
    x, z = call.input, call.result
    finite = torch.where(x.isinf(), 0.0, x)
    s = relevance / denominator(call, delta)
    own = z * s
    others = own.sum(dim + 1, keepdim=True) - own
    up, down = finite.clamp(min=0) * (1 - z) * own, finite.clamp(max=0) * z * others
    # Of both signs: what is positive above, and the same with the signs of the logits turned round.
    turned = finite.clamp(min=0) * z * others - finite.clamp(max=0) * (1 - z) * own
    return share(call, up - down, total=call.batch.sum(up - down + turned))


def max_pool(call: Call, relevance: Tensor) -> Shares:
    """Maximum as if it were a sum: shares in proportion to the positive part of every entry of the window."""
    dims = POOLED_AXES[call.site.op]
    kernel, padding, dilation = (each(call[name], dims) for name in ("kernel_size", "padding", "dilation"))
    stride = each(call["stride"], dims) or kernel
    x = call.input.clamp(min=0)
    sizes = zip(x.shape[-dims:], call.result.shape[-dims:], kernel, stride, dilation, padding, strict=True)
    margins: list[int] = []  # behind, as F.pad counts: from the last axis on; negative where the end is not read
    for size, outputs, reach, step, spacing, before in sizes:
        margins[:0] = [before, (outputs - 1) * step + spacing * (reach - 1) + 1 - size - before]
    channels = x.shape[-dims - 1]
    ones = x.new_ones(channels, 1, *kernel)
    sum_: Callable[..., Tensor] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dims]
    spread: Callable[..., Tensor] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[dims]
    window = {"stride": stride, "dilation": dilation, "groups": channels}
    z = sum_(F.pad(x, margins), ones, **window)
    s = relevance / z.masked_fill(z == 0, torch.inf)
    pulled = spread(s.flatten(0, -dims - 2), ones, **window).unflatten(0, s.shape[: -dims - 1])
    values = F.pad(pulled, [-margin for margin in margins]) * x
    return share(call, values, total=call.batch.sum(relevance.abs()))
