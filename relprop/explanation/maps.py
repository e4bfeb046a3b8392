"""The data of an explanation: relevance by source and layer, with its target, output and conservation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from relprop.assign.contrasts import Against
from relprop.errors import RelpropError
from relprop.explanation.concepts import ConceptMaps
from relprop.explanation.grids import LayoutError, find_map, picture_channels
from relprop.explanation.provenance import Provenance
from relprop.graph.ending import Link
from relprop.run.conservation import Conservation
from rule_registry import BatchAxis


@dataclass(frozen=True, eq=False)
class Maps:
    """Relevance of one batch, and what it belongs to: the data of an `Explanation`.

    Parameters
    ----------
    relevances : mapping of str to Tensor
        Relevance of each source, shaped like it; of a picture ``(B, C, H, W)``. Positive for the target, negative,
        under a contrast, for the other classes. Of an integer input that looks values up, as a category does in an
        embedding, it is that of the values, summed over all that one entry chose; under gradients, times the values.
    seeds : mapping of str to Tensor
        The maps of each seed before they are combined, ``(S, *source)``, of a picture ``(S, B, C, H, W)``: of the
        target, and of what it is set against; under linear rules one of both.
    output : Tensor
        What the model returned, ``(B, classes)``, also of a single sample whose batch axis the model squeezes away;
        under a callable target what that returned, ``(B,)``.
    target : Tensor or None
        The classes explained, ``(B,)``; None where the target is a callable.
    layers : mapping of str to Tensor or list of Tensor
        Relevance at the outputs of the modules in ``layers``, shaped like them; a list for a module called repeatedly.
    axes : mapping of str to BatchAxis
        Where the samples lie in sources and layers (``"path@1"``: a module's second call), if not along axis 0.
    conservation : Conservation
        Where the relevance went.
    rules : str
        Name of the rule set.
    contrast : int, Tensor, "rest", "log-odds" or None
        What was subtracted: the relevance of this class, of one class per sample ``(B,)``, or of all other classes,
        alike or as probable as they are.
    provenance : Provenance, optional
        What made the maps: rule set, versions, weights. Files record it.
    link : {"softmax", "sigmoid", "output", "exp"}
        What turns the output into probabilities: one of two functions, nothing, as it is made of probabilities already,
        or, as it is made of their logarithms, the exponential.
    channels : mapping of str to int
        The axis of the channels of sources and layers, where the graph, or the user, tells it.
    looked_up : tuple of str
        The sources that are integers which look values up.
    indices : mapping of str to Tensor
        These integers themselves, shaped like their relevance.
    concepts : mapping of str to ConceptMaps
        Maps of single channels, by layer.
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
    provenance: Provenance | None = None
    link: Link = "softmax"
    channels: Mapping[str, int] = field(default_factory=dict)
    looked_up: tuple[str, ...] = ()
    indices: Mapping[str, Tensor] = field(default_factory=dict)
    concepts: Mapping[str, ConceptMaps] = field(default_factory=dict)

    @property
    def relevance(self) -> Tensor:
        """Relevance of the one source, shaped like it; beside integers that look values up, of the one that does not.

        Raises
        ------
        RelpropError
            If there are several; they are in ``relevances``.
        """
        return self.relevances[self.source]

    @property
    def source(self) -> str:
        """Name of the source that ``relevance`` is of.

        Raises
        ------
        RelpropError
            As ``relevance`` does.
        """
        names = [name for name in self.relevances if name not in self.looked_up] or list(self.relevances)
        if len(names) > 1:
            raise RelpropError(f"there are several sources; take one of relevances[{', '.join(self.relevances)}]")
        return names[0]

    @property
    def probability(self) -> Tensor:
        """Probability of the target, ``(B,)``; NaN where a single output tells none.

        Raises
        ------
        RelpropError
            If the target is a callable.
        """
        probabilities = self.probabilities
        assert self.target is not None  # else there are no probabilities
        return probabilities.gather(1, self.target[:, None])[:, 0]

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of all classes, ``(B, classes)``, see `class_probabilities`.

        Raises
        ------
        RelpropError
            If the target is a callable.
        """
        if self.target is None:
            raise RelpropError("the target is a callable, so it has no class probability")
        return class_probabilities(self.output, self.link)

    def __len__(self) -> int:
        return len(self.output)

    def __getitem__(self, samples: int | slice) -> Self:
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
            selected = [self._axis(layer_name(path, k)).take(part, samples) for k, part in enumerate(parts)]
            return selected if isinstance(value, list) else selected[0]

        return replace(
            self,
            relevances={name: self._axis(name).take(value, samples) for name, value in self.relevances.items()},
            seeds={name: self._axis(name).take(value, samples, lead=1) for name, value in self.seeds.items()},
            output=self.output[samples],
            target=None if self.target is None else self.target[samples],
            conservation=self.conservation.take(samples),
            layers={path: layer(path, value) for path, value in self.layers.items()},
            contrast=self.contrast[samples] if isinstance(self.contrast, Tensor) else self.contrast,
            indices={name: self._axis(name).take(value, samples) for name, value in self.indices.items()},
            concepts={path: maps.take(samples) for path, maps in self.concepts.items()},
        )

    @property
    def layer_calls(self) -> dict[str, Tensor]:
        """The tensors of ``layers`` one by one, shaped like outputs; ``"path@1"`` is a module's second call."""
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
            If the source is no picture ``(B, C, H, W)`` or ``(B, H, W, C)``, or nothing tells which of the two; or the
            layer's output has no spatial layout.
        RelpropError
            If there are several sources, or no such layer.
        """
        if layer is None:
            if self.relevance.ndim != 4:
                raise LayoutError(f"a heat map needs a source (B, C, H, W), not {tuple(self.relevance.shape)}")
            return self.relevance.sum(self.picture_axis(self.source))
        calls = self.layer_calls
        if layer not in calls:
            there = f"there are {', '.join(calls)}" if calls else "name it with <layers>"
            raise RelpropError(f"no relevance of a layer {layer!r}: {there}", layers="[...]")
        mark, value = self._axis(layer), calls[layer]
        picture = next((self._size(name) for name, v in self.relevances.items() if v.ndim == 4), (1, 1))
        found = None if mark.merged else find_map(value.movedim(mark.axis, 0), picture, self.channels.get(layer))
        if found is None:
            raise LayoutError(
                f"the output of {layer!r} has no spatial layout that its shape {tuple(value.shape)} would tell, so it "
                f"can't be drawn; its relevance is in layers[{layer.partition('@')[0]!r}]"
            )
        return found

    def picture_axis(self, source: str) -> int:
        """Return the axis of the channels of a source that is a picture.

        Raises
        ------
        LayoutError
            If nothing tells.
        """
        return picture_channels(self.relevances[source].shape, self.channels.get(source))

    def axis_to_sum(self, source: str) -> int:
        """Return the axis that maps of a source are summed over where they are compared: 1 where nothing tells."""
        try:
            return self.picture_axis(source) if self.relevances[source].ndim == 4 else 1
        except LayoutError:
            return 1

    def _size(self, source: str) -> tuple[int, int]:
        """Return height and width of a picture."""
        shape, channels = self.relevances[source].shape, self.axis_to_sum(source)
        height, width = (size for axis, size in enumerate(shape) if axis not in (0, channels))
        return height, width

    def _axis(self, name: str) -> BatchAxis:
        return self.axes.get(name, BatchAxis(0))


def layer_name(path: str, call: int) -> str:
    """Name a module's output: by its path, and for later calls of the same module by their number."""
    return f"{path}@{call}" if call else path


def class_probabilities(output: Tensor, link: Link = "softmax") -> Tensor:
    """Return the probabilities of the classes, ``(B, classes)``, as a model's graph or its user says they are made.

    A single output whose link is not known may be a logit or anything else: NaN.
    """
    output = output.float()
    if link == "softmax":
        return torch.full_like(output, torch.nan) if output.shape[1] == 1 else output.softmax(1)
    if link == "sigmoid":
        return output.sigmoid()
    return output.exp() if link == "exp" else output.clone()
