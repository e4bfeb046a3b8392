"""The HDF5 file of an evaluation: its specification, and functions that write, read and merge it. Imports no torch."""

from relprop.store.damage import Damage, Survey, survey
from relprop.store.description import (
    is_complete,
    method_names,
    read_config,
    read_format,
    read_layout,
    read_method,
    read_pictures,
    read_planned,
)
from relprop.store.errors import (
    BusyError,
    ConfigurationError,
    DamageError,
    FormatError,
    MergeError,
    MissingFileError,
    StoreError,
)
from relprop.store.layout import Extent, Layout, Method, Metric
from relprop.store.merge import merge
from relprop.store.reading import open_evaluation
from relprop.store.schema import FLAGS, Field, State
from relprop.store.snapshot import Snapshot, open_run
from relprop.store.split import split
from relprop.store.validation import validate
from relprop.store.writing.checks import check_method_name
from relprop.store.writing.rows import name_length
from relprop.store.writing.writer import EvaluationWriter

__all__ = [
    "FLAGS",
    "BusyError",
    "ConfigurationError",
    "Damage",
    "DamageError",
    "EvaluationWriter",
    "Extent",
    "Field",
    "FormatError",
    "Layout",
    "MergeError",
    "Method",
    "Metric",
    "MissingFileError",
    "Snapshot",
    "State",
    "StoreError",
    "Survey",
    "check_method_name",
    "is_complete",
    "merge",
    "method_names",
    "name_length",
    "open_evaluation",
    "open_run",
    "read_config",
    "read_format",
    "read_layout",
    "read_method",
    "read_pictures",
    "read_planned",
    "split",
    "survey",
    "validate",
]
