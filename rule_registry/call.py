"""What a rule receives and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from rule_registry.batch_axis import BatchAxis
from rule_registry.factored import Factored
from rule_registry.tracing import has_values

EPSILON = 1e-9
"""What published code adds to every denominator, whatever its size: see `Call.absolute`."""
HUGE = torch.finfo(torch.float32).max ** 0.5
"""What no activation comes near; a larger number stands for infinity."""
FAR = 1e3
"""What is so many times below the usual magnitude of attention logits, as -1e9, stands for minus infinity."""


@dataclass(frozen=True)
class Slot:
    """One tensor input of an operation: an argument, or an item of an argument that is a list."""

    name: str
    item: int | None = None

    def __str__(self) -> str:
        return self.name if self.item is None else f"{self.name}[{self.item}]"


@dataclass(frozen=True)
class Site:
    """An operation at its place in a model: everything that is known before any tensor flows.

    Parameters
    ----------
    op : OpOverload
        The ATen operation.
    path, module_type : str
        Path and class of the innermost module that called it (``""``: the model itself).
    active : tuple of Slot
        The inputs that are activations: they depend on the source and receive relevance. All other
        inputs are constants.
    nonnegative : tuple of bool
        For each of them, whether the graph proves that it is never negative.
    input_batch : tuple of BatchAxis
        For each of them, where its samples lie.
    output_batch : BatchAxis or tuple
        Where the samples lie in the output; a tuple, with None for what is no activation, where the
        operation returns several tensors.
    first, last : bool
        Whether this is the first, or the last, operation with a weight: one that multiplies by a parameter of two or
        more axes, or by what is computed from parameters alone.
    input : bool
        Whether it is such a layer, and none is before it.
    masked : bool
        Whether entries of the output may stand for minus infinity, as those of attention logits under a mask do.
    attention : bool
        Whether it is a part of attention: its softmax, a product of two activations that feeds or follows the softmax,
        or a layer with a weight that makes queries, keys or values or takes the result.
    attention_weights : Slot, optional
        Of a product that follows the softmax, the factor that comes from it.
    evidence : int
        At the class scores, where the evidence for a class counts whatever the sign of its score: 1 where a larger
        output speaks for the class, -1 where a smaller one does. Elsewhere 0.
    rectified : bool
        Whether relevance arrives only where the output is not negative.
    before_rectifier : bool
        Whether rectifiers alone read the output, through moves and positive scalars at most.
    """

    op: OpOverload
    path: str
    module_type: str
    active: tuple[Slot, ...]
    nonnegative: tuple[bool, ...]
    input_batch: tuple[BatchAxis, ...]
    output_batch: BatchAxis | tuple[BatchAxis | None, ...]
    first: bool = False
    last: bool = False
    input: bool = False
    masked: bool = False
    attention: bool = False
    attention_weights: Slot | None = None
    evidence: int = 0
    rectified: bool = False
    before_rectifier: bool = False


@dataclass(frozen=True)
class Call:
    """One call of an operation: its site, what went in and what came out.

    ``call["weight"]`` is an argument under the name the operation's schema gives it, defaults filled in;
    ``call.inputs`` are the activations among them, in the order in which a rule returns relevances. Where the
    relevance that arrives is ``spent`` nobody else reads it, and a rule may overwrite it: see `times` and `over`. What
    is ``absolute`` is added to every denominator.
    """

    site: Site
    arguments: Mapping[str, Any]
    output: Any
    spent: bool = False
    absolute: float = 0.0

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The activation inputs, of any shapes."""
        return tuple(self.value(slot) for slot in self.site.active)

    @property
    def input(self) -> Tensor:
        """The activation input, ``(*input)``, of an operation that has one.

        Raises
        ------
        NotImplementedError
            If it has several: the rule is not written for that.
        """
        if len(self.site.active) != 1:
            raise NotImplementedError(
                f"{self.site.op} at {self.site.path!r} takes several activations "
                f"({', '.join(map(str, self.site.active))}) where its rule expects one: register a rule for it"
            )
        return self.value(self.site.active[0])

    @property
    def batch(self) -> BatchAxis:
        """Where the samples lie in the output (its first tensor, where there are several)."""
        marks = self.site.output_batch
        mark = marks[0] if isinstance(marks, tuple) else marks
        assert mark is not None, f"{self.site.op} at {self.site.path!r}: the first output is no activation"
        return mark

    @property
    def result(self) -> Tensor:
        """The output, ``(*output)``; its first tensor, where there are several."""
        first = self.output[0] if isinstance(self.output, tuple | list) else self.output
        assert isinstance(first, Tensor)
        return first

    def value(self, slot: Slot) -> Tensor:
        """Return the tensor in a slot, of any shape."""
        value = self.arguments[slot.name]
        tensor = value if slot.item is None else value[slot.item]
        assert isinstance(tensor, Tensor)
        return tensor

    def is_active(self, name: str, item: int | None = None) -> bool:
        """Whether an argument (or an item of it) is an activation."""
        return Slot(name, item) in self.site.active

    def is_nonnegative(self, name: str, item: int | None = None) -> bool:
        """Whether an activation argument is known never to be negative."""
        return self.site.nonnegative[self.site.active.index(Slot(name, item))]


