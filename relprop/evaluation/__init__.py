"""GAE as a stream: any attribution method, over any data set, into one HDF5 file.

`evaluate` does it; `relprop.Results` reads what it wrote. Methods of other libraries are in
`relprop.evaluation.methods`.
"""

from relprop.evaluation.data.folders import PictureFolder
from relprop.evaluation.data.readers import WorkerError
from relprop.evaluation.data.samples import DataError, Item
from relprop.evaluation.evaluate import evaluate
from relprop.evaluation.methods import (
    AttentionRollout,
    CaptumMethod,
    GradCamMethod,
    Method,
    MethodError,
    Precomputed,
    ZennitMethod,
)
from relprop.evaluation.metrics import METRICS, MetricError
from relprop.evaluation.pipeline.explaining import MethodFailureError
from relprop.evaluation.quantus import quantus_metric
from relprop.evaluation.report import Evaluation, Tally

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
