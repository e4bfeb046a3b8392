"""The one formula of all rules for layers with a weight: modify, divide, multiply with the transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from rule_registry.call import Call
from rule_registry.operations import linear_maps


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
    return torch.where(z < 0, z.new_full((), -epsilon), z.new_full((), epsilon)).add_(z)


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
    return reduce(Tensor.add_, (linear_maps.layer(call, term.weight, s).mul_(term.x) for term in terms))


def _output(call: Call, term: Term) -> Tensor:
    arguments = {**call.arguments, "input": term.x, "weight": term.weight, "bias": term.bias}
    output: Tensor = call.site.op(**arguments)
    return output


def signed(
    call: Call, modify: Callable[[Tensor], Tensor], for_negative: Callable[[Tensor], Tensor], *, biased: bool = True
) -> list[Term]:
    """Part a layer by the sign of its inputs.

    Parameters
    ----------
    call : Call
        Of a fully connected or convolutional layer.
    modify : callable
        Makes the weight that positive inputs meet, and the bias.
    for_negative : callable
        Makes the weight that negative inputs meet, if there are any.
    biased : bool
        Whether the bias takes part.
    """
    x, weight, bias = call.input, call["weight"], call["bias"]
    changed = modify(bias) if biased and bias is not None else None
    if call.site.nonnegative[0]:
        return [Term(x, modify(weight), changed)]
    return [Term(x.clamp(min=0), modify(weight), changed), Term(x.clamp(max=0), for_negative(weight))]
