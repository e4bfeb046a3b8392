"""Rules for fully connected and convolutional layers.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
What is `Factored` has a value without that axis, ``(*output)`` or ``(*input)``, and a gradient with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from rule_registry.call import Call, Relevances
from rule_registry.factored import Factored, plus, whole
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import Term, divided, pulled, shares, signed
from rule_registry.operations import linear_maps
from rule_registry.operations.linear_maps import LAYERS
from rule_registry.registry import register
from rule_registry.rule import Number, shown
from rule_registry.tracing import has_values

aten = torch.ops.aten


@register(EPSILON, *LAYERS, factored=True)
def epsilon(call: Call, relevance: Tensor | Factored, *, epsilon: float) -> Relevances:
    """LRP-epsilon: ``x_i w_ij / (z_j + epsilon sign z_j)``, which is LRP-0 where epsilon is zero.

    Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation,
    PLOS ONE 10(7), 2015, Eq. 58. Of a convolution whose weight is an activation too, half for each of the two.
    """
    if call.is_active("weight"):
        s = divided(call, relevance, epsilon, times=2)
        x, weight = call["input"], call["weight"]
        found = {
            "input": Factored(x, linear_maps.convolution(call, weight, s)),
            "weight": Factored(weight, linear_maps.kernel(call, x, s)),
        }
        return [found[slot.name] for slot in call.site.active]
    return pulled(call, divided(call, relevance, epsilon), [Term(call.input, call["weight"])])


def gamma(call: Call, relevance: Tensor, *, gamma: float, stabilizer: float) -> Tensor | Factored:
    """LRP-gamma: contributions of the output's sign weigh ``1 + gamma`` times as much.

    For non-negative inputs and a positive output ``x_i (w_ij + gamma w_ij^+)`` over its sum with the bias, likewise
    ``b_j + gamma b_j^+``: Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019, section 10.2.3. For
    inputs and outputs of any sign: Andéol et al., Learning Domain Invariant Representations by Joint Wasserstein
    Distance Minimization, 2021, appendix.
    """
    z, raised, lowered = call.result, partial(_favoured, gamma=gamma, min=0), partial(_favoured, gamma=gamma, max=0)
    sign = z.sign()  # choosing by a condition takes longer (benchmarks choices: halves)
    positive = shares(call, relevance * sign.clamp(min=0), signed(call, raised, lowered), stabilizer)
    negative = shares(call, relevance * sign.clamp(max=0).neg_(), signed(call, lowered, raised), stabilizer)
    return plus(positive, negative)


def _favoured(weight: Tensor, gamma: float, **part: float) -> Tensor:
    """Return a weight or bias, of the same shape, with ``1 + gamma`` times the entries that ``part`` clamps to."""
    return torch.add(weight, weight.clamp(**part), alpha=gamma)


def alpha_beta(call: Call, relevance: Tensor, *, alpha: float, beta: float, stabilizer: float) -> Tensor | Factored:
    """LRP-alpha-beta: ``alpha (x_i w_ij)^+ / z_j^+ - beta (x_i w_ij)^- / z_j^-``, a bias in the part of its sign.

    Bach et al. 2015, Eq. 60; with ``alpha = 1`` and ``beta = 0`` the z+ rule of Montavon et al., Explaining Nonlinear
    Classification Decisions with Deep Taylor Decomposition, Pattern Recognition 65, 2017.

    Raises
    ------
    ValueError
        Unless ``alpha - beta = 1`` and neither is negative: relevance would not be conserved.
    """
    if wrong := wrong_alpha_beta({"alpha": alpha, "beta": beta}):
        raise ValueError(wrong)
    found = shares(call, relevance, signed(call, _up, _down), stabilizer)
    if beta == 0:
        return found
    other = shares(call, relevance, signed(call, _down, _up), stabilizer)
    return whole(found).mul_(alpha).sub_(whole(other), alpha=beta)  # type: ignore[no-any-return]


def wrong_alpha_beta(parameters: Mapping[str, Number]) -> str:
    """Say what is wrong with a choice of alpha and beta."""
    alpha, beta = parameters["alpha"], parameters["beta"]
    if isinstance(alpha, tuple) or isinstance(beta, tuple):
        return f"alpha and beta must be one number each, not alpha={shown(alpha)} and beta={shown(beta)}"
    if beta >= 0 and abs(alpha - beta - 1) <= 1e-9:
        return ""
    return f"alpha - beta must be 1 and beta not negative, not alpha={alpha:g} and beta={beta:g}"


def excitation(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor | Factored:
    """Winner probabilities ``(x_i w_ij)^+ / sum_k (x_k w_kj)^+``: z+ without the bias.

    Zhang et al., Top-Down Neural Attention by Excitation Backprop, ECCV 2016, Eq. 6, which knows no negative inputs.
    """
    return shares(call, relevance, signed(call, _up, _down, biased=False), stabilizer)


def flat(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor | Factored:
    """Equal shares for all inputs a neuron reads, whatever they are.

    Lapuschkin et al., Unmasking Clever Hans Predictors and Assessing What Machines Really Learn, Nature
    Communications 10, 2019.
    """
    return shares(call, relevance, [Term(_ones(call), torch.ones_like(call["weight"]))], stabilizer)


def w_squared(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor | Factored:
    """``w_ij^2 / sum_k w_kj^2``, for inputs without bounds.

    Montavon et al., Pattern Recognition 65, 2017, section 4.1 (w^2-rule); a bias takes no part.
    """
    return shares(call, relevance, [Term(_ones(call), call["weight"].square())], stabilizer)


def z_box(call: Call, relevance: Tensor, *, low: Number, high: Number, stabilizer: float) -> Tensor | Factored:
    """z^B: ``x_i w_ij - low_i w_ij^+ - high_i w_ij^-`` over its sum, for inputs between two bounds.

    Montavon et al., Pattern Recognition 65, 2017, section 4.2 (z^B-rule).

    Raises
    ------
    ValueError
        If there are not as many bounds as channels.

    Warns
    -----
    UserWarning
        If the input lies outside of the bounds by more than a hundredth of their distance.
    """
    x, weight = call.input, call["weight"]
    lowest, highest = _bound(call, low), _bound(call, high)
    slack = (highest - lowest) / 100
    if has_values(x) and bool(((x < lowest - slack) | (x > highest + slack)).any()):
        warnings.warn(
            f"the input reaches from {float(x.min()):.3g} to {float(x.max()):.3g}, outside of the bounds of the z^B "
            "rule: give the lowest and highest value a pixel can have, as in "
            f"rule_registry.get(..., low={low}, high={high})",
            stacklevel=2,
        )
    terms = [
        Term(x, weight),
        Term(-lowest.expand_as(x), weight.clamp(min=0)),
        Term(-highest.expand_as(x), weight.clamp(max=0)),
    ]
    return shares(call, relevance, terms, stabilizer)


def _up(weight: Tensor) -> Tensor:
    """Return the positive part of a weight or bias, of the same shape."""
    return weight.clamp(min=0)


def _down(weight: Tensor) -> Tensor:
    """Return the negative part of a weight or bias, of the same shape."""
    return weight.clamp(max=0)


def _ones(call: Call) -> Tensor:
    """Return ones, ``(*input)``."""
    return torch.ones_like(call.input)


def _bound(call: Call, value: Number) -> Tensor:
    """Shape a bound so that it can be compared with the input: ``()``, or one for each channel, ``(C, 1, ...)``."""
    x, axis = call.input, call.input.ndim - 1 if call.site.op == aten.linear.default else 1
    bound = x.new_tensor(value)
    if isinstance(value, tuple):
        if len(value) != x.shape[axis]:
            raise ValueError(
                f"the z^B rule has bounds for {len(value)} channels and the input has {x.shape[axis]}: give a number, "
                "or one for each channel, as in rule_registry.get(..., low=0.0, high=1.0)"
            )
        bound = bound.reshape(-1, *(1,) * (x.ndim - 1 - axis))
    return bound
