"""The one formula of all rules for layers with a weight: modify, divide, multiply with the transpose.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
What is `Factored` has a value without that axis, ``(*output)`` or ``(*input)``, and a gradient with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from rule_registry.call import Call
from rule_registry.factored import Factored, whole
from rule_registry.operations import linear_maps, products
from rule_registry.operations.products import FACTORS


@dataclass(frozen=True)
class Term:
    """A layer with another input, weight and bias; the input may be one that broadcasts.

    A matrix product with a constant is such a layer too, whichever of its factors is the weight.

    Parameters
    ----------
    x : Tensor
        ``(*input)``, or what broadcasts to it.
    weight : Tensor
        As the operation takes it: ``(out, in)`` of a fully connected layer.
    bias : Tensor, optional
        ``(out,)``, or a constant that broadcasts to ``(*output)``.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """Return ``z + epsilon sign z``, ``(*output)``, where zero counts as positive.

    Without epsilon nothing is shared at a zero: infinity stands there.
    """
    if epsilon == 0:
        return torch.where(z == 0, torch.inf, z)
    return torch.copysign(z.new_full((), epsilon), z + 0.0).add_(z)  # the sum makes plus zero of minus zero


def divided(call: Call, relevance: Tensor | Factored, epsilon: float, times: int = 1) -> Tensor:
    """Divide the relevance that arrived by a stabilised multiple of the output, ``(S, *output)``."""
    if isinstance(relevance, Tensor):
        return relevance / stabilised(times * call.result if times != 1 else call.result, epsilon)
    value, gradient = relevance.value, relevance.gradient
    if not relevance.own:
        return (gradient * value).div_(stabilised(times * call.result if times != 1 else call.result, epsilon))
    # |z| / (|z| + e) is 1 - e / (|z| + e): one operation less than division and product.
    least = epsilon / times
    s = (
        torch.where(value == 0, 0.0, gradient)
        if epsilon == 0
        else torch.addcdiv(gradient, gradient, value.abs().add_(least), value=-least)
    )
    return s.div_(times) if times != 1 else s


def shares(call: Call, relevance: Tensor | Factored, terms: Sequence[Term], epsilon: float) -> Tensor | Factored:
    """Divide relevance in proportion to the contributions of modified layers, taken together.

    Parameters
    ----------
    call : Call
        Of a fully connected or convolutional layer, or of a matrix product with a constant.
    relevance : Tensor
        ``(S, *output)``.
    terms : sequence of Term
        The modified layers, whose outputs are summed.
    epsilon : float
        The stabiliser of their sum.
    """
    z = torch.stack([_output(call, term) for term in terms]).sum(0) if len(terms) > 1 else _output(call, terms[0])
    return pulled(call, whole(relevance) / stabilised(z, epsilon), terms)


def pulled(call: Call, s: Tensor, terms: Sequence[Term]) -> Tensor | Factored:
    """Multiply s, ``(S, *output)``, with each transposed weight and input, and sum: ``(S, *input)``."""
    if len(terms) == 1 and terms[0].x is call.input:
        return Factored(call.input, _transposed(call, s, terms[0]))
    return reduce(Tensor.add_, (_transposed(call, s, term).mul_(term.x) for term in terms))


def _transposed(call: Call, s: Tensor, term: Term) -> Tensor:
    """Multiply s with the transposed weight of a term: ``(S, *output)`` to ``(S, *input)``."""
    if call.site.op not in FACTORS:
        return linear_maps.layer(call, term.weight, s)
    (transposed,) = products.factors(_product(call, term), s, lambda x, nonnegative, other, pull: pull(other))
    return transposed


def layer(call: Call) -> Term:
    """Return a layer as it is called: input, weight and bias."""
    if call.site.op not in FACTORS:
        return Term(call.input, call["weight"], call["bias"])
    weight, alpha, beta = call[_weight(call)], call.arguments.get("alpha", 1), call.arguments.get("beta", 1)
    bias = call["self"] if "self" not in products.names(call) else None
    return Term(
        call.input, weight if alpha == 1 else weight * alpha, bias if beta == 1 or bias is None else bias * beta
    )


def _weight(call: Call) -> str:
    """Return the factor of a matrix product that is a constant."""
    (weight,) = (name for name in products.names(call) if not call.is_active(name))
    return weight


def _product(call: Call, term: Term) -> Call:
    """Put a term's factors in the place of a matrix product's."""
    arguments = {**call.arguments, call.site.active[0].name: term.x, _weight(call): term.weight, "alpha": 1}
    return replace(call, arguments=arguments)


def _output(call: Call, term: Term) -> Tensor:
    """Return the output of a term, shaped like the layer's."""
    if call.site.op in FACTORS:
        left, right = (_product(call, term)[name] for name in products.names(call))
        product: Tensor = left @ right
        return product if term.bias is None else product + term.bias
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
        Of a fully connected or convolutional layer, or of a matrix product with a constant.
    modify : callable
        Makes the weight that positive inputs meet, and the bias, of those of the layer; shapes stay.
    for_negative : callable
        Makes the weight that negative inputs meet, if there are any; its shape stays.
    biased : bool
        Whether the bias takes part.
    """
    own = layer(call)
    x, weight = own.x, own.weight
    changed = modify(own.bias) if biased and own.bias is not None else None
    if call.site.nonnegative[0]:
        return [Term(x, modify(weight), changed)]
    return [Term(x.clamp(min=0), modify(weight), changed), Term(x.clamp(max=0), for_negative(weight))]
