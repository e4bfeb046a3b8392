"""What `relprop.concepts.collect_references` returns: reference pictures, and sheets of them."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from relprop.concepts.sheet import draw_sheet
from relprop.concepts.table import ReferenceTable
from relprop.explanation.explanation import Explanation


class References(ReferenceTable):
    """Pictures that channels are most relevant in.

    Parameters
    ----------
    layers, pictures, target, config, folder, classifier, explainer
        As of `relprop.concepts.table.ReferenceTable`.
    """

    def sheet(
        self, explanation: Explanation, images: Any, layer: str | None = None, *, sample: int = 0, crops: int = 5
    ) -> Figure:
        """Draw the channels of one sample, each over its picture, beside crops of its reference pictures.

        Parameters
        ----------
        explanation : Explanation
            Made with ``concepts`` of the layer.
        images : Tensor or ndarray
            The pictures of the batch, as in `Explanation.figure`.
        layer : str, optional
            Which, where there are several.
        sample : int
            Which of the batch.
        crops : int
            Reference pictures of each channel.

        Raises
        ------
        ReferencesError
            If the explanation has no concepts of a layer that there are references of.
        """
        return draw_sheet(self, explanation, images, layer, sample, crops)
