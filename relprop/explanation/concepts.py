"""Maps of concepts: what flows through single channels of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from relprop.errors import RelpropError
from rule_registry import BatchAxis


@dataclass(frozen=True, eq=False)
class ConceptMaps:
    """Maps of the relevance that flows through single channels of one layer.

    What flows past the layer, as through a branch beside it, is in none of them. Under linear rules the maps of all
    channels, and what flows past, add up to the map of the whole.

    Parameters
    ----------
    channels : Tensor
        Which channels, ``(B, K)``.
    share : Tensor
        Relevance of each at the layer, ``(B, K)``, summed over its positions.
    relevances : mapping of str to Tensor
        The maps at each source, ``(K, *source)``: of a picture ``(K, B, C, H, W)``.
    axes : mapping of str to BatchAxis
        Where the samples lie in each source.
    """

    channels: Tensor
    share: Tensor
    relevances: Mapping[str, Tensor]
    axes: Mapping[str, BatchAxis]

    @property
    def relevance(self) -> Tensor:
        """The maps at the one source, ``(K, *source)``.

        Raises
        ------
        RelpropError
            If there are several.
        """
        if len(self.relevances) > 1:
            raise RelpropError(f"there are several sources; take one of relevances[{', '.join(self.relevances)}]")
        return next(iter(self.relevances.values()))

    def take(self, samples: slice) -> ConceptMaps:
        """Return those of some samples."""
        maps = {name: self.axes[name].take(value, samples, lead=1) for name, value in self.relevances.items()}
        return replace(self, channels=self.channels[samples], share=self.share[samples], relevances=maps)
