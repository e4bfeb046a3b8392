"""The table of reference pictures, in which each channel is most relevant, and the file that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.errors import RelpropError
from relprop.files.hdf5_images import hdf5_written_whole
from relprop.store.hdf5.opening import open_hdf5
from relprop.versions import versions

if TYPE_CHECKING:
    from relprop.explainer import Explainer
    from relprop.models import Classifier

FORMAT = "relprop-references"
VERSION = 1


class ReferencesError(RelpropError, ValueError):
    """A file of reference pictures that can't be read, or was begun with something else."""


@dataclass(frozen=True, eq=False)
class Best:
    """The pictures in which the channels of one layer are most relevant, the best ones first.

    Parameters
    ----------
    share : ndarray
        ``(channels, N)``: relevance of the channel over the sum of all channels' magnitudes; NaN where there is none.
    picture : ndarray
        ``(channels, N)``: place in the list of pictures, -1 where there is none.
    """

    share: NDArray[np.float32]
    picture: NDArray[np.int64]

    @classmethod
    def nothing(cls, channels: int, per_channel: int) -> Best:
        """Return that of no pictures."""
        shape = (channels, per_channel)
        return cls(np.full(shape, np.nan, np.float32), np.full(shape, -1, np.int64))

    def merged(self, share: NDArray[np.float32], first: int) -> Best:
        """Return the best of these and of further pictures, ``(pictures, channels)``, the first at a place in the list.

        Of ties the one that comes first in the list stays in front, so that the order of work decides nothing.
        """
        numbers = np.broadcast_to(np.arange(first, first + len(share)), share.T.shape)
        shares, pictures = np.hstack([self.share, share.T]), np.hstack([self.picture, numbers])
        order = np.argsort(np.where(np.isnan(shares), np.inf, -shares), axis=1, kind="stable")[:, : self.share.shape[1]]
        return Best(np.take_along_axis(shares, order, 1), np.take_along_axis(pictures, order, 1))


@dataclass(frozen=True, eq=False)
class ReferenceTable:
    """Pictures that channels are most relevant in, and what they were collected with.

    Parameters
    ----------
    layers : mapping of str to Best
        By module path.
    pictures : sequence of str
        Paths of all pictures that were explained, below the folder.
    target : ndarray
        ``(pictures,)``, the class that was explained; -1 of those that can't be read.
    config : mapping
        What the numbers depend on.
    folder : Path
        Where the pictures are.
    classifier, explainer
        What they were collected with.
    """

    layers: Mapping[str, Best]
    pictures: Sequence[str]
    target: NDArray[np.int64]
    config: Mapping[str, Any]
    folder: Path
    classifier: Classifier = field(repr=False)
    explainer: Explainer = field(repr=False)

    def of(self, layer: str, channel: int) -> list[tuple[Path, float]]:
        """Return the pictures of a channel and its share of the relevance in each, the best one first.

        Raises
        ------
        ReferencesError
            If there is no such layer or channel.
        """
        if layer not in self.layers:
            raise ReferencesError(f"no references of a layer {layer!r}: there are {', '.join(self.layers)}")
        best = self.layers[layer]
        if not 0 <= channel < len(best.share):
            raise ReferencesError(f"{layer!r} has channels 0 to {len(best.share) - 1}, not {channel}")
        pairs = zip(best.picture[channel].tolist(), best.share[channel].tolist(), strict=True)
        return [(self.folder / self.pictures[place], share) for place, share in pairs if place >= 0]

    def write(self, path: Path) -> None:
        """Write all of it to an HDF5 file, whole or not at all.

        Raises
        ------
        OutputError
        """
        with hdf5_written_whole(path) as file:
            file.attrs["format"], file.attrs["format_version"] = FORMAT, VERSION
            file.attrs["config"] = json.dumps(self.config, sort_keys=True)
            file.attrs["versions"] = json.dumps(versions())
            names = [name.encode(errors="surrogateescape") for name in self.pictures]
            _add(file, "pictures", np.array(names, h5py.string_dtype()), "paths of the pictures below their folder")
            _add(file, "target", self.target, "index of the class explained in each picture; -1: it could not be read")
            for layer, best in self.layers.items():
                group = file.create_group("layers/" + layer)
                words = "channels along axis 0, the best picture first"
                _add(group, "share", best.share, f"relevance of the channel over the layer's |relevance|; {words}")
                _add(group, "picture", best.picture, f"place in the list of pictures, -1: none; {words}")

    def read(self, path: Path) -> Self:
        """Return what a file holds of the same configuration.

        Raises
        ------
        ReferencesError, StoreError
            If it is no such file, or was made with something else.
        """
        with open_hdf5(path, "r") as file:
            if file.attrs.get("format") != FORMAT or file.attrs.get("format_version") != VERSION:
                raise ReferencesError(f"{path} is no file of reference pictures of format version {VERSION}")
            config = json.loads(file.attrs["config"])
            other = [key for key in {*config, *self.config} if config.get(key) != self.config.get(key)]
            if other:
                raise ReferencesError(
                    f"{path} was made with another {', '.join(sorted(other))}: name another file, or remove this one"
                )
            layers = {}
            for layer in self.layers:
                group = file[f"layers/{layer}"]
                layers[layer] = Best(group["share"][...], group["picture"][...])
            pictures = [name.decode(errors="surrogateescape") for name in file["pictures"][...]]
            target = file["target"][...]
        fits = all(
            best.share.shape == best.picture.shape == self.layers[layer].share.shape
            and best.picture.max() < len(pictures)
            for layer, best in layers.items()
        )
        if not fits or len(target) != len(pictures):
            raise ReferencesError(f"{path} is damaged: its tables do not fit each other; remove it and collect again")
        return replace(self, layers=layers, pictures=pictures, target=target)


def _add(group: h5py.Group, name: str, values: Any, description: str) -> None:
    data = group.create_dataset(name, data=values)
    data.attrs["description"] = description
