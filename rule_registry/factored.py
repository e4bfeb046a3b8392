"""Relevance that is not multiplied out: a value, and the gradient it is multiplied with.

A rule that shares in proportion to contributions ends with a product with its input. The next rule, whose output that
input is, begins with a division by it. Without the product, one factor ``|z| / (|z| + epsilon)`` takes the place of
both, and a sum hands the same gradient to all its terms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Factored:
    """Relevance ``value * gradient`` at one place of a model.

    Parameters
    ----------
    value : Tensor
        ``(*activation)``.
    gradient : Tensor
        ``(S, *activation)``.
    own : bool
        Whether each entry of the value is that of the activation itself, or zero. It is not where relevance passed a
        function of single entries on its way.
    mass : Tensor, optional
        ``(S, B)``, sum of the relevance per seed and sample, where it is measured.
    """

    value: Tensor
    gradient: Tensor
    own: bool = True
    mass: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the relevance, ``(S, *activation)``."""
        return tuple(self.gradient.shape)

    def __len__(self) -> int:
        return len(self.gradient)


def whole(relevance: Any) -> Any:
    """Multiply out, which makes a tensor ``(S, *activation)``; of a tuple each part."""
    if isinstance(relevance, Factored):
        return relevance.gradient * relevance.value
    return tuple(map(whole, relevance)) if isinstance(relevance, tuple) else relevance


def behind_function(relevance: T) -> T:
    """Return a relevance that passed a function, whose input has other values than its output."""
    return replace(relevance, own=False) if isinstance(relevance, Factored) else relevance


def plus(first: Tensor | Factored, second: Tensor | Factored) -> Tensor | Factored:
    """Sum of two relevances of one activation, ``(S, *activation)``; of the same value, the gradients are summed."""
    if isinstance(first, Factored) and isinstance(second, Factored) and first.value is second.value:
        masses = first.mass, second.mass
        mass = None if masses[0] is None or masses[1] is None else masses[0] + masses[1]
        return Factored(first.value, first.gradient + second.gradient, first.own and second.own, mass)
    total: Tensor = whole(first) + whole(second)
    return total
