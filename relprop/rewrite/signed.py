"""Relevance of both signs, where rules need it non-negative: its two parts flow as seeds of their own.

A rule set that conserves mass rescales what it hands on to the mass that arrived, which near zero means nothing for
a relevance whose parts cancel. So where a hook makes the relevance of S seeds negative somewhere, R+ and R- go on as
2 S non-negative flows, and what is told of them is their difference. Rules see more seeds, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def apart(relevance: Tensor) -> Tensor:
    """Put the negative parts behind the positive ones, ``(2 S, ...)``."""
    return torch.cat([relevance.clamp(min=0), relevance.clamp(max=0).neg()])


def net(flows: Tensor, seeds: int, axis: int = 0) -> Tensor:
    """Subtract the negative part of each of so many seeds; where there is none all stays as it is."""
    if flows.shape[axis] == seeds:
        return flows
    return flows.narrow(axis, 0, seeds) - flows.narrow(axis, seeds, seeds)


def gross(flows: Tensor, seeds: int, axis: int = 0) -> Tensor:
    """Add the negative part of each of so many seeds."""
    if flows.shape[axis] == seeds:
        return flows
    return flows.narrow(axis, 0, seeds) + flows.narrow(axis, seeds, seeds)


def alike(parts: Sequence[Tensor | None], axis: int = 0) -> tuple[Tensor | None, ...]:
    """Give all parts as many flows as the one with the most: no negative part is one of zero."""
    most = max(part.shape[axis] for part in parts if part is not None)

    def filled(part: Tensor | None) -> Tensor | None:
        if part is None or part.shape[axis] == most:
            return part
        missing = list(part.shape)
        missing[axis] = most - part.shape[axis]
        return torch.cat([part, part.new_zeros(missing)], axis)

    return tuple(map(filled, parts))


def together(first: Tensor, second: Tensor) -> Tensor:
    """Sum of two relevances of one node, whichever of them has a negative part."""
    a, b = alike((first, second))
    assert a is not None and b is not None  # noqa: PT018
    return a + b


def gather(*parts: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the relevances of an operation's several outputs; None where nobody used one."""
    return alike(parts)