@dataclass(frozen=True)
class Shares:
    """Contributions that are still to be rescaled to the mass that arrived.

    Parameters
    ----------
    values : tuple of Tensor
        One relevance ``(S, *input)`` per activation input.
    masses : tuple of Tensor
        The sum of each per seed and sample, ``(S, B)``.
    total : Tensor
        Magnitude of *all* contributions, also of the negative ones and of constants, ``(S, B)``. Where
        ``masses`` are below 1e-6 of it the relevance can't be handed on and counts as lost.
    """

    values: tuple[Tensor, ...]
    masses: tuple[Tensor, ...]
    total: Tensor


Relevances = Tensor | Factored | Sequence[Tensor | Factored] | Shares
"""What a rule may return: a tensor (or one per activation input) that is the relevance as it stands, also one that is
not multiplied out, or `Shares`, which the engine rescales to the mass that arrived."""


def share(call: Call, *values: Tensor, net: Tensor | None = None, total: Tensor | None = None) -> Shares:
    """Hand contributions to the engine, to be rescaled jointly to the mass that arrived.

    Parameters
    ----------
    call : Call
        The call the contributions belong to.
    *values : Tensor
        Contributions of each activation input, ``(S, *input)``.
    net : Tensor, optional
        Sum of all contributions, positive and negative ones, ``(S, B)``. As the positive ones are what is
        handed on, the magnitude of all of them is then known without a second product.
    total : Tensor, optional
        That magnitude itself, where it is known directly.
    """
    masses = tuple(mark.sum(value) for mark, value in zip(call.site.input_batch, values, strict=True))
    if total is None:
        raw = torch.stack(masses).sum(0)
        total = raw if net is None else 2 * raw - net
    return Shares(values, masses, total)


def denominator(call: Call, delta: float) -> Tensor:
    """Stabilised magnitude of the output, ``(*output)``: ``|z| + delta * mean|z|``, the mean per sample.

    It has no scale of its own. Where all outputs of a sample are zero it is one; where one alone is, as ``delta = 0``
    allows, it is infinite, so that nothing is shared there. Masked attention logits, which carry no relevance, stay out
    of the mean.
    """
    magnitude = call.result.abs()
    if call.absolute and not delta:
        return magnitude.add_(call.absolute)
    if may_be_masked(call):
        open_ = _open(call, magnitude)
        total = call.batch.sum(magnitude.where(open_, 0.0), lead=0)
        mean = total / call.batch.sum(open_.to(magnitude.dtype), lead=0).clamp(min=1)
    else:
        mean = call.batch.mean(magnitude)
    if not delta:
        alone = call.batch.spread(torch.where(mean == 0, 1.0, torch.inf).to(mean.dtype), magnitude.ndim)
        return torch.where(magnitude == 0, alone, magnitude)
    floor = mean.mul(delta).add(call.absolute)
    return magnitude.add_(call.batch.spread(floor.masked_fill(floor == 0, 1.0), magnitude.ndim))


