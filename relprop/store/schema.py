"""The file of an evaluation, format version 2: this module is its specification.

One run, one HDF5 file, readable by h5py, ``h5ls`` and xarray without this package. MUST and MAY are meant as in
RFC 2119. `relprop.store.layout` has what differs between files, `relprop.store.writing.build` writes what is said here,
and `validate` checks it.

**Root.** The attributes in `ROOT_ATTRIBUTES` MUST be there. ``config`` is canonical JSON (`relprop.store.config`) of
all that the scores depend on and that methods share: model and hash of its weights, data set and hash of its sample
names, protocol, seed, unit, baseline, picture size. It MUST have ``"shard": [i, n]`` (``[0, 1]`` for a run that is
not cut), and ``"samples"``, the size of the whole data set, null where it is not known beforehand. ``complete`` is 1
once every sample has state done or failed, in the masking run and under each method, and 0 before; a file whose
``complete`` is 0 MAY be continued. ``taken`` says how many samples the run has, all shards together; streams have no
such number. ``pictures`` MAY be there, the folder of the pictures: readers MUST NOT look into it unasked. ``stopped``
MAY be there, the rule by which the run ended at ``taken`` samples.

**Order.** The samples of a run are the first ``taken`` of an order of all samples that follows from the seed alone
(`relprop.gae.mosaics.sample_order`), or of those chosen of each class, and each four of them share a mosaic. ``taken``
is no part of the configuration: with more samples all mosaics stay what they are but an incomplete last one, which
MUST be done again, with every method. (Format 1: samples are the first of the data set, in an order of these alone;
there is no ``taken``.)

**Dimensions.** `DIMENSIONS` are HDF5 dimension scales at the root. ``channel`` MAY be missing where nothing has
channels. Every group MUST hold hard links to the scales of its data sets, so that a group opened by itself has
coordinates. ``sample`` holds indices in the data set, in ascending order, each once. A stream is counted from 0, and
before it has ended there MAY be spare rows behind the last one whose state is not absent in ``samples``; readers MUST
NOT count them. ``class`` holds names where they are known, otherwise indices.

**Data sets.** Group ``samples`` has those of `SAMPLE_FIELDS`, what methods share: the masking run and the mosaics.
Group ``methods/NAME`` has one method's, those of `METHOD_FIELDS`, with the attributes ``config`` (canonical JSON),
``config_sha256`` and ``description``. It MAY have further scores, one float column each, which MUST say their
``valid_range`` and ``direction``; and a group ``maps`` with the fields of `MAP_FIELDS`: a group of its own, and
without fill value, because the netCDF library crashes on float16, when it reads it or it has a fill value (so read
maps through h5py, or xarray's engine h5netcdf). Every data set MUST have the attributes ``long_name`` and ``units``;
quantities ``valid_range``; scores ``direction``. Absent floats are NaN (maps are 0, and their ``scale`` is NaN),
integers what the field's ``fill`` says. All floats but maps are of one type, float32 or float64: scores are kept
exactly as computed.

**Strings** of data sets have a fixed length, in bytes of UTF-8, filled up by NUL: a column of them is numbers like any
other, where strings of any length would refer to heaps that a kill can spoil. What is longer is cut at a character,
with an ellipsis in place of what is left out: a ``message`` (`MESSAGE_LENGTH` bytes) loses its end, a ``name`` (as
many bytes as the layout says, those of the longest name where names are known beforehand) its beginning, so a name that
begins with an ellipsis is not the whole path. h5py (``asstr()``) and netCDF4 decode them; xarray with engine h5netcdf
gives bytes, for ``.str.decode("utf-8")``: the attribute by which it would decode them breaks xarray's netcdf4 engine.

**Storage.** What is large, steps, impact, output and maps, has chunks of one sample and MAY be compressed by gzip
(with shuffle), or zstd through hdf5plugin. Everything else MUST NOT be compressed, and is in one piece. All storage
MUST be allocated as soon as its rows exist, and the file MUST NOT use space again that was freed
(``fs_strategy="none"``). So writing a row changes no structure that other rows hang on: values are put in their places,
or at the file's end with one entry of the chunks' index; whatever moment the writer is killed at, what was committed
before is there. Rows and methods are added to a copy, which then takes the file's place; a stream gets twice as many
rows each time. The file is in HDF5's early format (``libver="earliest"``): files in the newer ones, and SWMR's, refuse
to open after their writer was killed.

**Seal.** A file that was closed MUST end with its seal, checksums of all bytes before it: `relprop.store.hdf5.seal`
says how. Who reads it MUST compare what is read, and not decode what differs; who writes MUST take it off before
anything is changed, and put a new one on in closing. A file without was not closed, and is unchecked. (Format 1 has no
seals.)

**After a kill** the file is longer than its superblock says, and entries of rows that were not committed MAY refer to
the space behind that end, which MUST be counted in before anything is allocated: `relprop.store.hdf5.crash_repair`
does so when a run is resumed. Until then, reading large values of rows that are absent can fail; rows that are not
absent are whole.

**States.** ``state`` is 0 while a row is absent, 1 when it is done, 2 when it failed; then ``message`` says why and
its quantities MAY be absent. A row's values count only where its state is not 0. States are written, and flushed,
after the rows they stand for have been flushed.

**Versions.** Readers MUST refuse a ``format_version`` above theirs, and accept all below. Attributes, data sets and
groups MAY be added without a new version; readers MUST ignore those that they don't know. Anything else, as another
meaning, type or shape, is a new version. ``tests/golden`` has a file of each.
A file of an older version stays of that version when it is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

FORMAT: Final = "relprop-evaluation"
FORMAT_VERSION: Final = 2
FIRST_SEALED: Final = 2
"""The first version whose files have checksums."""
FIRST_EXTENSIBLE: Final = 2
"""The first version whose samples are the first of a seeded order of all, so that further ones can follow."""

ROOT_ATTRIBUTES: Final = (
    "format",  # FORMAT
    "format_version",  # FORMAT_VERSION
    "config",  # canonical JSON, see above
    "config_sha256",  # of config's bytes in UTF-8, in hexadecimal
    "versions",  # JSON: versions of the software, by name
    "created",  # ISO 8601, with time zone
    "complete",  # uint8, 0 or 1: netCDF has no truth values
)
METHOD_ATTRIBUTES: Final = ("config", "config_sha256", "description")

ORDERS: Final = ("morf", "lerf")
STATES: Final = 10
MESSAGE_LENGTH: Final = 400
"""Bytes of a message."""
SHORTEST_NAME: Final = 8
"""Bytes: one alone would be a character for netCDF, and an ellipsis needs three."""
SLOTS: Final = ("top left", "top right", "bottom left", "bottom right")


class State(IntEnum):
    """What became of a row."""

    ABSENT = 0
    DONE = 1
    FAILED = 2


FLAGS: Final[Mapping[str, int]] = {
    "faithfulness": 1,
    "robustness": 2,
    "contrastiveness": 4,
    "impact": 8,
    "one_class": 16,
}
"""Bits of ``flags``, as `relprop.gae.Flag`: where a score met 0/0, taken as zero, or is undefined."""

Direction = Literal["higher is better", "lower is better", "none"]
UNIT_RANGE = (0.0, 1.0)
SIGNED_RANGE = (-1.0, 1.0)
ANY_RANGE = (float("-inf"), float("inf"))


@dataclass(frozen=True)
class Dimension:
    """An axis that data sets share."""

    name: str
    long_name: str


DIMENSIONS: Final = (
    Dimension("sample", "index of the sample in the data set"),
    Dimension("order", "order of masking: most relevant first, least relevant first"),
    Dimension("masking_state", "states of the masking run: tenths of the pixels that are masked"),
    Dimension("masked_state", "states of the masking run without the picture itself"),
    Dimension("y", "row of the picture, from the top"),
    Dimension("x", "column of the picture, from the left"),
    Dimension("slot", "place in the mosaic"),
    Dimension("class", "class of the model"),
    Dimension("channel", "channel of the picture"),
)


@dataclass(frozen=True)
class Field:
    """A data set.

    Parameters
    ----------
    name : str
        Within its group.
    dims : tuple of str
        Names of the axes; the first is ``sample``.
    dtype : str
        A NumPy type, ``"float"`` for the file's float type, ``"str"`` for strings in UTF-8.
    long_name : str
        What it holds, for someone who has only the file.
    valid_range : tuple of float, optional
        Smallest and largest value; none for codes and strings.
    direction : str, optional
        Of scores: which is better.
    fill : float
        What an absent integer is; an absent float is NaN, an absent string empty.
    units : str
        ``"1"`` for numbers without.
    meanings : mapping, optional
        Names of the values of codes, or with ``bits`` of the bits.
    bits : bool
        Whether ``meanings`` are of bits.
    large : bool
        Whether it has chunks of one sample, which are compressed.
    required : bool
        Whether rows that are done must come with it.
    length : int
        Bytes of strings.
    keeps_end : bool
        Whether a string that is too long loses its beginning, not its end.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    long_name: str
    valid_range: tuple[float, float] | None = None
    direction: Direction | None = None
    fill: float = 0
    units: str = "1"
    meanings: Mapping[str, int] | None = None
    bits: bool = False
    large: bool = False
    required: bool = True
    length: int = 0
    keeps_end: bool = False


