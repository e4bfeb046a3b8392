"""Sheets of channels: each over the picture that is explained, beside crops of its reference pictures."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from relprop.concepts.table import ReferencesError, ReferenceTable
from relprop.errors import first_line
from relprop.explanation.concepts import ConceptMaps
from relprop.explanation.display import as_pixels
from relprop.explanation.explanation import Explanation
from relprop.models import PictureError
from relprop.pictures.colours import Array, Pixels, overlay, robust_scale
from relprop.pictures.tiles import PLAIN, SIGNED, Tile, scaled, tile_sheet

_SIDE = 208
_SMOOTH, _INSIDE, _LEAST = 1 / 24, 0.2, 1 / 4
"""Of a picture's width: the Gaussian that joins single pixels, and the side of the smallest crop. A crop holds what has
at least this part of the peak's relevance."""


def draw_sheet(
    references: ReferenceTable, explanation: Explanation, images: Any, layer: str | None, sample: int, crops: int
) -> Figure:
    """Draw a sheet, see `References.sheet`."""
    layer = _the_layer(references, explanation, layer)
    picture = as_pixels(images, len(explanation))[sample]
    one = explanation[sample]
    maps = one.concepts[layer]
    heats = _maps(one, maps)[:, 0]
    channels, shares = maps.channels[0].tolist(), maps.share[0].tolist()
    cut = _crops(references, layer, channels, crops)
    rows: list[list[Tile | None]] = []
    for place, (channel, share) in enumerate(zip(channels, shares, strict=True)):
        heat, _ = robust_scale(heats[place])
        first = Tile(_square(overlay(picture, heat)), f"channel {channel}", f"relevance {share:.2g}")
        rows.append([first, *cut[channel]])
    explained = "" if one.target is None else references.classifier.labels[int(one.target[0])]
    caption = (
        f"rules {one.rules}. Left: what flows to the picture through each channel of {layer}. Right: of "
        f"{len(references.pictures)} pictures those in which the channel is most relevant, cut to where its relevance "
        "lies. Below: the channel's share of the layer's relevance in that picture."
    )
    return tile_sheet(rows, caption, explained, legend=SIGNED if (heats < 0).any() else PLAIN)


def _the_layer(references: ReferenceTable, explanation: Explanation, layer: str | None) -> str:
    both = [path for path in explanation.concepts if path in references.layers]
    if layer is None and len(both) == 1:
        return both[0]
    if layer not in both:
        raise ReferencesError(
            f"a sheet needs a layer whose channels the explanation has maps of and that there are references of, not "
            f"{layer!r}: maps of {', '.join(explanation.concepts) or 'none'}, references of "
            f"{', '.join(references.layers)}"
        )
    return layer


def _maps(explanation: Explanation, maps: ConceptMaps) -> Array:
    """Return the maps of channels, summed over colours, ``(K, B, H, W)``."""
    source = explanation.source
    return maps.relevances[source].sum(1 + explanation.picture_axis(source)).cpu().numpy()


def _crops(references: ReferenceTable, layer: str, channels: list[int], count: int) -> dict[int, list[Tile]]:
    """Return crops of the reference pictures of each channel: all are explained in one batch."""
    wanted: list[tuple[int, float]] = []
    inputs: list[Tensor] = []
    failed: dict[int, list[Tile]] = {}
    classifier = references.classifier
    for channel in dict.fromkeys(channels):
        for path, share in references.of(layer, channel)[:count]:
            try:
                inputs.append(classifier.transform(classifier.read(path)))
            except PictureError as error:
                failed.setdefault(channel, []).append(
                    Tile(np.full((_SIDE, _SIDE, 3), 235, np.uint8), first_line(error))
                )
                continue
            wanted.append((channel, share))
    tiles: dict[int, list[Tile]] = {channel: [] for channel in channels}
    if inputs:
        x = torch.stack(inputs).to(classifier.device)
        own = torch.tensor([[channel] for channel, _ in wanted], device=x.device)
        e = references.explainer(x, concepts={layer: own})
        assert isinstance(e.target, Tensor)
        heats, pictures = _maps(e, e.concepts[layer])[0], classifier.pictures(x)
        for place, (channel, share) in enumerate(wanted):
            name = classifier.labels[int(e.target[place])]
            tiles[channel].append(Tile(_crop(pictures[place], heats[place]), name, f"{share:.1%}"))
    return {channel: tiles[channel] + failed.get(channel, []) for channel in tiles}


def _crop(picture: Pixels, heat: Array) -> Pixels:
    """Cut a picture ``(H, W, 3)`` where the relevance ``(H, W)`` lies, and make the rest within the crop pale."""
    height, width = heat.shape
    strength = cv2.GaussianBlur(np.abs(heat).astype(np.float32), (0, 0), _SMOOTH * width)
    peak = float(strength.max())
    if peak == 0:
        return _square(picture)
    inside = strength >= _INSIDE * peak
    rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
    side = int(max(np.ptp(rows) + 1, np.ptp(columns) + 1, _LEAST * width))
    side = min(side, height, width)
    top = _start(rows, side, height)
    left = _start(columns, side, width)
    veil = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), _SMOOTH * width / 2)[..., None]
    shown = picture * (0.35 + 0.65 * veil) + 255 * 0.65 * (1 - veil) * 0.9
    return _square(np.rint(np.clip(shown, 0, 255)).astype(np.uint8)[top : top + side, left : left + side])


def _start(places: NDArray[np.intp], side: int, length: int) -> int:
    """Return where a crop of a side starts along an axis, about places ``(N,)`` and inside of its length."""
    middle = (int(places[0]) + int(places[-1]) + 1) // 2
    return min(max(middle - side // 2, 0), length - side)


def _square(picture: Pixels) -> Pixels:
    """Bring a picture ``(H, W, 3)`` to the height of all tiles."""
    height, width = picture.shape[:2]
    return scaled(picture, (_SIDE, max(1, round(_SIDE * width / height))))
