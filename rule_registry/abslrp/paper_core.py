"""What every module does in the authors' first public code: the core of the rule set ``abslrp-paper``.

With ``h`` what a module returns, ``ha`` its absolute twin, and ``R`` the relevance that arrives, of either sign::

    s = R sgn(h) / (h + [h = 0] 1e-9)        sgn 0 = +1
    r+ = x * d(ha + h)/dx^T s+               r- = x * d(ha + h)/dx^T s-

``r+`` is divided by its own L1 norm and given the mass of ``R+``, ``r-`` likewise that of ``R-``, per sample. The two
are added, and the next module parts them anew. Inputs of one module share ``R+`` in the ratio of the sums of their
``r+``, and ``R-`` in that of their ``r-``.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rule_registry.batch_axis import BatchAxis
from rule_registry.call import EPSILON, Call

Pull = Callable[[Tensor], Tensor]
"""From ``s`` to the contributions ``x * d(ha + h)/dx^T s`` of an input, with as many seeds in front."""


def divided(h: Tensor, relevance: Tensor) -> Tensor:
    """Return s, ``(S, *output)``: relevance over the magnitude of an output h, ``(*output)``."""
    return relevance / torch.where(h == 0, EPSILON, h.abs())


def parts(tensor: Tensor) -> Tensor:
    """Put the negative part, with its sign, behind the positive one: ``(S, ...)`` to ``(2 S, ...)``."""
    return torch.cat([tensor.clamp(min=0), tensor.clamp(max=0)])


def both(tensor: Tensor) -> Tensor:
    """Add the two parts again: ``(2 S, ...)`` to ``(S, ...)``."""
    positive, negative = tensor.chunk(2)
    return positive + negative


def with_mass(mark: BatchAxis, contributions: Tensor, mass: Tensor) -> Tensor:
    """Divide contributions ``(2 S, *input)`` by their L1 norm per seed and sample; it becomes a mass ``(2 S, B)``."""
    norm = mark.sum(contributions.abs()) + EPSILON
    return contributions * mark.spread(mass / norm, contributions.ndim - 1)


def one_input(h: Tensor, relevance: Tensor, output: BatchAxis, source: BatchAxis, pull: Pull) -> Tensor:
    """Hand on relevance to one input.

    Parameters
    ----------
    h : Tensor
        What the module returns, ``(*output)``.
    relevance : Tensor
        What arrived there, ``(S, *output)``.
    output, source : BatchAxis
        Where the samples lie in the output and in the input.
    pull : callable
        From both parts of ``s``, ``(2 S, *output)``, to the contributions of the input, ``(2 S, *input)``.
    """
    mass = output.sum(parts(relevance)).abs()
    return both(with_mass(source, pull(parts(divided(h, relevance))), mass))


def alone(call: Call, relevance: Tensor, pull: Pull) -> Tensor:
    """Hand on the relevance of an operation with one input."""
    return one_input(call.result, relevance, call.batch, call.site.input_batch[0], pull)


def together(
    call: Call, relevance: Tensor, pulls: Sequence[Pull], constant: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Hand on the relevance of an operation with several inputs, which share each part.

    Parameters
    ----------
    call : Call
        The operation.
    relevance : Tensor
        What arrived, ``(S, *output)``.
    pulls : sequence of callable
        From both parts of ``s``, ``(2 S, *output)``, to the contributions of each activation, ``(2 S, *input)``.
    constant : callable, optional
        From the same to what a constant input contributes, ``(2 S, *output)``. Its share is lost.
    """
    s, mass = parts(divided(call.result, relevance)), call.batch.sum(parts(relevance)).abs()
    found = [pull(s) for pull in pulls]
    sums = [mark.sum(values) for mark, values in zip(call.site.input_batch, found, strict=True)]
    total = torch.stack(sums if constant is None else [*sums, call.batch.sum(constant(s))]).sum(0)
    total = torch.where(total == 0, 1.0, total)
    shares = zip(call.site.input_batch, found, sums, strict=True)
    return tuple(both(with_mass(mark, values, mass * own / total)) for mark, values, own in shares)


def affine(x: Tensor, weight: Tensor, pull: Callable[[Tensor, Tensor], Tensor]) -> Pull:
    """Contributions ``2 (x w)^+`` of a map whose twin is the same map of absolute values.

    Parameters
    ----------
    x, weight : Tensor
        The input, ``(*input)``, and what it is multiplied with, ``(out, in, ...)``.
    pull : callable
        From a weight and s to their transposed product, ``(S, *input)``.
    """
    return lambda s: x * pull(weight, s) + x.abs() * pull(weight.abs(), s)


def only_positive(call: Call, relevance: Tensor) -> Tensor:
    """Delete the relevance ``(S, *output)`` of negative entries, whose mass the others get: a twin of ``|h|``."""
    return both(of_positive(call.result, relevance, call.batch))


def of_positive(h: Tensor, relevance: Tensor, mark: BatchAxis) -> Tensor:
    """Return both parts, ``(2 S, *output)``, of what is left at positive entries of an output h, ``(*output)``."""
    kept = 2 * h.clamp(min=0) * parts(divided(h, relevance))
    return with_mass(mark, kept, mark.sum(parts(relevance)).abs())