def times(call: Call, relevance: Tensor, factor: Tensor) -> Tensor:
    """Multiply the relevance ``(S, *output)`` that arrived. It may be overwritten: the rule must not read it again."""
    return relevance.mul_(factor) if call.spent else relevance * factor


def over(call: Call, relevance: Tensor, divisor: Tensor) -> Tensor:
    """Divide the relevance ``(S, *output)`` that arrived. It may be overwritten: the rule must not read it again."""
    return relevance.div_(divisor) if call.spent else relevance / divisor


def may_be_masked(call: Call) -> bool:
    """Whether entries of the output may stand for minus infinity: attention logits under a mask.

    Masks are constants, of ``-inf`` or of the most negative number there is. The graph may not show those that are
    added, as they may be inputs of the model.
    """
    return call.site.op in ELEMENTWISE and (call.site.masked or len(call.site.active) == 1)


def _open(call: Call, magnitude: Tensor) -> Tensor:
    """Return where the output of a sum or product is no masked entry: truth values ``(*output)``."""
    open_: Tensor = magnitude < HUGE
    if call.site.masked:
        open_ = open_ & (call.result > -FAR)
    if call.site.op not in SUMS or len(call.site.active) != 1:
        return open_
    for name in ("self", "other"):
        term = call[name]
        if not call.is_active(name) and isinstance(term, Tensor) and term.is_floating_point():
            open_ = open_ & (term > -FAR * _usual(call))
    return open_


def _usual(call: Call) -> Tensor:
    """Return each sample's mean magnitude of the one activation, infinite ones apart, to broadcast to ``(*input)``."""
    x, mark = call.input.abs(), call.site.input_batch[0]
    finite = x < HUGE
    mean = mark.sum(x.where(finite, 0.0), lead=0) / mark.sum(finite.to(x.dtype), lead=0).clamp(min=1)
    return mark.spread(mean, x.ndim)


def unmasked(call: Call, tensor: Tensor) -> Tensor:
    """Put zero for the infinite entries of masked attention logits, of any shape: no relevance is there."""
    return finite(tensor) if may_be_masked(call) else tensor


def finite(tensor: Tensor) -> Tensor:
    """Put zero for the infinite entries of a tensor of any shape; one on a CPU that has none is returned itself."""
    if tensor.is_cpu and has_values(tensor) and bool(tensor.sum().isfinite()):
        return tensor
    return torch.where(tensor.isinf(), 0.0, tensor)


def only_scales(call: Call) -> bool:
    """Whether one factor of a product or quotient is a constant that changes no proportion."""
    return any(_is_scalar(call, call[name]) for name in ("self", "other") if not call.is_active(name))


def _is_scalar(call: Call, factor: Any) -> bool:
    """Whether a constant factor is one number for each sample.

    A number of each sample's own has as many entries as there are samples, and no map may depend on that.
    """
    if not isinstance(factor, Tensor):
        return True
    before = call.result.ndim - factor.ndim
    samples = None if call.batch.merged else call.batch.axis - before
    return all(size == 1 or d == samples for d, size in enumerate(factor.shape))


_aten = torch.ops.aten
SUMS = (_aten.add.Tensor, _aten.sub.Tensor)
ELEMENTWISE = (_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor)
"""Sums and products of entries, which masked ones go through."""


def sum_to(relevance: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum a relevance ``(S, *broadcast)`` back to ``(S, *shape)``: the transpose of broadcasting."""
    extra = relevance.ndim - 1 - len(shape)
    if extra:
        relevance = relevance.sum(list(range(1, extra + 1)))
    stretched = [d for d, size in enumerate(shape, 1) if size == 1 and relevance.shape[d] != 1]
    return relevance.sum(stretched, keepdim=True) if stretched else relevance
