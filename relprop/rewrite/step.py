"""The step of a relevance program: applies one operation's rule, checks what it returns and measures its mass."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import RuleError
from relprop.rewrite.buffers import can_overwrite, copy_aliased, multiply
from relprop.rewrite.signed import net, split_signs
from rule_registry import BatchAxis, Call, Mass, Relevances, Rule, Shares, Site
from rule_registry.factored import Factored, whole
from rule_registry.memory_layout import layout
from rule_registry.tracing import has_values

LOST = 1e-6
"""Where positive contributions are a smaller part of all contributions than this, the mass counts as lost."""


def widen(value: Any) -> Any:
    """Give half-precision tensors, also those of a list or tuple, the precision relevance is computed in."""
    # Spelled out: going through pytree takes longer (benchmarks choices: widening) than many an operation does.
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value
    if isinstance(value, list | tuple):
        return [widen(item) for item in value] if isinstance(value, list) else tuple(map(widen, value))
    return value


class Step(nn.Module):
    """One operation's rule at its place in the program.

    Parameters
    ----------
    site : Site
        The operation.
    rule : Rule
        Its rule.
    where : str
        For error messages: operation, module path and source line.
    mass : {"conserved", "measured", "ignored"}
        What becomes of the mass: `Shares` are rescaled to what arrived, it is recorded, or neither.
    nets : bool
        Whether relevance may arrive with both signs at a rule that conserves: then its parts go through apart, and the
        results are subtracted.

    Attributes
    ----------
    overwrites : bool
        Whether nobody else reads the relevance that arrives, so that the rule may overwrite it.
    """

    def __init__(self, site: Site, rule: Rule, where: str, mass: Mass, nets: bool = False) -> None:
        super().__init__()
        self.overwrites = False
        self.mass = mass
        self.nets = nets
        self.site = site
        self.rectified = replace(site, rectified=True)
        self.defaults = {
            argument.name: argument.default_value if argument.has_default_value() else None
            for argument in site.op._schema.arguments
        }
        self.rule = rule
        self.where = where

    def overwriting(self) -> Step:
        """Return the same step for relevance that nobody else reads."""
        step = copy.copy(self)
        step.overwrites = True
        return step

    def forward(
        self, relevance: Any, output: Any, *args: Any, rectified: bool = False, **kwargs: Any
    ) -> tuple[Tensor | Factored | None, ...]:
        """Apply the rule.

        Parameters
        ----------
        relevance : Tensor, Factored or tuple
            What arrived, ``(S, *output)``.
        output, *args, **kwargs
            What the operation returned, and what it was called with.
        rectified : bool
            Whether this time relevance arrives only where the output is not negative, see `positive_gains`.

        Returns
        -------
        tuple of Tensor or Factored
            One relevance per activation input, ``(S, *input)``, not multiplied out where the rule leaves it so. Last
            the record ``(4 + inputs, S, B)``, with ``2 S`` where signs go apart, or None where nothing was rescaled,
            split among inputs, or measured.

        Notes
        -----
        ===========  =======================================================
        record row   mass
        ===========  =======================================================
        0            that arrived
        1            of positive contributions, before they are rescaled
        2            of all contributions, by magnitude
        3            that was lost
        4 and on     handed to each input
        ===========  =======================================================
        """
        output = widen(output)
        relevance = self._fitted(output, relevance)
        arguments = self._bind(args, kwargs)
        site = self.rectified if rectified else self.site
        if self.nets and not self.rule.moves:
            return self._apply_to_both_signs(site, arguments, output, relevance)
        return self._apply_rule(site, arguments, output, relevance)

    def _apply_to_both_signs(
        self, site: Site, arguments: dict[str, Any], output: Any, relevance: Any
    ) -> tuple[Tensor | Factored | None, ...]:
        """Apply the rule to ``R+`` and ``R-`` of ``(S, *output)``, and subtract one result from the other."""
        relevance = whole(relevance)
        seeds = len(_parts(relevance)[0])
        *flows, record = self._apply_rule(site, arguments, output, split_signs(relevance), split=True)
        return *(net(whole(values), seeds) for values in flows if values is not None), record

    def _apply_rule(
        self, site: Site, arguments: dict[str, Any], output: Any, relevance: Any, split: bool = False
    ) -> tuple[Tensor | Factored | None, ...]:
        """Return the relevance of each input, ``(S, *input)``, and the record, see `forward`."""
        gradients = self._gradients(output, relevance)
        if gradients is None and not self.rule.factored:
            relevance = whole(relevance)
        spent = self.overwrites and can_overwrite(relevance)
        call = Call(site, arguments, output, spent)
        conserves, measures = self.mass == "conserved", self.mass == "measured"
        counts = measures or (conserves and (spent or len(site.active) > 1))
        arrived = _mass(site.output_batch, relevance) if counts else None  # the rule may overwrite it
        try:
            returned = self.rule(call, relevance if gradients is None else gradients)
        except (ValueError, NotImplementedError) as error:
            raise RuleError(f"rule {self.rule} refuses {self.where}: {error}") from error
        except (TypeError, LookupError, AttributeError) as error:
            raise RuleError(
                f"rule {self.rule} fails for {self.where}: {type(error).__name__}: {error}. It is called with "
                f"(call, relevance), and call has the arguments {', '.join(arguments)}"
            ) from error
        if isinstance(returned, Shares) and self.nets and not split:  # of a move that spreads over constants
            return self._apply_to_both_signs(site, arguments, output, relevance)
        values = self._values(returned)
        if gradients is not None:
            values = tuple(Factored(x, g) for x, g in zip(call.inputs, values, strict=True))  # type: ignore[arg-type]
        elif not measures:
            values = tuple(map(whole, values))
        self._check(call, relevance, values)
        given = (*arguments.values(), output, *(() if spent else (relevance,)))
        record = None
        if isinstance(returned, Shares) and conserves:
            if arrived is None:
                arrived = _mass(site.output_batch, relevance)
            values, record = _rescale(call, returned, arrived, given if self.rule.overwrites else None)
        elif conserves and not self.rule.moves:
            values = copy_aliased(whole(values), given if self.rule.overwrites else None)
        if record is None and arrived is not None and (measures or len(values) > 1):
            emitted = [_mass(mark, value) for mark, value in zip(site.input_batch, values, strict=True)]
            values = tuple(
                replace(value, mass=mass) if isinstance(value, Factored) else value
                for value, mass in zip(values, emitted, strict=True)
            )
            record = _masses(arrived, emitted, lossless=conserves)
        return *values, record

    def _gradients(self, output: Any, relevance: Any) -> Any:
        """Return what a move may move in the place of the relevance: its gradient, as the value moves alike.

        None where it is multiplied out, where the value is another one, or where the mass is to be rescaled.
        """
        if not self.rule.moves or self.mass != "measured":
            return None
        if not isinstance(relevance, tuple):
            return relevance.gradient if isinstance(relevance, Factored) and relevance.value is output else None
        parts = [(r, z) for r, z in zip(relevance, output, strict=True) if r is not None]
        if not all(isinstance(r, Factored) and r.value is z for r, z in parts):
            return None
        return tuple(None if r is None else r.gradient for r in relevance)

    def extra_repr(self) -> str:
        """Rule, operation and place, for printed programs."""
        return f"{self.rule}: {self.site.op} at {self.site.path!r}"

    def _fitted(self, output: Any, relevance: Any) -> Any:
        """Return relevance in the precision of the output it arrived at, and for all but moves in its layout."""
        if isinstance(relevance, Factored):
            fitted = self._fitted(output, relevance.gradient)
            return relevance if fitted is relevance.gradient else replace(relevance, gradient=fitted)
        if isinstance(relevance, Tensor):
            relevance = _in_precision_of(output, relevance)
            return relevance if self.rule.moves else _laid_out_like(output, relevance)
        return tuple(None if r is None else self._fitted(part, r) for r, part in zip(relevance, output, strict=True))

    def _bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        given = {**self.defaults, **dict(zip(self.defaults, args, strict=False)), **kwargs}
        return {name: widen(value) for name, value in given.items()}

    def _values(self, returned: Relevances) -> tuple[Tensor | Factored, ...]:
        """Return the relevance of each input, ``(S, *input)``, in a tuple, however the rule returned it."""
        if isinstance(returned, Shares):
            return returned.values
        values = (returned,) if isinstance(returned, Tensor | Factored) else returned
        if not isinstance(values, Sequence) or not all(isinstance(value, Tensor | Factored) for value in values):
            raise RuleError(
                f"rule {self.rule} returned a {type(returned).__name__} for {self.where}; it must return one tensor "
                "(S, *input) for each activation input, or rule_registry.share(call, ...)"
            )
        return tuple(values)

    def _check(self, call: Call, relevance: Any, values: tuple[Tensor | Factored, ...]) -> None:
        """Raise a `RuleError` unless there is one relevance ``(S, *input)`` for each input."""
        seeds = len(_parts(relevance)[0])
        expected = [(seeds, *value.shape) for value in call.inputs]
        found = [tuple(value.shape) for value in values]
        if expected != found:
            raise RuleError(
                f"rule {self.rule} returned relevances of shapes {found} where (S, *input) are {expected}, for "
                f"{', '.join(map(str, self.site.active))} of {self.where}"
            )


def positive_gains(gain: Tensor) -> bool:
    """Whether no gain ``(C,)`` of a norm is negative; False to a tracer, whose tensors have no values."""
    return has_values(gain) and bool((gain >= 0).all())


def all_of(*facts: bool) -> bool:
    """Whether all are true."""
    return all(facts)


def _in_precision_of(output: Tensor, relevance: Tensor) -> Tensor:
    """Return relevance ``(S, *output)`` in the precision of the output: casts on the way pass it as it is."""
    dtype = output.dtype
    if dtype.is_complex and not relevance.is_complex():  # a real number for each entry
        dtype = dtype.to_real()
    return relevance.to(dtype)


def _laid_out_like(output: Tensor, relevance: Tensor) -> Tensor:
    """Put the channels of a relevance ``(S, *output)`` last in memory where those of the output are.

    Operations on two tensors are slower where their layouts differ, and a rule has several of these
    (``benchmarks choices: layouts``).
    """
    wanted = layout(output)
    if wanted == torch.contiguous_format or layout(relevance[0]) == wanted:
        return relevance
    samples = relevance.flatten(0, 1).contiguous(memory_format=wanted)
    fitted: Tensor = samples.unflatten(0, relevance.shape[:2])
    return fitted


def _parts(relevance: Any) -> list[Tensor | Factored]:
    """Return the relevance of each output that has one, ``(S, *output)``."""
    return [part for part in (relevance if isinstance(relevance, tuple) else (relevance,)) if part is not None]


def _mass(marks: BatchAxis | tuple[BatchAxis | None, ...], relevance: Any) -> Tensor:
    """Sum relevance ``(S, *output)`` over each sample, ``(S, B)``; that of several outputs together."""
    if isinstance(marks, tuple):
        parts = [_mass(m, r) for m, r in zip(marks, relevance, strict=True) if m is not None and r is not None]
        return torch.stack(parts).sum(0)
    if isinstance(relevance, Factored):
        return _inner_product(marks, relevance) if relevance.mass is None else relevance.mass
    return marks.sum(relevance)


def _inner_product(mark: BatchAxis, relevance: Factored) -> Tensor:
    """Sum a relevance ``(S, *output)`` to ``(S, B)`` without multiplying it out, where samples are rows of memory."""
    gradient, value = relevance.gradient, relevance.value
    rows = value.ndim > 1 and mark == BatchAxis(0) and gradient.is_contiguous() and value.is_contiguous()
    if rows and gradient.dtype == value.dtype:
        return torch.einsum("sbi,bi->sb", gradient.flatten(2), value.flatten(1))
    return mark.dot(gradient, value)


def _rescale(
    call: Call, shares: Shares, arrived: Tensor, given: Sequence[Any] | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Rescale contributions ``(S, *input)`` to the mass that arrived, ``(S, B)``; return them and the record."""
    raw = reduce(Tensor.add, shares.masses)
    kept = raw > LOST * shares.total.clamp(min=0)
    factor = (arrived / raw).masked_fill(~kept, 0.0)
    factors = [
        mark.spread(factor, value.ndim - 1) for mark, value in zip(call.site.input_batch, shares.values, strict=True)
    ]
    lost = arrived.masked_fill(kept, 0.0)
    # Of one entry a sample, masses may be the values themselves: they are recorded before these are overwritten.
    record = torch.stack([arrived, raw, shares.total, lost, *(mass * factor for mass in shares.masses)])
    return multiply(shares.values, factors, given), record


def _masses(arrived: Tensor, emitted: Sequence[Tensor], lossless: bool) -> Tensor:
    """Return the record ``(4 + inputs, S, B)`` of masses ``(S, B)`` that were not rescaled."""
    moved = torch.stack(list(emitted)).sum(0)
    lost = torch.zeros_like(arrived) if lossless else arrived - moved
    return torch.stack([arrived, moved, moved, lost, *emitted])
