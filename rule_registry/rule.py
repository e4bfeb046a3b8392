"""A rule: how relevance goes from the output of an operation to its inputs, and what is declared of that."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

from rule_registry.call import Call, Relevances
from rule_registry.operations.layers import ChannelMap

Function = Callable[..., Relevances]
Number = float | tuple[float, ...]
"""A number, or one for each channel."""
Parameter = Number | str
"""A number, one for each channel, or a word."""
Kind = Literal["rule", "passes", "blocks", "fallback"]
Mass = Literal["conserved", "measured", "ignored"]
"""What becomes of the mass of relevance, its sum per seed and sample."""
Fold = Callable[[Mapping[str, Any]], ChannelMap]
"""From the arguments of a norm, by name, to what it does to each channel."""


@dataclass(frozen=True)
class Rule:
    """How relevance goes from the output of an operation to its inputs.

    Parameters
    ----------
    name : str
        What tables and programs call it.
    function : callable
        ``function(call, relevance) -> relevances``; further keyword-only parameters are filled in from the
        rule set's. The relevance is ``(S, *output)``, S seeds in front (a tuple with None for what nobody
        used, where the operation returns several tensors).
    kind : {"rule", "passes", "blocks", "fallback"}
        Passing and blocking are declared, so that a missing rule is always an error. A fallback is a general rule
        that somebody chose for operations without one: reports name these.
    complex : bool
        Whether it holds for operations on complex numbers too, where relevance is one real number for each entry, as
        everywhere; under the gradient and its kin the complex gradient. Other rules are not used there.
    overwrites : bool
        Whether the function works on the relevance where it lies if the call says that nobody else reads it, see
        `rule_registry.call.times`, and keeps nothing: what it returns is in no memory but that of the call's tensors,
        or new, so that the engine may overwrite it. A rule that is made of such functions has to declare it, too.
    moves : bool
        Whether it only moves, copies or drops entries of the relevance. The engine may then hand it relevance in any
        memory layout, and an input that receives nothing is no sign of a mistake.
    picks : bool
        Whether it may hand everything to one of several inputs, as a maximum does. An input that receives nothing is
        then no sign of a mistake either.
    opposed : bool
        Whether two inputs contribute the same with opposite signs, as numerator and denominator of a quotient do: one
        of them receives nothing where all relevance lies at outputs of one sign.
    contributes : bool
        Whether an input receives relevance only as far as it contributes to the output, and no contribution against the
        sign of the output counts where that is positive. The engine may then prove where relevance arrives.
    linear : bool
        Whether it is linear in the relevance that arrives, as long as nothing is rescaled: one that takes its positive
        and its negative part apart, or divides by its mass, is not. Under a rule set of linear rules a contrast is one
        pass, under any other two.
    factored : bool
        Whether it takes relevance that is not multiplied out, see `rule_registry.factored`. To any other rule the
        engine hands the product. What is returned may be such a relevance in any case.
    keeps : bool
        Whether the operation keeps an entry of its input or makes zero of it: a rectifier, or a copy.
    mass : {"conserved", "measured", "ignored"}, optional
        Whether `Shares` are rescaled to the mass that arrived, so that all of it is handed on; or mass is followed but
        not rescaled, so that what biases and stabilisers absorb is reported; or neither, as under gradients. By
        default as in the rule set that it is used in.
    fold : callable, optional
        Of a norm: from its arguments to what it does to each channel, see `rule_registry.operations.layers`. The
        engine folds that into weight and bias of the layer before, whose rule then holds for both. The function is
        for where there is no such layer.
    """

    name: str
    function: Function
    kind: Kind = "rule"
    complex: bool = False
    overwrites: bool = False
    moves: bool = False
    picks: bool = False
    opposed: bool = False
    contributes: bool = False
    linear: bool = False
    factored: bool = False
    keeps: bool = False
    mass: Mass | None = None
    fold: Fold | None = None

    def __call__(self, call: Call, relevance: Any) -> Relevances:
        """Apply the function."""
        return self.function(call, relevance)

    def __str__(self) -> str:
        return self.name

    def describe(self) -> str:
        """Name and parameters, as in ``gamma(gamma=0.25, stabilizer=1e-06)``."""
        bound = self.function.keywords if isinstance(self.function, partial) else {}
        values = ", ".join(f"{name}={shown(value)}" for name, value in sorted(bound.items()))
        return f"{self}({values})" if values else str(self)

    def is_renewed_by(self, other: Rule) -> bool:
        """Whether another rule is of a function of the same module and name."""
        origins = [
            (rule.name, getattr(function, "__module__", None), getattr(function, "__qualname__", None))
            for rule in (self, other)
            for function in [rule.function.func if isinstance(rule.function, partial) else rule.function]
        ]
        return origins[0] == origins[1]

    @property
    def summary(self) -> str:
        """First line of the function's documentation; the name where it has none."""
        function = self.function.func if isinstance(self.function, partial) else self.function
        return (inspect.getdoc(function) or self.name).partition("\n")[0]

    def bind(self, parameters: Mapping[str, Parameter]) -> Rule:
        """Fill in the keyword-only parameters of the function that a rule set defines.

        What is bound already (the rule of another rule set, say) stays.

        Raises
        ------
        TypeError
            If the function needs a parameter that is not there.
        """
        bound = self.function.keywords if isinstance(self.function, partial) else {}
        accepted = inspect.signature(self.function).parameters.values()
        wanted = {p.name: p for p in accepted if p.kind is p.KEYWORD_ONLY and p.name not in bound}
        for name, parameter in wanted.items():
            if name not in parameters and parameter.default is parameter.empty:
                parameter_names = ", ".join(sorted(parameters)) or "none"
                raise TypeError(f"rule {self} needs the parameter {name!r}; its rule set has: {parameter_names}")
        values = {name: value for name, value in parameters.items() if name in wanted}
        return replace(self, function=partial(self.function, **values)) if values else self


def shown(value: Parameter) -> str:
    """Write a parameter as tables do."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    return f"({', '.join(map(shown, value))})" if isinstance(value, tuple) else f"{value:g}"


def _pass(call: Call, relevance: Tensor) -> Tensor:
    """Pass unchanged.

    The relevance is ``(S, *output)``, and the input is shaped like the output.
    """
    return relevance


def _block(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
    """Block: no relevance reaches the inputs.

    Relevance ``(S, *output)`` arrives, and that of no input is returned.
    """
    return ()


passes = Rule("passes", _pass, "passes", complex=True, moves=True, linear=True)
"""The relevance reaches the one activation input unchanged."""
blocks = Rule("blocks", _block, "blocks", complex=True, linear=True)
"""No relevance reaches the inputs, on purpose."""
