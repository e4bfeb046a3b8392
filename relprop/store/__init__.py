"""The HDF5 file of an evaluation: its specification, and who writes, reads and merges it. Imports no torch."""

from relprop.store.errors import (
    BusyError,
    CodecError,
    ConfigurationError,
    FormatError,
    MergeError,
    MissingFileError,
    StoreError,
)
from relprop.store.merge import merge
from relprop.store.reading import open_evaluation
from relprop.store.schema import FLAGS, Field, Layout, Method, Metric, State
from relprop.store.writer import EvaluationWriter

__all__ = [
    "FLAGS",
    "BusyError",
    "CodecError",
    "ConfigurationError",
    "EvaluationWriter",
    "Field",
    "FormatError",
    "Layout",
    "MergeError",
    "Method",
    "Metric",
    "MissingFileError",
    "State",
    "StoreError",
    "merge",
    "open_evaluation",
]
