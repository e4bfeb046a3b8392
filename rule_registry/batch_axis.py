"""Where the samples of a batch lie inside an activation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BatchAxis:
    """The axis of an activation that carries its samples.

    Inside a graph the batch may be merged with windows, heads or positions. Such an axis has
    ``outer * B * factor`` entries, of which entry ``(o * B + b) * factor + k`` belongs to sample ``b``.

    Parameters
    ----------
    axis : int
        Axis of the activation, counted without the seed axis.
    factor : int
        Neighbouring entries of the axis that belong to one sample.
    outer : int
        How often the samples follow each other along the axis (nn.MultiheadAttention merges positions and samples
        so).
    """

    axis: int
    factor: int = 1
    outer: int = 1

    @property
    def merged(self) -> bool:
        """Whether the axis holds more than the samples."""
        return self.factor != 1 or self.outer != 1

    def rows(self, activation: Tensor) -> Tensor:
        """Reshape an activation to one row per sample, ``(B, -1)``."""
        front = activation.movedim(self.axis, 0)
        if self.merged:
            front = front.unflatten(0, (self.outer, -1, self.factor)).movedim(1, 0)
        return front.reshape(front.shape[0], -1)

    def take(self, tensor: Tensor, samples: slice, lead: int = 0) -> Tensor:
        """Return the part of some samples, ``(*lead, *activation)`` with ``lead`` axes in front."""
        axis = self.axis + lead
        if not self.merged:
            return tensor[(slice(None),) * axis + (samples,)]
        parts: Tensor = tensor.unflatten(axis, (self.outer, -1, self.factor))
        return parts[(slice(None),) * (axis + 1) + (samples,)].flatten(axis, axis + 2)

    def sum(self, tensor: Tensor, lead: int = 1) -> Tensor:
        """Sum a tensor over everything but its ``lead`` first axes and its samples.

        Parameters
        ----------
        tensor : Tensor
            A relevance ``(S, *activation)`` with ``lead=1``, or an activation with ``lead=0``.
        lead : int
            Axes in front of the activation's own.

        Returns
        -------
        Tensor
            ``(S, B)``, or ``(B,)`` with ``lead=0``.
        """
        axis = self.axis + lead
        if self.merged:
            tensor = tensor.unflatten(axis, (self.outer, -1, self.factor))
            axis += 1
        rest = [d for d in range(lead, tensor.ndim) if d != axis]
        return tensor.sum(rest) if rest else tensor.clone()  # a sum stays as it is when its terms are overwritten

    def mean(self, activation: Tensor) -> Tensor:
        """Mean of an activation per sample, ``(B,)``."""
        size = math.prod(activation.shape[d] for d in range(activation.ndim) if d != self.axis)
        return self.sum(activation, lead=0) / (size * self.factor * self.outer)

    def dot(self, relevance: Tensor, activation: Tensor) -> Tensor:
        """Inner product of a relevance with an activation per seed and sample, ``(S, B)``."""
        return self.sum(relevance * activation)

    def dot_(self, relevance: Tensor, activation: Tensor) -> Tensor:
        """Inner product, ``(S, B)``, that overwrites the relevance: a rule's own intermediate result at its last use.

        A product of the size of all seeds' activations costs more to allocate than to compute.
        """
        return self.sum(relevance.mul_(activation))

    def spread(self, values: Tensor, ndim: int) -> Tensor:
        """Reshape per-sample values so that they broadcast against an activation (or its relevance).

        Parameters
        ----------
        values : Tensor
            ``(B,)`` or ``(S, B)``.
        ndim : int
            Number of axes of the activation, without the seed axis.
        """
        if self.factor != 1:
            values = values.repeat_interleave(self.factor, dim=-1)
        if self.outer != 1:
            values = values.repeat(*(1,) * (values.ndim - 1), self.outer)
        before, after = (1,) * self.axis, (1,) * (ndim - self.axis - 1)
        return values.reshape(*values.shape[:-1], *before, values.shape[-1], *after)
