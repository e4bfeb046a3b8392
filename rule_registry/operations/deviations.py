"""Variances, deviations and lengths as outputs of their own: ``x_i dz/dx_i`` parts into a product and a factor.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rule_registry.call import Call

aten = torch.ops.aten

VARIANCES = (aten.var.default, aten.var.dim, aten.var.correction)
DEVIATIONS = (aten.std.default, aten.std.dim, aten.std.correction)
LENGTHS = (aten.linalg_vector_norm.default,)
SPREADS = (*VARIANCES, *DEVIATIONS, *LENGTHS)


def degree(call: Call) -> int:
    """Sum of all contributions over the output: a variance is quadratic, the others linear in the activation."""
    return 2 if call.site.op in VARIANCES else 1


def products(call: Call) -> Tensor:
    """Return what contributions are in proportion to, ``(*input)``: ``x_i (x_i - mean)``, of a p-norm ``|x_i|^p``."""
    x = call.input
    if call.site.op in LENGTHS:
        return x.abs() ** _power(call)
    dims = call.arguments.get("dim")
    return x * (x - (x.mean() if not dims else x.mean(dims, keepdim=True)))


def factor(call: Call) -> Tensor:
    """Return what the products are multiplied with, one number for each output: ``(*output)``."""
    z = call.result
    if call.site.op in LENGTHS:
        return torch.where(z == 0, 0.0, z ** (1 - _power(call)))
    count = call.input.numel() // z.numel()
    correction = call.arguments.get("correction", int(call.arguments.get("unbiased", True)))
    freedom = count - (1 if correction is None else correction)
    if call.site.op in VARIANCES:
        return torch.full_like(z, 2 / freedom)
    return torch.where(z == 0, 0.0, 1 / (freedom * z))


def _power(call: Call) -> float:
    power = float(call["ord"])
    if not 0 < power < math.inf:
        raise NotImplementedError(
            f"{call.site.op} at {call.site.path!r} has ord={power:g}: its rule is for positive finite ones"
        )
    return power
