"""One interface for all data sets: items by index, or one after the other where there is no length."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from relprop.evaluation.data.folders import Listing, PictureFolder
from relprop.evaluation.data.samples import DataError, Item
from relprop.gae.mosaics import sample_order


@dataclass(frozen=True)
class Source:
    """A data set that returns any of its items by index.

    Parameters
    ----------
    fetch : callable
        From an index to what the data set holds there.
    count : int
        How many samples there are.
    identity : mapping
        What identifies this data set in a file's configuration.
    names : sequence of str
        Of all samples, where they are known without reading them.
    labelled : bool
        False where it is known without reading them that no sample has a label.
    labels : sequence of int, optional
        Of all samples, where they are known without reading them.
    limit, per_class : int, optional
        How many are taken, and how many of each class: the first of the seeded order.
    folder : Path, optional
        Where the pictures lie.
    """

    fetch: Callable[[int], Any]
    count: int
    identity: Mapping[str, Any]
    names: Sequence[str] = ()
    labelled: bool = True
    labels: Sequence[int] | None = None
    limit: int | None = None
    per_class: int | None = None
    folder: Path | None = None

    def order(self, seed: int) -> NDArray[np.int64]:
        """Return the indices of the samples that are taken, in the order that follows from the seed, ``(N,)``."""
        order = sample_order(self.count, seed)
        if self.per_class is not None and self.labels is not None:
            labels = np.asarray(self.labels)[order]
            places = [np.flatnonzero(labels == label)[: self.per_class] for label in np.unique(labels)]
            order = order[np.sort(np.concatenate(places))]
        return order[: self.limit]


@dataclass(frozen=True)
class Stream:
    """A data set without a length, whose items come one after the other."""

    items: Iterable[Any]
    identity: Mapping[str, Any]
    limit: int | None = None

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for index, item in enumerate(self.items):
            if self.limit is not None and index >= self.limit:
                return
            yield index, item


def open_source(
    dataset: Any,
    *,
    class_names: tuple[str, ...] = (),
    identity: str | None = None,
    limit: int | None = None,
    per_class: int | None = None,
    older: bool = False,
) -> Source | Stream:
    """Understand a data set.

    Parameters
    ----------
    dataset
        A path of a folder of pictures, or a `PictureFolder`; an array or tensor of pictures, or a pair of one with its
        labels, an array or a list; anything with a length whose items can be indexed (a PyTorch or Hugging Face data
        set, a list); or any iterable.
    class_names : tuple of str
        To understand the folders of an image folder.
    identity : str, optional
        What identifies the data set, in place of what can be found out.
    limit : int, optional
        Take so many samples alone: the first of the seeded order, or of what comes.
    per_class : int, optional
        Take so many samples of each class: the first of the seeded order.
    older : bool
        Take and order samples as files of format 1 have them: the first of the data set.

    Raises
    ------
    DataError
        It is nothing of the kind.
    """
    for name, value in (("limit", limit), ("per_class", per_class)):
        if value is not None and value < 1:
            raise DataError(f"{name} must be at least 1, not {value}")
    if limit is not None and per_class is not None:
        raise DataError("pass <limit> or <per_class>, not both", limit=str(limit), per_class=str(per_class))
    if isinstance(dataset, str | PathLike | Listing):
        dataset = PictureFolder(dataset, class_names=class_names)
    if isinstance(dataset, tuple) and len(dataset) == 2 and _is_array(dataset[0]) and _are_labels(dataset[1]):
        found = _arrays(dataset[0], np.asarray(dataset[1]) if isinstance(dataset[1], list) else dataset[1])
    elif _is_array(dataset):
        found = _arrays(dataset, None)
    elif isinstance(dataset, DataLoader):
        raise DataError("a DataLoader makes batches of its own: give its data set, and workers= for its workers")
    elif isinstance(dataset, Mapping):
        raise DataError(f"a data set of several splits: give one of them, as dataset[{next(iter(dataset), 'train')!r}]")
    elif isinstance(dataset, IterableDataset) or not _has_length(dataset):
        if per_class is not None:
            raise DataError("the classes of a data set without a length are not known beforehand: per_class needs them")
        return _stream(dataset, identity, limit, older)
    else:
        folder = dataset if isinstance(dataset, PictureFolder) else None
        found = Source(
            dataset.__getitem__,
            len(dataset),
            describe_dataset(dataset),
            folder.names if folder is not None else (),
            folder is None or folder.labels is not None,
            _labels(dataset),
            folder=folder.listing.base if folder is not None else None,
        )
    if found.count < 1:
        raise DataError("the data set is empty")
    described = {"name": identity} if identity is not None else dict(found.identity)
    if older:
        count = found.count if limit is None else min(limit, found.count)
        return replace(found, count=count, identity=described | {"limit": limit})
    if per_class is None:
        return replace(found, identity=described, limit=limit)
    if found.labels is None:
        raise DataError("per_class needs the labels of all samples, known without reading them: give a table of labels")
    return replace(found, identity=described | {"per_class": per_class}, per_class=per_class)


def describe_dataset(dataset: Any) -> dict[str, Any]:
    """Return what identifies a data set, without reading its pictures: its kind and what it says of itself."""
    if isinstance(dataset, PictureFolder):
        return {"kind": "folder", "sha256": dataset.fingerprint()}
    kind = type(dataset)
    found: dict[str, Any] = {"kind": f"{kind.__module__}.{kind.__qualname__}"}
    fingerprint = getattr(dataset, "_fingerprint", None)  # of Hugging Face data sets
    if isinstance(fingerprint, str):
        found["fingerprint"] = fingerprint
    samples = getattr(dataset, "samples", getattr(dataset, "imgs", None))  # of torchvision's folders
    if isinstance(samples, list):
        digest = hashlib.sha256()
        for sample in samples:
            path, label = sample if isinstance(sample, tuple) and len(sample) == 2 else (sample, None)
            digest.update(f"{Path(path).name if isinstance(path, str | Path) else path}\0{label}\n".encode())
        found["sha256"] = digest.hexdigest()
    return found


def describe_function(function: Any) -> str:
    """Return words for a transform that are the same in every process."""
    if isinstance(function, type) or hasattr(function, "__qualname__"):
        return f"{function.__module__}.{function.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(function))


def _labels(dataset: Any) -> Sequence[int] | None:
    """Return the labels of a data set that has them beside its pictures: a folder of ours, or one of torchvision's."""
    found = dataset.labels if isinstance(dataset, PictureFolder) else getattr(dataset, "targets", None)
    if isinstance(found, Tensor | np.ndarray) and found.ndim == 1:
        found = found.tolist()
    complete = isinstance(found, list) and len(found) == len(dataset) and all(isinstance(label, int) for label in found)
    return found if complete else None


