"""The layout of one file: sizes, storage, and the methods with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from relprop.store.schema import ANY_RANGE, MAP_FIELDS, METHOD_FIELDS, SAMPLE_FIELDS, Direction, Field


@dataclass(frozen=True)
class Metric:
    """A score of a method beside GAE's, ``(N,)``; its name is that of its data set."""

    name: str
    long_name: str
    valid_range: tuple[float, float]
    direction: Direction

    @property
    def field(self) -> Field:
        """As a data set."""
        return Field(self.name, ("sample",), "float", self.long_name, self.valid_range, self.direction)


@dataclass(frozen=True)
class Method:
    """A method as its group describes it.

    Parameters
    ----------
    name : str
        Of the group: not empty, without ``/``, not ``.`` or ``..``.
    config : mapping
        All that its maps depend on and JSON can say: rule set, parameters, layer, version of its package.
    description : str
        In words.
    metrics : tuple of Metric
        Scores beside GAE's.
    maps : {None, "summed", "channels"}
        Whether maps are kept, ``(N, H, W)`` or ``(N, C, H, W)``.
    """

    name: str
    config: Mapping[str, Any]
    description: str = ""
    metrics: tuple[Metric, ...] = ()
    maps: Literal["summed", "channels"] | None = None


@dataclass(frozen=True)
class Extent:
    """Which samples a file has rows for.

    Parameters
    ----------
    index : sequence of int
        Indices of the samples in the data set, ``(N,)``, ascending.
    planned : int
        How many the whole run has, all shards together.
    """

    index: Sequence[int]
    planned: int


@dataclass(frozen=True)
class Layout:
    """Sizes and storage of a file.

    Parameters
    ----------
    size : tuple of int
        Height and width of pictures as the model takes them.
    classes : int
        How many outputs the model has.
    class_names : tuple of str
        Their names; empty where not known.
    channels : int
        Of pictures.
    elements : bool
        Whether steps and impact are of elements, ``(..., C, H, W)``, as in ``protocol="released"``.
    precision : {"float32", "float64"}
        Type of all floats but maps.
    compression : {"gzip", "zstd", None}
        Of what is large.
    level : int
        Of the compression: 1 to 9 for gzip, 1 to 22 for zstd.
    name_length : int
        Bytes of samples' names; what is longer loses its beginning.
    """

    size: tuple[int, int]
    classes: int
    class_names: tuple[str, ...] = ()
    channels: int = 3
    elements: bool = False
    precision: Literal["float32", "float64"] = "float32"
    compression: Literal["gzip", "zstd"] | None = "gzip"
    level: int = 1
    name_length: int = 255


UNBOUNDED = ("quadrant_scores", "contrastiveness_raw", "contrastiveness", "gae")
"""What has no range where a mosaic is rated as in ``protocol="released"``."""


def numpy_type(field: Field, layout: Layout) -> str:
    """Return the NumPy type of a field in a file, or ``"str"``."""
    return layout.precision if field.dtype == "float" else field.dtype


def sample_fields(layout: Layout) -> tuple[Field, ...]:
    """Return the data sets of group ``samples``."""
    return tuple(_laid_out(field, layout) for field in SAMPLE_FIELDS)


def method_fields(method: Method, layout: Layout | None = None) -> tuple[Field, ...]:
    """Return the data sets of a method's group, without its maps; the layout tells in which range values are."""
    fields = METHOD_FIELDS if layout is None else tuple(_laid_out(field, layout) for field in METHOD_FIELDS)
    return (*fields, *(metric.field for metric in method.metrics))


def map_fields(method: Method) -> tuple[Field, ...]:
    """Return the data sets of a method's group ``maps``; none if it keeps none."""
    if method.maps is None:
        return ()
    relevance, scale = MAP_FIELDS
    return (_with_channels(relevance) if method.maps == "channels" else relevance, scale)


def _with_channels(field: Field) -> Field:
    at = field.dims.index("y")
    return replace(field, dims=(*field.dims[:at], "channel", *field.dims[at:]))


def _laid_out(field: Field, layout: Layout) -> Field:
    if field.name == "name":
        return replace(field, length=layout.name_length)
    if layout.elements and field.name in ("steps", "impact"):
        return _with_channels(field)
    if layout.elements and field.name in UNBOUNDED:
        return replace(field, valid_range=ANY_RANGE)
    return field
