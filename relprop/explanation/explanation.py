"""What `relprop.explain` returns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from relprop.explanation.archive import archive_items, save
from relprop.explanation.display import as_pixels, default_titles, draw, notebook_html
from relprop.explanation.maps import Maps
from relprop.explanation.screen import show_figure
from relprop.explanation.tokens import Tokenizer, Tokens, tokens_of
from relprop.pictures import overlay, robust_scale


class Explanation(Maps):
    """Relevance of one batch, with the numbers that tell whether to trust it.

    Parameters
    ----------
    relevances, seeds, output, target, conservation, rules, layers, axes, contrast
        As of `relprop.explanation.maps.Maps`: tensors shaped like the sources and layers they belong to.
    """

    def heatmap(self, layer: str | None = None) -> Tensor:
        """Sum the channels and divide by the largest magnitude of each sample, ``(B, H, W)`` in [-1, 1].

        Parameters
        ----------
        layer : str, optional
            As in `summed`.

        Raises
        ------
        RelpropError
            As `summed` does.
        """
        heat = self.summed(layer)
        largest = heat.abs().amax((1, 2), keepdim=True)
        return heat / torch.where(largest == 0, 1.0, largest)

    def overlay(self, images: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Lay the heat maps over their pictures, relevance as opacity.

        Parameters
        ----------
        images : Tensor or ndarray
            ``(B, 3, H, W)`` in [0, 1], or ``(B, H, W, 3)`` uint8.

        Returns
        -------
        ndarray
            ``(B, H, W, 3)`` uint8 RGB.
        """
        pictures = as_pixels(images, len(self))
        scaled, _ = robust_scale(self.summed().cpu().numpy())
        return np.stack([overlay(picture, heat) for picture, heat in zip(pictures, scaled, strict=True)])

    def save(
        self,
        path: str | PathLike[str],
        images: Tensor | NDArray[np.uint8] | None = None,
        titles: Sequence[str] | None = None,
        attributes: Mapping[str, str | float] | None = None,
    ) -> None:
        """Write what `figure` draws as ``.png``, or all tensors as ``.npz`` or ``.h5``.

        Parameters
        ----------
        path : path
            Its suffix says which.
        images, titles
            For a ``.png``, as in `figure`: images are ``(B, 3, H, W)`` or ``(B, H, W, 3)``.
        attributes : mapping, optional
            Further words and numbers for an archive; ``.npz`` has them as JSON in its array ``attributes``.

        Raises
        ------
        OutputError
            If the kind of file is unknown, or it can't be written; nothing half written is left.
        """
        against = self.contrast
        contrast = "none" if against is None else "one class per sample" if isinstance(against, Tensor) else against
        entries: dict[str, str | float] = {"rules": self.rules, "contrast": contrast}
        if self.provenance is not None:
            entries |= {name: json.dumps(value) for name, value in self.provenance.as_dict().items()}
        if self.conservation.cuts:
            entries |= {"conservation_error": self.conservation.error, "lost": self.conservation.lost}
        save(path, lambda: archive_items(self), entries | dict(attributes or {}), lambda: self.figure(images, titles))

    def figure(
        self,
        images: Tensor | NDArray[np.uint8] | None = None,
        titles: Sequence[str] | None = None,
        columns: int | None = None,
    ) -> Figure:
        """Draw the maps of the batch.

        Where ``layers`` were named, each sample has a row: its map at the input, then at each layer.

        Parameters
        ----------
        images : Tensor or ndarray, optional
            Pictures to draw over, ``(B, 3, H, W)`` in [0, 1], or ``(B, H, W, 3)`` uint8.
        titles : sequence of str, optional
            A name per sample. The default is the class index and its probability.
        columns : int, optional
            Maps in a row; by default 4, and 7 where there are layers.

        Raises
        ------
        RelpropError
            If the source is no picture ``(B, C, H, W)``, or there isn't one image and title per sample.
        """
        return draw(self, images, titles, columns)

    def show(
        self,
        images: Tensor | NDArray[np.uint8] | None = None,
        titles: Sequence[str] | None = None,
        columns: int | None = None,
    ) -> None:
        """Show what `figure` draws: in a notebook below the cell, also inside of a loop; from a script in a window.

        Where there is neither a notebook nor a screen a `RelpropWarning` says how to write a file instead.

        Parameters
        ----------
        images, titles, columns
            As in `figure`: images are ``(B, 3, H, W)`` or ``(B, H, W, 3)``.
        """
        show_figure(self.figure(images, titles, columns))

    def tokens(self, tokenizer: Tokenizer, titles: Sequence[str] | None = None, source: str | None = None) -> Tokens:
        """Return the tokens of a text with their relevance: coloured in a notebook, a terminal, and as PNG.

        Parameters
        ----------
        tokenizer : object
            What has ``decode(ids)``, as those of Hugging Face; a function of an index; or a sequence of words.
        titles : sequence of str, optional
            A name per sample.
        source : str, optional
            Which input, where several are token indices.

        Raises
        ------
        RelpropError
            If no input is token indices, ``(B, tokens)``.
        """
        return tokens_of(self, tokenizer, default_titles(self) if titles is None else titles, source)

    def _repr_html_(self) -> str:
        return notebook_html(self)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.relevances.items())
        return f"Explanation({shapes}, rules={self.rules!r})\n{self.conservation}"
