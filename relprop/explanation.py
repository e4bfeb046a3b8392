"""What `relprop.explain` returns."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from relprop.conservation import Conservation
from relprop.errors import RelpropError
from relprop.pictures import overlay, robust_scale, sheet
from relprop.saving import save
from relprop.steps import widen


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
        pictures, heats = as_pixels(images), self._heats()
        scaled, _ = robust_scale(heats)
        return np.stack([overlay(picture, heat) for picture, heat in zip(pictures, scaled, strict=True)])

    def save(self, path: str | PathLike[str], images: Tensor | NDArray[np.uint8] | None = None) -> None:
        """Write maps as ``.png``, over ``images`` where given, or all tensors as ``.npz`` or ``.h5``.

        Raises
        ------
        OutputError
            If the kind of file is unknown, or it can't be written; nothing half written is left.
        """
        attributes = {
            "rules": self.rules,
            "conservation_error": self.conservation.error,
            "lost": self.conservation.lost,
        }
        save(path, self._arrays(), attributes, lambda: self.show(images))

    def show(self, images: Tensor | NDArray[np.uint8] | None = None) -> Figure:
        """Draw the maps of the batch; in a notebook the figure shows itself."""
        return sheet(self._heats(), None if images is None else as_pixels(images))

    def _arrays(self) -> dict[str, NDArray[Any]]:
        several = len(self.relevances) > 1
        tensors = {f"relevance:{k}" if several else "relevance": v for k, v in self.relevances.items()}
        tensors["output"] = self.output
        if self.target is not None:
            tensors["target"] = self.target
        for path, value in self.layers.items():
            parts = value if isinstance(value, list) else [value]
            tensors |= {f"layer:{path}" + (f"@{k}" if k else ""): part for k, part in enumerate(parts)}
        return {name: widen(tensor).cpu().numpy() for name, tensor in tensors.items()}

    def _heats(self) -> NDArray[np.float64]:
        heats: NDArray[np.float64] = self.heatmap().cpu().double().numpy()
        return heats

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.show().savefig(buffer, format="png")
        return buffer.getvalue()

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.relevances.items())
        return f"Explanation({shapes}, rules={self.rules!r})\n{self.conservation}"


def as_pixels(images: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pictures as uint8 RGB ``(B, H, W, 3)``, from that or from tensors ``(B, 3, H, W)`` in [0, 1]."""
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or images.min() < 0 or images.max() > 1:
            raise RelpropError(
                f"pictures must be (B, 3, H, W) in [0, 1], or uint8 (B, H, W, 3), not {tuple(images.shape)} from "
                f"{float(images.min()):.2f} to {float(images.max()):.2f}: undo the normalisation first"
            )
        return (images.permute(0, 2, 3, 1).cpu().float() * 255).round().to(torch.uint8).numpy()
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise RelpropError(f"pictures must be uint8 (B, H, W, 3), not {images.dtype} {images.shape}")
    return images
