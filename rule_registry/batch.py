"""Where the samples of a batch lie inside an activation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BatchAxis:
    """The axis of an activation that carries its samples.

    Inside a graph the batch may be merged with windows or heads. Such an axis has ``factor * B`` entries,
    sample-major: entry ``b * factor + k`` belongs to sample ``b``.

    Parameters
    ----------
    axis : int
        Axis of the activation, counted without the seed axis.
    factor : int
        Entries of the axis that belong to one sample.
    """

    axis: int
    factor: int = 1

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
        if self.factor != 1:
            tensor = tensor.unflatten(axis, (-1, self.factor))
        rest = [d for d in range(lead, tensor.ndim) if d != axis]
        return tensor.sum(rest) if rest else tensor

    def mean(self, activation: Tensor) -> Tensor:
        """Mean of an activation per sample, ``(B,)``."""
        size = math.prod(activation.shape[d] for d in range(activation.ndim) if d != self.axis)
        return self.sum(activation, lead=0) / (size * self.factor)

    def dot(self, relevance: Tensor, activation: Tensor) -> Tensor:
        """Inner product of a relevance with an activation per seed and sample, ``(S, B)``."""
        if self.axis != 0:
            return self.sum(relevance * activation)
        seeds, batch = relevance.shape[0], activation.shape[0] // self.factor
        rows = relevance.reshape(seeds, batch, -1).transpose(0, 1)
        return (rows @ activation.reshape(batch, -1, 1)).squeeze(-1).transpose(0, 1)

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
        before, after = (1,) * self.axis, (1,) * (ndim - self.axis - 1)
        return values.reshape(*values.shape[:-1], *before, values.shape[-1], *after)