def _score(name: str, long_name: str, valid_range: tuple[float, float]) -> Field:
    return Field(name, ("sample",), "float", long_name, valid_range, "higher is better")


_STATE_MEANINGS: Final = {state.name.lower(): int(state) for state in State}
STATE = Field("state", ("sample",), "uint8", "what became of the row", meanings=_STATE_MEANINGS, required=False)
MESSAGE = Field(
    "message",
    ("sample",),
    "str",
    "why the row failed; else empty, or a remark",
    required=False,
    length=MESSAGE_LENGTH,
)
FLAGS_FIELD = Field(
    "flags",
    ("sample",),
    "uint8",
    "where a score met 0/0, which is taken as zero, or can't be told (one_class)",
    meanings=FLAGS,
    bits=True,
    required=False,
)

SAMPLE_FIELDS: Final = (
    STATE,
    MESSAGE,
    FLAGS_FIELD,
    Field("index", ("sample",), "int64", "index of the sample in the data set, as sample", fill=-1, required=False),
    Field(
        "name",
        ("sample",),
        "str",
        "name of the sample: its path, or what the data set calls it; its end, after an ellipsis, where too long",
        required=False,
        keeps_end=True,
    ),
    Field("label", ("sample",), "int32", "class by the data set; -1 where it is not known", fill=-1, required=False),
    Field("prediction", ("sample",), "int32", "class with the largest output", fill=-1),
    Field("target", ("sample",), "int32", "class that was explained", fill=-1),
    Field("mosaic_members", ("sample", "slot"), "int64", "sample indices of the pictures in the mosaic", fill=-1),
    Field("quadrant", ("sample",), "uint8", "slot of the sample itself in its mosaic; 255 where absent", fill=255),
    Field("quadrant_scores", ("sample", "slot"), "float", "evidence for the target in each quadrant", SIGNED_RANGE),
    Field("logit", ("sample", "order", "masking_state"), "float", "output of the target while masking", ANY_RANGE),
    Field("probability", ("sample", "order", "masking_state"), "float", "probability of the target", UNIT_RANGE),
    Field("output", ("sample", "class"), "float", "output of the model for the picture", ANY_RANGE, large=True),
    Field(
        "steps",
        ("sample", "order", "y", "x"),
        "uint8",
        "step at which a pixel is masked: state t masks steps <= t; 10 for never",
        (1, STATES),
        large=True,
    ),
    Field(
        "impact",
        ("sample", "y", "x"),
        "int8",
        "1 where the model depends on the pixel, -1 where it doesn't, 0 where neither",
        (-1, 1),
        large=True,
    ),
)
"""The length of ``name`` is the layout's. In files of ``protocol="released"`` steps and impact have an axis ``channel``
before y: they are of elements; and scores of mosaics have no range."""

