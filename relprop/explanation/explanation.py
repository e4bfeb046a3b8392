"""What `relprop.explain` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from relprop.assign.targets import Against
from relprop.errors import RelpropError
from relprop.explanation.archive import archive_items
from relprop.explanation.display import as_pixels, draw, notebook_html, notebook_picture
from relprop.explanation.grids import LayoutError, find_map
from relprop.pictures import overlay, robust_scale
from relprop.run.conservation import Conservation
from relprop.saving import save
from rule_registry import BatchAxis


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
        What the model returned, ``(B, classes)``, also of a single sample whose batch axis the model squeezes away.
    target : Tensor or None
        The classes explained, ``(B,)``; None where the target is a callable.
    layers : mapping of str to Tensor or list of Tensor
        Relevance at the outputs of the modules asked for, shaped like them; a list for a module called repeatedly.
    axes : mapping of str to BatchAxis
        Where the samples lie in sources and layers (``"path@1"``: a module's second call), if not along axis 0.
    conservation : Conservation
        Where the relevance went.
    rules : str
        Name of the rule set.
    contrast : int, "rest" or None
        What was subtracted: the relevance of this class, or of all other classes.
    """

    relevances: Mapping[str, Tensor]
    seeds: Mapping[str, Tensor]
    output: Tensor
    target: Tensor | None
    conservation: Conservation
    rules: str
    layers: Mapping[str, Tensor | list[Tensor]] = field(default_factory=dict)
    axes: Mapping[str, BatchAxis] = field(default_factory=dict)
    contrast: Against = None

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
        """Probability of the target, ``(B,)``, see `class_probabilities`.

        Raises
        ------
        RelpropError
            If the target is a callable.
        """
        if self.target is None:
            raise RelpropError("the target is a callable, so it has no class probability")
        return class_probabilities(self.output).gather(1, self.target[:, None])[:, 0]

    def __len__(self) -> int:
        return len(self.output)

    def __getitem__(self, samples: int | slice) -> Explanation:
        """Return the explanation of some samples; of a single one as a batch of one.

        Raises
        ------
        IndexError
            If there are no such samples.
        """
        if isinstance(samples, slice):
            if not range(len(self))[samples]:
                raise IndexError(f"no samples {samples} in a batch of {len(self)}")
            if samples.step is not None and samples.step < 1:
                raise IndexError(f"the step must be positive, not {samples.step}: tensors have no negative steps")
        else:
            if not -len(self) <= samples < len(self):
                raise IndexError(f"no sample {samples} in a batch of {len(self)}")
            at = range(len(self))[samples]
            samples = slice(at, at + 1)

        def layer(path: str, value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
            parts = value if isinstance(value, list) else [value]
            taken = [self._axis(layer_name(path, k)).take(part, samples) for k, part in enumerate(parts)]
            return taken if isinstance(value, list) else taken[0]

        return replace(
            self,
            relevances={name: self._axis(name).take(value, samples) for name, value in self.relevances.items()},
            seeds={name: self._axis(name).take(value, samples, lead=1) for name, value in self.seeds.items()},
            output=self.output[samples],
            target=None if self.target is None else self.target[samples],
            conservation=self.conservation.take(samples),
            layers={path: layer(path, value) for path, value in self.layers.items()},
        )

    @property
    def layer_calls(self) -> dict[str, Tensor]:
        """The tensors of ``layers`` one by one; ``"path@1"`` is the second call of a module."""
        return {
            layer_name(path, k): part
            for path, value in self.layers.items()
            for k, part in enumerate(value if isinstance(value, list) else [value])
        }

    def summed(self, layer: str | None = None) -> Tensor:
        """Sum relevance over the channels, ``(B, H, W)``.

        Parameters
        ----------
        layer : str, optional
            A module of ``layers`` in place of the source, see ``layer_calls``. Tokens that are not of the picture
            (class, distillation, registers) are left out.

        Raises
        ------
        LayoutError
            If the source is no picture ``(B, C, H, W)``, or the layer's output has no spatial layout.
        RelpropError
            If there are several sources, or no such layer.
        """
        if layer is None:
            if self.relevance.ndim != 4:
                raise LayoutError(f"a heat map needs a source (B, C, H, W), not {tuple(self.relevance.shape)}")
            return self.relevance.sum(1)
        calls = self.layer_calls
        if layer not in calls:
            there = f"there are {', '.join(calls)}" if calls else "name it in layers=[...] of relprop.explain"
            raise RelpropError(f"no relevance of a layer {layer!r}: {there}")
        mark, value = self._axis(layer), calls[layer]
        picture = next(((v.shape[2], v.shape[3]) for v in self.relevances.values() if v.ndim == 4), (1, 1))
        found = None if mark.merged else find_map(value.movedim(mark.axis, 0), picture)
        if found is None:
            raise LayoutError(
                f"the output of {layer!r} has no spatial layout that its shape {tuple(value.shape)} would tell, so it "
                f"can't be drawn; its relevance is in layers[{layer.partition('@')[0]!r}]"
            )
        return found

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
        """Write what `show` draws as ``.png``, or all tensors as ``.npz`` or ``.h5``.

        Parameters
        ----------
        path : path
            Its suffix says which.
        images, titles
            For a ``.png``, as in `show`.
        attributes : mapping, optional
            Further words and numbers for an archive; ``.npz`` has them as JSON in its array ``attributes``.

        Raises
        ------
        OutputError
            If the kind of file is unknown, or it can't be written; nothing half written is left.
        """
        contrast = "none" if self.contrast is None else self.contrast
        known: dict[str, str | float] = {"rules": self.rules, "contrast": contrast}
        if self.conservation.cuts:
            known |= {"conservation_error": self.conservation.error, "lost": self.conservation.lost}
        save(path, archive_items(self), known | dict(attributes or {}), lambda: self.show(images, titles))

    def show(
        self,
        images: Tensor | NDArray[np.uint8] | None = None,
        titles: Sequence[str] | None = None,
        columns: int | None = None,
    ) -> Figure:
        """Draw the maps of the batch; in a notebook the figure shows itself.

        Where layers were asked for, each sample has a row: its map at the input, then at each layer.

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

    def _axis(self, name: str) -> BatchAxis:
        return self.axes.get(name, BatchAxis(0))

    def _repr_png_(self) -> bytes | None:
        return notebook_picture(self)

    def _repr_html_(self) -> str:
        return notebook_html(self)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.relevances.items())
        return f"Explanation({shapes}, rules={self.rules!r})\n{self.conservation}"


def layer_name(path: str, call: int) -> str:
    """Name a module's output: by its path, and for later calls of the same module by their number."""
    return f"{path}@{call}" if call else path


def class_probabilities(output: Tensor) -> Tensor:
    """Return the probabilities of the classes, ``(B, classes)``: the softmax, or the output where it is one already.

    A single output may be a logit, a probability or neither: NaN.
    """
    output = output.float()
    if output.shape[1] == 1:
        return torch.full_like(output, torch.nan)
    if bool((output >= 0).all()) and bool((output.sum(1) - 1).abs().max() < SUM_TO_ONE):
        return output
    return output.softmax(1)


SUM_TO_ONE = 1e-3
"""How far from one the sum of a row of probabilities may be, in half precision."""
