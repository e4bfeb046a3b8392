"""One operation through the real engine, and DESIGN 4.1's formula in plain linear algebra to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

import rule_registry
from relprop.rewrite.step import Step
from rule_registry import BatchAxis, RuleSet, Site, Slot

Argument = Any
"""A tensor, or whatever else an operation takes."""
Marks = BatchAxis | tuple[BatchAxis | None, ...]

SEEDS = 2
FRONT = BatchAxis(0)


@dataclass(frozen=True)
class Applied:
    """What one operation's rule handed on.

    ``values`` hold one relevance per activation input; ``record`` the masses, with names in the properties.
    """

    values: tuple[Tensor, ...]
    record: Tensor | None

    @property
    def arrived(self) -> Tensor:
        assert self.record is not None
        return self.record[0]

    @property
    def lost(self) -> Tensor:
        assert self.record is not None
        return self.record[3]


def bind(op: OpOverload, args: Sequence[Argument], kwargs: dict[str, Argument]) -> dict[str, Argument]:
    """Arguments by the names in the operation's schema."""
    return {**dict(zip((a.name for a in op._schema.arguments), args, strict=False)), **kwargs}


def slots(names: Sequence[str | Slot]) -> tuple[Slot, ...]:
    return tuple(Slot(name) if isinstance(name, str) else name for name in names)


def inputs_of(arguments: dict[str, Argument], active: Sequence[Slot]) -> list[Tensor]:
    return [arguments[s.name] if s.item is None else arguments[s.name][s.item] for s in active]


def function_of(op: OpOverload, arguments: dict[str, Argument], active: Sequence[Slot]) -> Callable[..., Argument]:
    """The operation as a function of its activation inputs alone."""

    def function(*values: Tensor) -> Argument:
        replaced = {k: list(v) if isinstance(v, list | tuple) else v for k, v in arguments.items()}
        for slot, value in zip(active, values, strict=True):
            if slot.item is None:
                replaced[slot.name] = value
            else:
                replaced[slot.name][slot.item] = value
        return op(**replaced)

    return function


def apply_rule(
    op: OpOverload,
    args: Sequence[Argument],
    kwargs: dict[str, Argument],
    active: Sequence[Slot],
    relevance: Argument,
    *,
    rules: str | RuleSet = "abslrp",
    nonnegative: bool | Sequence[bool] = False,
    input_batch: Sequence[BatchAxis] | None = None,
    output_batch: Marks = FRONT,
    first: bool = False,
    attention: bool = False,
    attention_weights: Slot | None = None,
    **parameters: Any,
) -> Applied:
    """Send relevance through one operation, as the program of a model does."""
    chosen = rule_registry.get(rules, **parameters) if isinstance(rules, str) else rules
    known = (nonnegative,) * len(active) if isinstance(nonnegative, bool) else tuple(nonnegative)
    batches = tuple(input_batch) if input_batch is not None else (FRONT,) * len(active)
    site = Site(
        op, "path", "Module", tuple(active), known, batches, output_batch, first,
        attention=attention, attention_weights=attention_weights,
    )  # fmt: skip
    rule = chosen.find(site)
    assert rule is not None, f"{chosen.name} has no rule for {op}"
    if rule.kind == "passes":
        return Applied((relevance,), None)
    step = Step(site, rule, "here", chosen.conserves, chosen.measures)
    *values, record = step(relevance, op(*args, **kwargs), *args, **kwargs)
    return Applied(tuple(values), record)


def sample_of_each(size: int, mark: BatchAxis) -> Tensor:
    """Which sample each entry of the batch axis belongs to."""
    batch = size // (mark.factor * mark.outer)
    return torch.arange(size) // mark.factor % batch


def samples(shape: Sequence[int], mark: BatchAxis) -> Tensor:
    """Which sample each entry belongs to, as a matrix ``(B, entries)`` of zeros and ones."""
    column = [1] * len(shape)
    column[mark.axis] = -1
    label = sample_of_each(shape[mark.axis], mark).reshape(column).expand(*shape).flatten()
    return (label == torch.arange(int(label.max()) + 1).unsqueeze(1)).double()