def _stream(dataset: Any, identity: str | None, limit: int | None, older: bool) -> Stream:
    if not hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"a {type(dataset).__name__} is no data set: give a folder, an array of pictures, a data set of (image, "
            "label), or an iterable"
        )
    kind = type(dataset)
    described = {"name": identity} if identity is not None else {"kind": f"{kind.__module__}.{kind.__qualname__}"}
    return Stream(dataset, described | ({"limit": limit} if older else {}), limit)


def _arrays(x: Any, labels: Any) -> Source:
    if x.ndim not in (3, 4):
        raise DataError(f"an array of pictures is (N, C, H, W), or uint8 (N, H, W, 3), not {tuple(x.shape)}")

    if labels is not None and len(labels) != len(x):
        raise DataError(f"there are {len(x)} pictures and {len(labels)} labels")

    def fetch(index: int) -> Item:
        return Item(x[index], None if labels is None else labels[index])

    classes = None if labels is None else np.asarray(labels).tolist()
    shape = ", ".join(map(str, x.shape))
    digests = {"sha256": _array_sha256(x)} | ({} if labels is None else {"labels_sha256": _array_sha256(labels)})
    return Source(fetch, len(x), {"kind": f"array ({shape})", **digests}, (), labels is not None, classes)


def _array_sha256(values: Any) -> str:
    digest = hashlib.sha256()
    for row in torch.as_tensor(values) if isinstance(values, Tensor) else np.asanyarray(values):
        array = row.detach().cpu() if isinstance(row, Tensor) else row
        digest.update(np.ascontiguousarray(array.float() if _is_bfloat(array) else array).tobytes())
    return digest.hexdigest()


def _is_bfloat(values: Any) -> bool:
    return isinstance(values, Tensor) and values.dtype == torch.bfloat16  # NumPy has no such type


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | Tensor)


def _are_labels(value: Any) -> bool:
    return _is_array(value) or (isinstance(value, list) and all(isinstance(label, int) for label in value))


def _has_length(dataset: Any) -> bool:
    try:
        len(dataset)
    except TypeError:
        return False
    return hasattr(dataset, "__getitem__")
