"""GAE as a stream: any attribution method, over any data set, into one HDF5 file.

`evaluate` does it; `relprop.Results` reads what it wrote. Methods of other libraries are in
`relprop.evaluation.methods`.
"""

from relprop.evaluation.evaluating import evaluate
from relprop.evaluation.explaining import MethodFailureError
from relprop.evaluation.folders import PictureFolder
from relprop.evaluation.further import METRICS, MetricError
from relprop.evaluation.methods import (
    AttentionRollout,
    CaptumMethod,
    GradCamMethod,
    Method,
    MethodError,
    Precomputed,
    ZennitMethod,
)
from relprop.evaluation.quantus import quantus_metric
from relprop.evaluation.reading import WorkerError
from relprop.evaluation.report import Evaluation, Tally
from relprop.evaluation.samples import DataError, Item

__all__ = [
    "METRICS",
    "AttentionRollout",
    "CaptumMethod",
    "DataError",
    "Evaluation",
    "GradCamMethod",
    "Item",
    "Method",
    "MethodError",
    "MethodFailureError",
    "MetricError",
    "PictureFolder",
    "Precomputed",
    "Tally",
    "WorkerError",
    "ZennitMethod",
    "evaluate",
    "quantus_metric",
]