def contributions(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """``x_i dz_j/dx_i`` of each input, as a matrix ``(outputs, inputs)``."""
    jacobians = torch.autograd.functional.jacobian(function, tuple(inputs))
    return [j.reshape(-1, x.numel()) * x.flatten() for j, x in zip(jacobians, inputs, strict=True)]


def formula(
    parts: Sequence[Tensor],
    z: Tensor,
    relevance: Tensor,
    delta: float,
    inside: Sequence[Tensor],
    outside: Tensor,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """DESIGN 4.1: positive contributions over the stabilised magnitude, rescaled jointly to the arriving mass.

    Where the positive ones are below 1e-6 of all of them the mass is lost.

    Parameters
    ----------
    parts : sequence of Tensor
        The contributions of each input, ``(outputs, inputs)``.
    z, relevance : Tensor
        Output ``(outputs,)`` and relevance ``(S, outputs)``.
    delta : float
        Weight of the mean magnitude in the stabiliser.
    inside, outside : Tensor
        Which sample the entries of each input, and of the output, belong to.

    Returns
    -------
    list of Tensor, Tensor, Tensor
        Relevance of each input; mass of the positive contributions before rescaling, and of all contributions.
    """
    s = relevance / (z.abs() + 1e-9 + delta * ((outside @ z.abs()) / outside.sum(1)) @ outside)
    raw = [s @ part.clamp(min=0) for part in parts]
    mass = sum(r @ member.T for r, member in zip(raw, inside, strict=True))
    every = sum(s @ part.abs() @ member.T for part, member in zip(parts, inside, strict=True))
    factor = torch.where(mass > 1e-6 * every, relevance @ outside.T / mass, 0.0)
    return [r * (factor @ member) for r, member in zip(raw, inside, strict=True)], mass, every


def compare_with_formula(
    op: OpOverload,
    *args: Argument,
    active: Sequence[str | Slot] | None = None,
    held: Callable[..., Tensor] | None = None,
    nonnegative: bool | Sequence[bool] = False,
    input_batch: Sequence[BatchAxis] | None = None,
    output_batch: BatchAxis = FRONT,
    delta: float = 1e-2,
    **kwargs: Argument,
) -> Applied:
    """Assert that the rule of an operation and the formula hand on the same relevance.

    Parameters
    ----------
    op, *args, **kwargs
        The operation and what it is called with.
    active : sequence of str or Slot, optional
        Its activation inputs; by default the first argument.
    held : callable, optional
        The operation as a function of its activations with its statistics held constant, for its Jacobian.
    """
    arguments = bind(op, args, kwargs)
    where = slots(active or [op._schema.arguments[0].name])
    inputs = inputs_of(arguments, where)
    output = op(*args, **kwargs)
    several = isinstance(output, tuple)
    z = output[0] if several else output
    generator = torch.Generator().manual_seed(1)
    relevance = torch.rand(SEEDS, *z.shape, generator=generator, dtype=z.dtype)
    batches = input_batch or [FRONT] * len(inputs)
    rest = (None,) * (len(output) - 1) if several else ()
    applied = apply_rule(
        op,
        args,
        kwargs,
        where,
        (relevance, *rest) if several else relevance,
        nonnegative=nonnegative,
        input_batch=batches,
        output_batch=(output_batch, *rest) if several else output_batch,
        delta=delta,
    )
    expected, mass, every = formula(
        contributions(held or function_of(op, arguments, where), inputs),
        z.flatten(),
        relevance.flatten(1),
        delta,
        [samples(x.shape, mark) for x, mark in zip(inputs, batches, strict=True)],
        samples(z.shape, output_batch),
    )
    for value, wanted, x in zip(applied.values, expected, inputs, strict=True):
        torch.testing.assert_close(value, wanted.reshape(SEEDS, *x.shape), rtol=1e-9, atol=1e-11)
    assert any(wanted.any() for wanted in expected), "a case in which all mass is lost compares nothing"
    assert applied.record is not None
    torch.testing.assert_close(applied.record[1], mass)
    torch.testing.assert_close(applied.record[2], every)
    handed_on = sum(mark.sum(value) for mark, value in zip(batches, applied.values, strict=True))
    torch.testing.assert_close(handed_on + applied.lost, output_batch.sum(relevance))
    return applied
