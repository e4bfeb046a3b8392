"""The one formula of all rules for layers with a weight: modify, divide, multiply with the transpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rule_registry import transposed
from rule_registry.call import Call


@dataclass(frozen=True)
class Term:
    """A layer with another input, weight and bias; the input may be one that broadcasts."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """Return ``z + epsilon sign z``, where zero counts as positive; without epsilon nothing is shared at a zero."""
    if epsilon == 0:
        return torch.where(z == 0, torch.inf, z)
    return torch.where(z < 0, z - epsilon, z + epsilon)


def shares(call: Call, relevance: Tensor, terms: Sequence[Term], epsilon: float) -> Tensor:
    """Divide relevance in proportion to the contributions of modified layers, taken together.

    Parameters
    ----------
    call : Call
        Of a fully connected or convolutional layer.
    relevance : Tensor
        ``(S, *output)``.
    terms : sequence of Term
        The modified layers, whose outputs are summed.
    epsilon : float
        The stabiliser of their sum.
    """
    z = torch.stack([_output(call, term) for term in terms]).sum(0) if len(terms) > 1 else _output(call, terms[0])
    return pulled(call, relevance / stabilised(z, epsilon), terms)


def pulled(call: Call, s: Tensor, terms: Sequence[Term]) -> Tensor:
    """Multiply what stands in the place of the output with each transposed weight and input, and sum."""
    first, *others = (transposed.layer(call, term.weight, s) * term.x for term in terms)
    for product in others:
        first = first + product
    return first


def _output(call: Call, term: Term) -> Tensor:
    arguments = {**call.arguments, "input": term.x, "weight": term.weight, "bias": term.bias}
    output: Tensor = call.site.op(**arguments)
    return output


def signed(call: Call, weight: Tensor, bias: Tensor | None, for_negative: Tensor) -> list[Term]:
    """Part a layer by the sign of its inputs: one weight for the positive ones, with the bias, one for the others."""
    x = call.input
    if call.site.nonnegative[0]:
        return [Term(x, weight, bias)]
    return [Term(x.clamp(min=0), weight, bias), Term(x.clamp(max=0), for_negative)]
