"""A general rule for operations that have none, to be chosen on purpose: absLRP's formula through the Jacobian.

The contribution of an input ``x_i`` to an output ``z_j`` of any differentiable operation is ``x_i dz_j/dx_i``, and the
formula takes what has the output's sign of each: ``sum_j (x_i dz_j/dx_i sgn z_j)^+ R_j / D_j``. A single product gives
``x_i sum_j dz_j/dx_i s_j``, in which contributions of both signs have cancelled before one could part them, and no
few products do better without knowing the operation: it takes the entries of the Jacobian themselves. They are cheap
where an operation is pointwise (`torch.Tag.pointwise`), since then each output has one entry of each input. For
anything else the Jacobian is computed row by row, samples side by side, which is exact and slow. One larger than
`ENTRIES` is an error, since an approximation would be another rule. Programs with it can't be exported.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rule_registry.call import Call, Shares, denominator, share, sum_to
from rule_registry.gradient.gradient import vector_jacobian_product
from rule_registry.orientation import orientation
from rule_registry.rule import Rule

ENTRIES = 2**26
"""Largest Jacobian, in entries per sample, that is computed."""
AT_ONCE = 2**20
"""Entries per sample that are in memory at once."""


def _positive_contribution(call: Call, relevance: Any, *, delta: float, signed: bool = True) -> Shares:
    """Contributions of its own sign to every output that has relevance, over its magnitude."""
    if torch.Tag.pointwise in call.site.op.tags:
        return _pointwise(call, relevance, delta, signed)
    inputs, marks = call.inputs, call.site.input_batch
    values = [x.new_zeros(_seeds(relevance), *x.shape) for x in inputs]
    total = values[0].new_zeros(())
    for part, s in _weighed(call, relevance, delta):
        outputs, sign = part.batch.rows(part.result).shape[1], orientation(part, signed)
        sizes = [mark.rows(x).shape[1] for mark, x in zip(marks, inputs, strict=True)]
        _check_size(call, outputs, sum(sizes))
        # Where each sample's entries lie in the flattened output: the same one of all samples makes a row.
        positions = part.batch.rows(torch.arange(s[0].numel(), device=s.device).reshape(s.shape[1:]))
        at_once = max(1, AT_ONCE // sum(sizes))
        for first in range(0, outputs, at_once):
            chosen = positions[:, first : first + at_once].T
            weights = s.flatten(1)[:, chosen]
            counts = torch.ones_like(s[0]) if sign is None else sign
            units = s.new_zeros(len(chosen), s[0].numel()).scatter(1, chosen, counts.flatten()[chosen])
            units = units.reshape(-1, *s.shape[1:])
            rows = vector_jacobian_product(call, _in_place_of(call, part, units))
            for k, (x, mark, row) in enumerate(zip(inputs, marks, rows, strict=True)):
                contributions = _contributions(x, row)
                total = total + torch.einsum("skb,kb->sb", weights, mark.sum(contributions.abs()))
                positive = contributions.clamp(min=0)
                values[k] += torch.stack([(mark.spread(seed, x.ndim) * positive).sum(0) for seed in weights])
    return share(call, *values, total=total)


positive_contribution = Rule("positive_contribution", _positive_contribution, "fallback", contributes=True)
"""absLRP's formula for any differentiable operation, exact; costs a Jacobian where that is not pointwise."""


def _pointwise(call: Call, relevance: Tensor, delta: float, signed: bool) -> Shares:
    """Share relevance of an operation whose output entries depend on one entry of each input."""
    shape, slots = call.result.shape, call.site.active
    stretched = {slot.name: call.value(slot).expand(shape) for slot in slots}
    slopes = vector_jacobian_product(
        replace(call, arguments={**call.arguments, **stretched}), torch.ones_like(call.result).unsqueeze(0)
    )
    s, sign = relevance / denominator(call, delta), orientation(call, signed)
    if sign is not None:
        slopes = tuple(slope * sign for slope in slopes)
    found = [_contributions(stretched[slot.name], slope[0]) for slot, slope in zip(slots, slopes, strict=True)]
    values = [sum_to(s * c.clamp(min=0), call.value(slot).shape) for slot, c in zip(slots, found, strict=True)]
    return share(call, *values, total=torch.stack([call.batch.dot(s, c.abs()) for c in found]).sum(0))


def _contributions(x: Tensor, slopes: Tensor) -> Tensor:
    """Return ``x_i dz_j/dx_i`` of slopes, ``(..., *input)``."""
    # Logits masked by minus infinity are constants, and have no slope.
    return torch.where(x.isinf(), 0.0, x * slopes)


def _seeds(relevance: Any) -> int:
    parts = relevance if isinstance(relevance, tuple | list) else [relevance]
    return len(next(part for part in parts if part is not None))


def _weighed(call: Call, relevance: Any, delta: float) -> Iterator[tuple[Call, Tensor]]:
    """Yield the call as if it had returned one tensor, for each that has relevance, and its ``s``, ``(S, *part)``."""
    marks = call.site.output_batch
    if not isinstance(marks, tuple):
        yield call, relevance / denominator(call, delta)
        return
    for output, mark, arrived in zip(call.output, marks, relevance, strict=True):
        if arrived is not None and mark is not None:
            part = replace(call, site=replace(call.site, output_batch=mark), output=output)
            yield part, arrived / denominator(part, delta)


def _in_place_of(call: Call, part: Call, units: Tensor) -> Any:
    """Put ``units``, ``(K, *part)``, in the place of the relevance of one output, and None in that of the others."""
    if not isinstance(call.output, tuple | list):
        return units
    return tuple(units if output is part.output else None for output in call.output)


def _check_size(call: Call, outputs: int, inputs: int) -> None:
    if outputs * inputs > ENTRIES:
        raise NotImplementedError(
            f"{call.site.op} at {call.site.path!r} has {outputs} outputs and {inputs} inputs per sample: the rule "
            f"positive_contribution needs its whole Jacobian, and computes none of more than {ENTRIES} entries. Give "
            "the operation a rule of its own, or tag it torch.Tag.pointwise if each output depends on one entry of "
            "each input"
        )
