"""Variance and standard deviation as outputs of their own: ``x_i dz/dx_i`` parts into a product and a factor."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call

aten = torch.ops.aten

VARIANCES = (aten.var.default, aten.var.dim, aten.var.correction)
DEVIATIONS = (aten.std.default, aten.std.dim, aten.std.correction)


def degree(call: Call) -> int:
    """Sum of all contributions over the output: a variance is quadratic, a deviation linear in the activation."""
    return 2 if call.site.op in VARIANCES else 1


def products(call: Call) -> Tensor:
    """Return ``x_i (x_i - mean)``, to which contributions are in proportion."""
    x = call.input
    dims = call.arguments.get("dim")
    return x * (x - (x.mean() if not dims else x.mean(dims, keepdim=True)))


def factor(call: Call) -> Tensor:
    """Return what the products are multiplied with, one number for each output."""
    z = call.result
    count = call.input.numel() // z.numel()
    correction = call.arguments.get("correction", int(call.arguments.get("unbiased", True)))
    freedom = count - (1 if correction is None else correction)
    if call.site.op in VARIANCES:
        return torch.full_like(z, 2 / freedom)
    return torch.where(z == 0, 0.0, 1 / (freedom * z))
