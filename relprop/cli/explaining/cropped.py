"""One photograph explained crop by crop, and its joined map written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from relprop.explainer import Explainer
from relprop.explanation.archive import Item
from relprop.explanation.captions import contrast_words
from relprop.explanation.display import legend_for
from relprop.explanation.explanation import Explanation
from relprop.models import Classifier
from relprop.models.crops import Crops, cut_crops
from relprop.pictures import Array, Pixels, class_sheet, robust_scale, scale_words
from relprop.pictures.bands import shown

LONG_SIDE = 1200
"""Pixels along the longer side of what is drawn."""


@dataclass(frozen=True, eq=False)
class Joined:
    """The map of one photograph.

    Parameters
    ----------
    path : Path
        Its file.
    picture : ndarray (H, W, 3)
        uint8 RGB.
    crops : Crops
        What the model saw.
    heat : ndarray (H, W)
        Relevance for the class, in the unit of the output.
    target : int
        The class.
    probabilities : Tensor (N, classes)
        Of the crops.
    parts : tuple of Explanation
        Those of the crops, some at once.
    """

    path: Path
    picture: Pixels
    crops: Crops
    heat: Array
    target: int
    probabilities: Tensor
    parts: tuple[Explanation, ...]

    def items(self) -> dict[str, Item]:
        """Return the arrays of an archive."""
        return {
            "relevance": Item(self.heat, "relevance of each pixel of the picture (H, W), joined from its crops"),
            "boxes": Item(np.array(self.crops.boxes), "left, top, right, bottom of each crop, in pixels (N, 4)"),
            "probability": Item(
                self.probabilities[:, self.target].numpy(), "of the class explained, in each crop (N,)"
            ),
        }

    def figure(self, classifier: Classifier, words: str) -> Figure:
        """Draw the map, over the picture and alone."""
        height, width = self.heat.shape
        scale = min(1.0, LONG_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = np.asarray(cv2.resize(self.heat, size, interpolation=cv2.INTER_AREA), np.float32)
        heats, scales = robust_scale(small[None])
        most = float(self.probabilities[:, self.target].max())
        title = f"{classifier.labels[self.target]}, at most {most:.1%} in a crop"
        against = contrast_words(self.parts[0], classifier.labels)
        caption = f"{words}{', ' + against if against else ''}; {scale_words(float(scales[0]))}\n"
        caption += f"{len(self.crops.boxes)} crops explained for this class, and their maps joined"
        pixels = np.asarray(cv2.resize(self.picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        return class_sheet(pixels, heats, [title], caption, legend=legend_for(self.parts[0], classifier.labels))


def explain_crops(
    path: Path,
    classifier: Classifier,
    explainer: Explainer,
    crops: int | Literal["tiles"],
    target: int | None,
    size: int,
) -> Joined:
    """Explain the crops of one photograph, all for the same class: by default that of the whole picture.

    Raises
    ------
    RelpropError
        If it can't be read, cut or explained.
    """
    picture = classifier.read(path)
    cut = cut_crops(classifier, picture, crops)
    if target is None:
        whole = classifier.transform(picture)[None].to(classifier.device)
        with torch.inference_mode():
            target = int(classifier.scores(whole)[0].argmax())
    batches = (cut.x[k : k + size].to(classifier.device) for k in range(0, len(cut.x), size))
    parts = tuple(explainer(batch, target) for batch in batches)
    heat = cut.join(torch.cat([part.summed().float().cpu() for part in parts]))
    probabilities = torch.cat([part.probabilities.float().cpu() for part in parts])
    return Joined(path, shown(picture), cut, heat, target, probabilities, parts)
