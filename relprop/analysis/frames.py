"""Results as tables of pandas and arrays of xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from relprop.analysis.reading import read_rows
from relprop.analysis.records import KEEP_MAPS, MissingMapsError
from relprop.extras import extra
from relprop.store import State

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from relprop.analysis.scores import ScoredSelection

_MASKING = ("logit", "probability", "quadrant_scores")
_LARGE = ("output", "steps", "impact")
_CLASSES = ("label", "prediction", "target")
_DESCRIBED = ("long_name", "units", "valid_range", "direction", "flag_values", "flag_masks", "flag_meanings")


def to_pandas(results: ScoredSelection) -> pd.DataFrame:
    """Return one row for each sample and method, see `Results.to_pandas`."""
    with extra("analysis", "a table"):
        import pandas as pd
    samples = results.samples
    classes = np.array(results.class_names, object)
    probability = results.probability()[:, 0, 0]
    shared: dict[str, Any] = {"sample": samples.index, "name": samples.name.astype(object)}
    for name in _CLASSES:
        found = pd.Series(getattr(samples, name), dtype="Int32")
        shared[name] = found.mask(found < 0)  # a class that is not known is missing, not -1
    shared["target_name"] = [classes[k] if 0 <= k < len(classes) else None for k in samples.target.tolist()]
    shared["probability"] = probability
    tables = []
    for method in results.methods:
        columns: dict[str, Any] = {
            "method": method,
            "control": results.is_control(method),
            "state": [State(code).name.lower() for code in results.state(method).tolist()],
            "message": results.messages(method).astype(object),
            "flags": results.flags(method),
        }
        tables.append(pd.DataFrame(shared | columns | results.scores(method) | {"seconds": results.seconds(method)}))
    if not tables:
        return pd.DataFrame(shared | {"method": ""}).iloc[:0]
    return pd.concat(tables, ignore_index=True)


def to_xarray(results: ScoredSelection, maps: bool) -> xr.Dataset:
    """Return labelled arrays, see `Results.to_xarray`."""
    with extra("analysis", "labelled arrays"):
        import xarray as xr
    file = results._open
    group, rows = file["samples"], results._rows
    coordinates: dict[str, Any] = {
        "sample": ("sample", results.samples.index, {"long_name": "index of the sample in the data set"}),
        # Not called "method": Dataset.sel takes an argument of that name.
        "attribution": ("attribution", np.array(results.methods, object)),
        "control": ("attribution", np.array([results.is_control(method) for method in results.methods], np.int8)),
    }
    variables: dict[str, Any] = {}
    for name in ("name", "message", "state", "flags", *_CLASSES, "quadrant", "mosaic_members", *_MASKING):
        target = coordinates if name in ("name", *_CLASSES) else variables
        # What methods have too, under the same name, belongs to the masking run here.
        own = f"sample_{name}" if name in ("message", "state", "flags") else name
        target[own] = (_dims(group[name]), read_rows(group[name], rows), _described(group[name]))
    if maps:
        for name in _LARGE:
            variables[name] = (_dims(group[name]), results._read(group[name]), _described(group[name]))
        kept = [method for method in results.methods if results.has_maps(method)]
        if not kept:
            raise MissingMapsError(f"{results.path} holds no relevance maps: {KEEP_MAPS}")
    for method in results.methods:
        _add_method(variables, results, method)
    if maps:
        _add_relevance(variables, results, kept)
    used = {dim for dims, *_ in variables.values() for dim in dims} - {"sample", "attribution"}
    for name in sorted(used):
        scale = file[name]
        values = scale.asstr()[:] if h5py.check_string_dtype(scale.dtype) else scale[:]
        coordinates[name] = (name, values, {"long_name": str(scale.attrs["long_name"])})
    attributes = {name: str(file.attrs[name]) for name in ("format", "config", "config_sha256", "created")}
    return xr.Dataset(
        {name: (dims, values, attrs) for name, (dims, values, attrs) in variables.items()}, coordinates, attributes
    )


def _add_method(variables: dict[str, Any], results: ScoredSelection, method: str) -> None:
    """Put what one method has into its row of ``(attribution, sample, ...)``; what others lack is NaN there."""
    place, group = results.methods.index(method), results._group(method)
    found: dict[str, Any] = dict(results.scores(method))
    found |= {"seconds": results.seconds(method), "map_change": results.map_change(method)}
    found |= {"state": results.state(method), "flags": results.flags(method), "message": results.messages(method)}
    for name, values in found.items():
        if name not in variables:
            empty: Any = "" if values.dtype == object else np.nan if values.dtype.kind == "f" else 0
            whole = np.full((len(results.methods), *values.shape), empty, values.dtype)
            variables[name] = (("attribution", *_dims(group[name])), whole, _described(group[name]))
        variables[name][1][place] = values


def _add_relevance(variables: dict[str, Any], results: ScoredSelection, methods: list[str]) -> None:
    """Put the maps of the methods that have some beside each other, channels summed where some have none."""
    maps = {method: results.relevance(method) for method in methods}
    summed = min(values.ndim for values in maps.values()) == 3
    shape = ("y", "x") if summed else ("channel", "y", "x")
    first = next(iter(maps.values()))
    size = first.shape[-2:] if summed else first.shape[1:]
    whole = np.full((len(results.methods), len(results), *size), np.nan, np.float32)
    for method, values in maps.items():
        whole[results.methods.index(method)] = values.sum(1) if summed and values.ndim == 4 else values
    described = {"long_name": "relevance of the picture, for the target", "units": "1"}
    variables["relevance"] = (("attribution", "sample", *shape), whole, described)


def _dims(data: h5py.Dataset) -> tuple[str, ...]:
    """Return the names of a data set's axes."""
    return tuple(str(axis[0].name).rpartition("/")[2] for axis in data.dims)


def _described(data: h5py.Dataset) -> dict[str, Any]:
    return {name: data.attrs[name] for name in _DESCRIBED if name in data.attrs}
