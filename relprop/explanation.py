"""What `relprop.explain` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from relprop.conservation import Conservation
from relprop.errors import RelpropError


@dataclass(frozen=True, eq=False)
class Explanation:
    """Relevance of one batch, with the numbers that tell whether to trust it.

    Parameters
    ----------
    relevances : mapping of str to Tensor
        Relevance of each source, shaped like it; of a picture ``(B, C, H, W)``. Positive for the target, negative,
        under a contrast, for the other classes.
    seeds : mapping of str to Tensor
        The maps of each seed before they are combined, ``(S, B, C, H, W)``.
    output : Tensor
        What the model returned, ``(B, classes)``.
    target : Tensor or None
        The classes explained, ``(B,)``; None where the target is a callable.
    layers : mapping of str to Tensor or list of Tensor
        Relevance at the outputs of the modules asked for, shaped like them; a list for a module called repeatedly.
    conservation : Conservation
        Where the relevance went.
    rules : str
        Name of the rule set.
    """

    relevances: Mapping[str, Tensor]
    seeds: Mapping[str, Tensor]
    output: Tensor
    target: Tensor | None
    conservation: Conservation
    rules: str
    layers: Mapping[str, Tensor | list[Tensor]] = field(default_factory=dict)

    @property
    def relevance(self) -> Tensor:
        """Relevance of the one source.

        Raises
        ------
        RelpropError
            If there are several; they are in ``relevances``.
        """
        if len(self.relevances) > 1:
            raise RelpropError(f"there are several sources; take one of relevances[{', '.join(self.relevances)}]")
        return next(iter(self.relevances.values()))

    @property
    def probability(self) -> Tensor:
        """Softmax probability of the target, ``(B,)``.

        Raises
        ------
        RelpropError
            If the target is a callable.
        """
        if self.target is None:
            raise RelpropError("the target is a callable, so it has no class probability")
        return self.output.float().softmax(1).gather(1, self.target[:, None])[:, 0]

    def heatmap(self) -> Tensor:
        """Sum the channels and divide by the largest magnitude of each sample, ``(B, H, W)`` in [-1, 1].

        Raises
        ------
        RelpropError
            If the source is no picture ``(B, C, H, W)``.
        """
        relevance = self.relevance
        if relevance.ndim != 4:
            raise RelpropError(f"a heat map needs a source (B, C, H, W), not {tuple(relevance.shape)}")
        heat = relevance.sum(1)
        largest = heat.abs().amax((1, 2), keepdim=True)
        return heat / torch.where(largest == 0, 1.0, largest)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.relevances.items())
        return f"Explanation({shapes}, rules={self.rules!r})\n{self.conservation}"
