"""Metrics of Quantus as metrics of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from relprop.evaluation.methods.adapters.model_copy import private_copy
from relprop.evaluation.metrics import CustomMetric


def quantus_metric(metric: Any) -> CustomMetric:
    """Make a metric of a Quantus one that needs no explanations but the given ones.

    Parameters
    ----------
    metric : quantus.Metric
        Called with the pictures ``(B, C, H, W)``, the classes ``(B,)`` and the maps. A metric that explains itself must
        know how (``explain_func``). The model it sees is a copy that shares the weights.

    Returns
    -------
    callable
        For ``relprop.evaluate(..., metrics={"complexity": quantus_metric(quantus.Complexity())})``.
    """

    def score(model: Any, x: Tensor, relevance: Tensor, target: Tensor) -> NDArray[Any]:
        if isinstance(model, nn.Module):
            model = private_copy(model)
        found = metric(
            model=model,
            x_batch=x.cpu().numpy(),
            y_batch=target.cpu().numpy(),
            a_batch=relevance.cpu().numpy(),
            device=str(x.device),
            channel_first=True,
        )
        return np.asarray(found, np.float64)

    return score
