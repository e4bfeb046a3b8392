"""An explanation as a file: what its arrays are, the words that say so, and the kinds of file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from relprop.explanation.maps import Maps
from relprop.files import OutputError, written_whole
from relprop.files.hdf5_images import hdf5_written_whole
from relprop.pictures.tiles import write_png
from relprop.versions import version
from rule_registry import BatchAxis


@dataclass(frozen=True, eq=False)
class Item:
    """An array of an archive, of any shape, with words that say what it is to someone who has only the file."""

    values: NDArray[Any]
    description: str


def save(
    path: str | PathLike[str],
    items: Callable[[], Mapping[str, Item]],
    attributes: Mapping[str, Any],
    draw: Callable[[], Figure],
) -> None:
    """Write a ``.png`` of a figure, or a ``.npz`` or ``.h5`` of arrays, whole or not at all.

    Parameters
    ----------
    path : path
        Its suffix says which.
    items : callable
        Returns what archives hold, by name. In a ``.h5`` each has its ``description`` as an attribute.
    attributes : mapping
        Further numbers and words for the root of a ``.h5``, beside the versions of the software. A ``.npz`` has them,
        and the descriptions, as JSON in an array named ``attributes``.
    draw : callable
        Makes the figure.

    Raises
    ------
    OutputError
        If the kind of file is unknown, or it can't be written.
    """
    path = Path(path)
    attributes = {**attributes, "relprop_version": version("relprop"), "torch_version": str(torch.__version__)}
    if path.suffix == ".png":
        write_png(draw(), path)
    elif path.suffix == ".npz":
        held = items()
        arrays = {name: item.values for name, item in held.items()}
        with written_whole(path) as part, part.open("wb") as file:
            words = {"descriptions": {name: item.description for name, item in held.items()}, **attributes}
            np.savez_compressed(file, allow_pickle=False, attributes=np.array(json.dumps(words)), **arrays)
    elif path.suffix in (".h5", ".hdf5"):
        with hdf5_written_whole(path) as file:
            for name, item in items().items():
                data = file.create_dataset(name, data=item.values, compression="gzip", compression_opts=1, shuffle=True)
                data.attrs["description"] = item.description
            file.attrs.update(attributes)
    else:
        raise OutputError(f"cannot write {path}: the kinds of file are .png, .npz and .h5, not {path.suffix!r}")


def archive_items(explanation: Maps) -> dict[str, Item]:
    """Return the arrays of an explanation by name, each with a description."""
    seeds, several = explanation.seeds, len(explanation.relevances) > 1
    others = _others(explanation)
    kind = "relevance of the target" + (f" minus that of {others}" if others else "")
    items = {}
    for name, value in explanation.relevances.items():
        suffix = f":{name}" if several else ""
        where = f"at {name}, shaped like it"
        items[f"relevance{suffix}"] = Item(_array(value), f"{kind} {where}; {_samples(explanation, name)}")
        if len(seeds[name]) > 1:  # else it would repeat the relevance
            words = f"relevance of the target, then of {others}, along axis 0; both {where}"
            items[f"seeds{suffix}"] = Item(_array(seeds[name]), f"{words}; {_samples(explanation, name, lead=1)}")
    items["output"] = Item(_array(explanation.output), "output of the model; samples along axis 0, then classes")
    if explanation.target is not None:
        items["target"] = Item(_array(explanation.target), "index of the class explained; samples along axis 0")
    if isinstance(explanation.contrast, Tensor):
        words = "index of the class that the target is set against; samples along axis 0"
        items["contrast"] = Item(_array(explanation.contrast), words)
    for name, value in explanation.layer_calls.items():
        where = f"at the output of module {name}, shaped like it; {_samples(explanation, name)}"
        items[f"layer:{name}"] = Item(_array(value), f"{kind} {where}")
    for path, maps in explanation.concepts.items():
        items[f"channels:{path}"] = Item(_array(maps.channels), f"channels of module {path}; samples along axis 0")
        items[f"share:{path}"] = Item(_array(maps.share), f"{kind} at these channels; samples along axis 0")
        for name, value in maps.relevances.items():
            words = f"{kind} at {name} through each channel, along axis 0; {_samples(explanation, name, lead=1)}"
            items[f"concepts:{path}" + (f":{name}" if several else "")] = Item(_array(value), words)
    return items


def _others(explanation: Maps) -> str:
    against = explanation.contrast
    if against is None:
        return ""
    if isinstance(against, Tensor):
        return "another class of each sample"
    words = {"rest": "all other classes", "log-odds": "all other classes, weighed with their probabilities"}
    return f"class {against}" if isinstance(against, int) else words[against]


def _samples(explanation: Maps, name: str, lead: int = 0) -> str:
    mark = explanation.axes.get(name, BatchAxis(0))
    words = f"no unit; samples along axis {mark.axis + lead}"
    if mark.merged:
        words += f", whose entries are ({mark.outer}, samples, {mark.factor}) flattened"
    return words


def _array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor of any shape as an array on the CPU."""
    wide = tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor
    array: NDArray[Any] = wide.cpu().numpy()
    return array