METHOD_FIELDS: Final = (
    STATE,
    MESSAGE,
    FLAGS_FIELD,
    _score("faithfulness", "relevance lies where the model depends on it", SIGNED_RANGE),
    _score("robustness", "the map changes as much as the output while pixels are masked", SIGNED_RANGE),
    _score("unclipped", "faithfulness + robustness", (-2.0, 2.0)),
    _score("local_consistency", "LC = relu(faithfulness + robustness) / 2", UNIT_RANGE),
    _score("contrastiveness_raw", "relevance lies in the mosaic's quadrants of the target", SIGNED_RANGE),
    _score("contrastiveness", "C = relu(contrastiveness_raw)", UNIT_RANGE),
    _score("gae", "GAE = LC * C", UNIT_RANGE),
    Field(
        "map_change",
        ("sample", "order", "masked_state"),
        "float",
        "D(map, map of the masked state)",
        UNIT_RANGE,
        required=False,
    ),
    Field(
        "seconds",
        ("sample",),
        "float",
        "time of all maps of the sample",
        (0.0, float("inf")),
        units="s",
        required=False,
    ),
)

MAP_FIELDS: Final = (
    Field(
        "relevance",
        ("sample", "y", "x"),
        "float16",
        "relevance of the picture over its largest magnitude, scale; 0 where absent",
        SIGNED_RANGE,
        large=True,
    ),
    Field(
        "scale",
        ("sample",),
        "float",
        "largest magnitude of the map: relevance * scale is the map",
        ANY_RANGE,
        required=False,
    ),
)
"""relevance has an axis ``channel`` before y if the channels of maps are kept."""
SCALE_NAMES = tuple(dimension.name for dimension in DIMENSIONS)
