"""The gradient at looked-up values by autograd, which integers have none of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from relprop.assign.plan import Plan
from relprop.assign.targets import Target
from relprop.tracing.inputs import Inputs


def looked_up_totals(plan: Plan, inputs: Inputs, target: Target) -> Tensor:
    """Return gradient times value at all looked-up values, summed for each sample, ``(B,)``.

    It is autograd's on the graph's own forward pass, which was compared with the model's when it was captured.
    """
    found: dict[fx.Node, tuple[Tensor, Tensor]] = {}

    class Forward(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            if node not in plan.lookups.values:
                return value
            scale = torch.ones(inputs.batch_size, dtype=value.dtype, device=value.device, requires_grad=True)
            found[node] = scale, value
            return value.detach() * plan.graph.axis(node).spread(scale, value.ndim)

    with torch.enable_grad():
        result = Forward(plan.graph.module(), graph=plan.graph.graph).run(*inputs.tensors)
        chosen = result.gather(1, target[:, None]) if isinstance(target, Tensor) else result
        scales = [scale for scale, _ in found.values()]
        gradients = torch.autograd.grad(chosen.sum(), scales, allow_unused=True)
    return torch.stack([s.new_zeros(s.shape) if g is None else g for s, g in zip(scales, gradients, strict=True)]).sum(
        0
    )
