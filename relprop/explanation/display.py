"""How an explanation shows itself: a sheet of its maps, and what a notebook gets."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from relprop.errors import RelpropError
from relprop.explanation.captions import (
    caption_words,
    caution,
    contrast_words,
    nearly_same,
    others_words,
    single_answer,
    target_words,
)
from relprop.explanation.grids import LayoutError
from relprop.explanation.layouts import draw_sources, is_picture
from relprop.explanation.maps import Maps
from relprop.pictures.colours import PALE, PERCENTILE, Array, robust_scale, scale_note
from relprop.pictures.sheets import layer_sheet, map_sheet
from relprop.pictures.tiles import PLAIN, SIGNED, Legend, encode
from relprop.printed import Table, html_of, picture_html

NOTEBOOK_SAMPLES = 16
"""Samples of a batch that a notebook shows; a larger picture would only slow it down."""


def draw(
    explanation: Maps,
    images: Tensor | NDArray[np.uint8] | None = None,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    remark: str = "",
) -> Figure:
    """Draw the maps of a batch over images ``(B, ...)``, see `Explanation.figure`; ``remark`` goes into the caption."""
    samples = len(explanation)
    lines = images if isinstance(images, Tensor) and images.ndim == 3 else None
    pictures = None if images is None or lines is not None else as_pixels(images, samples)
    titles = default_titles(explanation) if titles is None else titles
    if len(titles) != samples:
        raise RelpropError(f"there are {len(titles)} titles for {samples} samples")
    if not is_picture(explanation):
        below = _words(explanation, "each source has a scale of its own", remark)
        return draw_sources(explanation, pictures, lines, titles, below, legend_for(explanation), caution(explanation))
    scaled, notes = {}, {}
    undrawn = []
    for name in (None, *explanation.layer_calls):
        try:
            heats, scales = heats_of(explanation, name)
        except LayoutError:
            if name is None:
                raise
            undrawn.append(f"{name} {tuple(explanation.layer_calls[name].shape)}")
            continue
        scaled[name or "input"] = heats
        notes[name or "input"] = [scale_note(float(scale)) for scale in scales]
    more = "overlays are smoothed and rescaled to the map's peak" if pictures is not None else ""
    more += f"\nno maps, so not drawn: {', '.join(undrawn)}" if undrawn else ""
    caption = _words(explanation, more, remark)
    legend, warning = legend_for(explanation), caution(explanation)
    if not explanation.layers:
        heats, words = scaled["input"], notes["input"]
        return map_sheet(
            pictures, heats, titles, caption, columns=columns or 4, notes=words, legend=legend, caution=warning
        )
    return layer_sheet(
        pictures,
        titles,
        [{name: heats[k] for name, heats in scaled.items()} for k in range(samples)],
        caption,
        columns=columns or 7,
        notes=[{name: words[k] for name, words in notes.items()} for k in range(samples)],
        legend=legend,
        caution=warning,
    )


def _words(explanation: Maps, more: str, remark: str) -> str:
    """Say below a drawing what its maps are."""
    against = contrast_words(explanation)
    caption = (
        f"rules {explanation.rules}{', ' if against else ''}{against}; colours saturate at the {PERCENTILE:g}th "
        "percentile of each map's |relevance|, given below it"
    )
    caption += more if more.startswith("\n") else f"; {more}" if more else ""
    return "\n".join(filter(None, [caption, caption_words(explanation), remark]))


def heats_of(explanation: Maps, layer: str | None = None) -> tuple[NDArray[np.float64], Array]:
    """Return the maps at the input or at a layer as they are drawn, ``(B, H, W)`` in [-1, 1], and the scale of each.

    Maps that are `nearly_same` as those they are set against are pale.

    Raises
    ------
    LayoutError
        The layer has no maps.
    """
    heats, scales = robust_scale(explanation.summed(layer).cpu().numpy())
    return np.where(nearly_same(explanation)[:, None, None], PALE, 1.0) * heats, scales


def notebook_picture(explanation: Maps) -> bytes | None:
    """Return the maps of the first samples as PNG; None where there is nothing to draw."""
    try:
        return encode(draw(explanation[:NOTEBOOK_SAMPLES], remark=_remark(explanation)))
    except LayoutError:  # a notebook shows the numbers; the error is for those who draw it themselves
        return None


def notebook_html(explanation: Maps) -> str:
    """Return the maps of the first samples, their targets, and how far to trust them as self-contained HTML."""
    kept, png = explanation.conservation, notebook_picture(explanation)
    facts = {
        "relevance of": ", ".join(f"{name} {tuple(value.shape)}" for name, value in explanation.relevances.items()),
        "rules": explanation.rules,
        "contrast": contrast_words(explanation) or "none",
    }
    if remark := _remark(explanation):
        facts["shown"] = remark
    header = ["sample", *(["target", "probability"] if explanation.target is not None else [])]
    header += ["conservation error"] if kept.cuts else []
    rows = []
    for k in range(min(len(explanation), NOTEBOOK_SAMPLES)):
        row = [str(k)]
        if explanation.target is not None:
            probability = float(explanation.probability[k])
            row += [str(int(explanation.target[k])), f"{probability:.1%}" if isfinite(probability) else "-"]
        rows.append(row + ([f"{float(kept.errors[k]):.1e}"] if kept.cuts else []))
    image = ""
    if png is not None:
        image = picture_html(png, "relevance maps")
    lines = [*(f"{name}: {value}" for name, value in facts.items()), str(kept)]
    return f"<div>{image}{html_of([*lines, Table(header, rows, words=0)])}</div>"


def as_pixels(images: Tensor | NDArray[np.uint8], samples: int) -> NDArray[np.uint8]:
    """Return pictures as uint8 RGB ``(B, H, W, 3)``, from that, or from tensors in [0, 1] of either order of axes.

    Raises
    ------
    RelpropError
        If they are something else, or not one per sample.
    """
    if len(images) != samples:
        raise RelpropError(f"there are {len(images)} pictures for {samples} samples")
    if isinstance(images, Tensor):
        if images.ndim == 4 and images.shape[3] == 3 and images.shape[1] != 3:
            images = images.permute(0, 3, 1, 2)
        if images.ndim != 4 or images.shape[1] != 3 or images.min() < 0 or images.max() > 1:
            raise RelpropError(
                f"pictures must be (B, 3, H, W) in [0, 1], or uint8 (B, H, W, 3), not {tuple(images.shape)} from "
                f"{float(images.min()):.2f} to {float(images.max()):.2f}: undo the normalisation first"
            )
        return (images.detach().permute(0, 2, 3, 1).cpu().float() * 255).round().to(torch.uint8).numpy()
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise RelpropError(f"pictures must be uint8 (B, H, W, 3), not {images.dtype} {images.shape}")
    return images


def legend_for(explanation: Maps, labels: Sequence[str] | None = None) -> Legend:
    """Return what the colours of an explanation's maps stand for; classes by name where there are."""
    pale = bool(nearly_same(explanation).all())
    if explanation.contrast is not None:
        low, high = (words(explanation, labels) for words in (others_words, target_words))
        return Legend(f"more for {low}", f"more for {high}", pale=pale)
    return SIGNED if any(bool((value < 0).any()) for value in explanation.relevances.values()) else PLAIN


def default_titles(explanation: Maps) -> list[str]:
    """Return a name per sample: the class explained and its probability."""
    if explanation.target is None:
        return [f"sample {k}" for k in range(len(explanation))]
    if explanation.output.shape[1] == 1:
        return single_answer(explanation)
    pairs = zip(explanation.target.tolist(), explanation.probability.tolist(), strict=True)
    return [
        f"class {target}" + (f"  {probability:.1%}" if isfinite(probability) else "") for target, probability in pairs
    ]


def _remark(explanation: Maps) -> str:
    many = len(explanation) > NOTEBOOK_SAMPLES
    return f"the first {NOTEBOOK_SAMPLES} of {len(explanation)} samples; show() draws all" if many else ""
