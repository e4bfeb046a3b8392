"""Checks before anything is written: of what a file is made of, and whether a file is the one that is meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from relprop.store.config import differences, format_differences
from relprop.store.description import read_config, read_layout
from relprop.store.errors import ConfigurationError, StoreError
from relprop.store.layout import Layout, Method
from relprop.store.schema import MAP_FIELDS, METHOD_FIELDS, SAMPLE_FIELDS, SCALE_NAMES, SHORTEST_NAME

_COLUMNS = ("method", "control", "target_name", "attribution")
"""Names that tables and exports give to something else than a field."""

_TAKEN = {"maps", *SCALE_NAMES, *_COLUMNS, *(field.name for field in (*SAMPLE_FIELDS, *METHOD_FIELDS, *MAP_FIELDS))}


def check_index(index: ArrayLike) -> NDArray[np.int64]:
    """Return indices of samples ``(N,)``, ascending."""
    found = np.asarray(index)
    if found.size == 0:
        return np.zeros(0, np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise StoreError(f"indices of samples are whole numbers (N,), not {found.dtype} {found.shape}")
    if found[0] < 0 or (np.diff(found.astype(np.int64)) <= 0).any():
        raise StoreError("indices of samples are ascending, each once, and not negative")
    return found.astype(np.int64)


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a configuration without what merging shards needs."""
    shard, samples = config.get("shard"), config.get("samples", 0)
    if not isinstance(shard, list | tuple) or len(shard) != 2 or not all(type(part) is int for part in shard):
        raise ConfigurationError(f'the configuration needs "shard": [i, n], [0, 1] for a run that is not cut: {shard}')
    if not 0 <= shard[0] < shard[1]:
        raise ConfigurationError(f"shard [i, n] counts from 0 to n - 1, not {list(shard)}")
    if "samples" not in config or not (samples is None or (type(samples) is int and samples >= 0)):
        raise ConfigurationError('the configuration needs "samples", the size of the data set, null if not known')


def check_layout(layout: Layout) -> None:
    """Refuse sizes and storage that no file can have."""
    if min(*layout.size, layout.classes, layout.channels) < 1:
        raise StoreError(f"pictures {layout.size}, channels {layout.channels} and classes {layout.classes} can't be 0")
    if layout.class_names and len(layout.class_names) != layout.classes:
        raise StoreError(f"there are {layout.classes} classes and {len(layout.class_names)} names of them")
    if layout.name_length < SHORTEST_NAME:
        raise StoreError(f"names have at least {SHORTEST_NAME} bytes, not {layout.name_length}")
    if layout.precision not in ("float32", "float64"):
        raise StoreError(f"precision is float32 or float64, not {layout.precision}")
    levels = {"gzip": range(1, 10), "zstd": range(1, 23), None: range(-1, 100)}
    if layout.compression not in levels:
        raise StoreError(f"compression is gzip, zstd or None, not {layout.compression!r}")
    if layout.level not in levels[layout.compression]:
        raise StoreError(f"{layout.compression} has levels {levels[layout.compression]}, not {layout.level}")


def check_methods(methods: Iterable[Method]) -> list[Method]:
    """Return methods; refuse two of one name, and what `check_method` refuses."""
    found = list(methods)
    for method in found:
        check_method(method)
    if len({method.name for method in found}) < len(found):
        raise StoreError("two methods have the same name")
    return found


def check_method_name(name: object) -> None:
    """Refuse what no group of a file can be called."""
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or name in (".", ".."):
        raise StoreError(f"a method can't be called {name!r}: its name is that of a group, without /")


def check_method(method: Method) -> None:
    """Refuse a method whose group or metrics can't be named so."""
    check_method_name(method.name)
    names = [metric.name for metric in method.metrics]
    for name in names:
        if not name or "/" in name or name in (".", "..") or name in _TAKEN:
            raise StoreError(f"a metric of {method.name} can't be called {name!r}")
    if len(set(names)) < len(names):
        raise StoreError(f"two metrics of {method.name} have the same name")
    if method.maps not in (None, "summed", "channels"):
        raise StoreError(f'maps of {method.name} are None, "summed" or "channels", not {method.maps!r}')


def refuse_other_config(file: h5py.File, config: Mapping[str, Any], layout: Layout) -> None:
    """Refuse to continue a file with another configuration, or other sizes; its compression stays."""
    found = differences(read_config(file), config) or _layout_differences(read_layout(file), layout)
    if found:
        words = format_differences(found, "in the file", "now")
        raise ConfigurationError(
            f"{file.filename} was begun with another configuration: {words}. Overwrite it, or choose another file"
        )


def refuse_other_method(path: Path, there: Method, wanted: Method) -> None:
    """Refuse to add a method under a name that another configuration has."""
    found = differences(_as_config(there), _as_config(wanted))
    if wanted.maps is None:
        found.pop("maps", None)  # those that are there do no harm
    if (versions := found.get("config.rule_set_version")) is not None:
        rules = wanted.config.get("rules", there.name)
        raise ConfigurationError(
            f"{path} has {there.name!r} with version {versions[0]} of the rule set {rules!r}; this is version "
            f"{versions[1]}, whose maps are others. Resume the other methods without it, or add it under another name, "
            f"as in {{'{rules} {versions[1]}': {rules!r}}}"
        )
    if found:
        words = format_differences(found, "in the file", "now")
        raise ConfigurationError(
            f"{path} has another method {there.name!r}: {words}. Overwrite it, or give the new one another name"
        )


def _layout_differences(there: Layout, wanted: Layout) -> dict[str, tuple[str, str]]:
    sizes = ("size", "classes", "class_names", "channels", "elements", "precision")
    mine, theirs = ({key: asdict(layout)[key] for key in sizes} for layout in (there, wanted))
    return differences(mine, theirs)


def _as_config(method: Method) -> dict[str, Any]:
    metrics = {metric.name: [*map(str, metric.valid_range), metric.direction] for metric in method.metrics}
    return {"config": dict(method.config), "metrics": metrics, "maps": method.maps}
