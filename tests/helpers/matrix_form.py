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
from rule_registry.factored import Factored, whole

SUMS = (torch.ops.aten.add, torch.ops.aten.sub, torch.ops.aten.rsub)

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
    evidence: int = 0,
    rectified: bool = False,
    **parameters: Any,
) -> Applied:
    """Send relevance through one operation, as the program of a model does."""
    chosen = rule_registry.get(rules, **parameters) if isinstance(rules, str) else rules
    known = (nonnegative,) * len(active) if isinstance(nonnegative, bool) else tuple(nonnegative)
    batches = tuple(input_batch) if input_batch is not None else (FRONT,) * len(active)
    site = Site(
        op, "path", "Module", tuple(active), known, batches, output_batch, first,
        attention=attention, attention_weights=attention_weights, evidence=evidence, rectified=rectified,
    )  # fmt: skip
    rule = chosen.find(site)
    assert rule is not None, f"{chosen.name} has no rule for {op}"
    if rule.kind == "passes":
        return Applied((relevance,), None)
    step = Step(site, rule, "here", chosen.mass_of(rule))
    output = op(*args, **kwargs)
    *values, record = step(relevance, output, *args, **kwargs)
    found = whole(tuple(values))
    if rule.factored and isinstance(relevance, Tensor):
        compare_factored(step, relevance, output, args, kwargs, found)
    return Applied(found, record)


def compare_factored(
    step: Step,
    relevance: Tensor,
    output: Tensor,
    args: Sequence[Argument],
    kwargs: dict[str, Argument],
    expected: Sequence[Tensor],
) -> None:
    """Assert that relevance which is not multiplied out goes where the product goes, with a value of either kind."""
    for value, own in ((output, True), (output.square() + 1, False)):
        dead = (value == 0) | value.isinf()
        arrived = relevance.masked_fill(dead, 0.0)
        factored = Factored(value.masked_fill(value.isinf(), 0.0), arrived / value.masked_fill(dead, 1.0), own)
        *values, _ = step(factored, output, *args, **kwargs)
        wanted = expected if torch.equal(arrived, relevance) else whole(step(arrived, output, *args, **kwargs)[:-1])
        for found, one in zip(whole(tuple(values)), wanted, strict=True):
            most = 1e-8 if one.dtype == torch.float64 else 1e-5  # of the largest, as terms may cancel
            assert float((found - one).abs().max()) <= most * float(one.abs().max())


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
    sign: Tensor | int | None = None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """What counts of each contribution over the stabilised magnitude, rescaled jointly to the arriving mass.

    Where the counted ones are below 1e-6 of all of them the mass is lost.

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
    sign : Tensor or int, optional
        Of which sign a contribution to each output counts; by default of the output's own, and positive where it is
        zero.

    Returns
    -------
    list of Tensor, Tensor, Tensor
        Relevance of each input; mass of the counted contributions before rescaling, and of all contributions.
    """
    mean = ((outside @ z.abs()) / outside.sum(1)) @ outside
    below = torch.where(mean == 0, 1.0, z.abs() + delta * mean)
    s = torch.where(below == 0, 0.0, relevance / below)
    counts = torch.where(z < 0, -1.0, 1.0) if sign is None else torch.as_tensor(sign).expand_as(z)
    raw = [s @ (part * counts.to(z.dtype).unsqueeze(1)).clamp(min=0) for part in parts]
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

    So for both signs of the output, by the letter, at the class scores under both signs of the evidence, and where
    relevance arrives at outputs of one sign, with the proof of that and without: see `rule_registry.orientation`.

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
    arriving = torch.rand(SEEDS, *z.shape, generator=generator, dtype=z.dtype)
    batches = input_batch or [FRONT] * len(inputs)
    rest = (None,) * (len(output) - 1) if several else ()
    parts = contributions(held or function_of(op, arguments, where), inputs)
    inside, outside = (
        [samples(x.shape, mark) for x, mark in zip(inputs, batches, strict=True)],
        samples(z.shape, output_batch),
    )

    def compared(case: str, relevance: Tensor, sign: int | None, **settings: Any) -> tuple[Applied, bool]:
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
            **settings,
        )
        expected, mass, every = formula(parts, z.flatten(), relevance.flatten(1), delta, inside, outside, sign)
        for value, wanted, x in zip(applied.values, expected, inputs, strict=True):
            torch.testing.assert_close(
                value, wanted.reshape(SEEDS, *x.shape), rtol=1e-9, atol=1e-11, msg=lambda text: f"{case}: {text}"
            )
        assert applied.record is not None
        torch.testing.assert_close(applied.record[1], mass)
        torch.testing.assert_close(applied.record[2], every)
        handed_on = sum(mark.sum(value) for mark, value in zip(batches, applied.values, strict=True))
        torch.testing.assert_close(handed_on + applied.lost, output_batch.sum(relevance))
        return applied, any(bool(wanted.any()) for wanted in expected)

    applied, alive = compared("signed", arriving, None)
    letter, alive_by_the_letter = compared("the letter", arriving, 1, signed=False)
    assert alive or alive_by_the_letter, "a case in which all mass is lost compares nothing"
    if len(where) == 1 and op.overloadpacket in SUMS:
        # At the class scores a constant is a bias, so that ``x @ W + b`` is a layer: all that arrives is the score's.
        given = {"input_batch": batches, "output_batch": output_batch, "delta": delta}
        for sign in (1, -1):
            passed = apply_rule(op, args, kwargs, where, arriving, nonnegative=nonnegative, evidence=sign, **given)
            torch.testing.assert_close(passed.values[0].flatten(1).sum(1), arriving.flatten(1).sum(1))
    else:
        at_scores, _ = compared("evidence for a class", arriving, 1, evidence=1)
        compared("evidence against a class", arriving, -1, evidence=-1)
        assert all(map(torch.equal, at_scores.values, letter.values)), "not the letter's own bits at the class scores"
    rectified = arriving * (z >= 0)
    proven, _ = compared("rectified", rectified, None, rectified=True)
    compared("signed, rectified without a proof", rectified, None)
    by_the_letter, _ = compared("the letter, rectified", rectified, 1, signed=False)
    assert all(map(torch.equal, proven.values, by_the_letter.values)), "not the letter's own bits where rectified"
    return applied
