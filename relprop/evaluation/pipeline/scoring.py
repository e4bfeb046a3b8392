"""Scores of a unit under one method, as rows of the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from relprop.evaluation.metrics import MetricInputs, Metrics
from relprop.evaluation.pipeline.explaining import Explained
from relprop.evaluation.pipeline.masking import Masking
from relprop.gae import STATES
from relprop.gae.masking import Baseline
from relprop.gae.procedures import Procedure
from relprop.store import State


def method_rows(
    masking: Masking,
    explained: Explained,
    *,
    metrics: Metrics,
    model: Any,
    baseline: Baseline,
    procedure: Procedure,
    key: Sequence[object],
    keep: str | None,
    remark: str = "",
) -> dict[str, Any]:
    """Score the maps of a unit's samples.

    Parameters
    ----------
    masking : Masking
        Of the unit.
    explained : Explained
        The maps.
    metrics : Metrics
        Beside GAE.
    model : callable
        For them.
    baseline : float, sequence of float or Tensor
        For them.
    procedure : Procedure
        The protocol.
    key : sequence
        What those of anybody's that draw something are seeded by.
    keep : {None, "summed", "channels"}
        What of the maps of pictures goes into the file.
    remark : str
        Why scores of other states are NaN.

    Returns
    -------
    dict
        By names of the file's fields, one entry a scored sample; of failed ones all but state and message are NaN.
    """
    scores, change = procedure.score(masking.run, masking.quadrants, explained.positive)
    count = explained.positive.shape[1]
    failed = np.zeros(count, bool)
    failed[list(explained.errors)] = True
    values: dict[str, Any] = {
        "faithfulness": scores.faithfulness,
        "robustness": scores.robustness,
        "unclipped": scores.unclipped_sum,
        "local_consistency": scores.local_consistency,
        "contrastiveness_raw": scores.contrastiveness_raw,
        "contrastiveness": scores.contrastiveness,
        "gae": scores.gae,
        "map_change": change.value if change is not None else torch.full((count, 2, STATES - 1), torch.nan),
    }
    rows = {name: value.cpu().numpy().copy() for name, value in values.items()}
    good = np.flatnonzero(~failed)
    for name in metrics.names:
        rows[name] = np.full(count, np.nan)
    if len(good) and metrics.names:
        for name, found in metrics.score(
            _metric_inputs(masking, explained, good.tolist(), model, baseline, key)
        ).items():
            rows[name][good] = found
    if keep is not None:
        channels = masking.batch.x.shape[1] if keep == "channels" else 1
        maps = explained.picture
        if maps.shape[1] != channels:  # of a map without channels each has its share
            maps = maps.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
        maps = maps if keep == "channels" else maps[:, 0]
        rows["relevance"] = maps.cpu().numpy().copy()
    for column in rows.values():
        column[failed] = np.nan
    return rows | {
        "flags": np.where(failed, 0, scores.flags.cpu().numpy()),
        "seconds": np.full(count, explained.seconds / count),
        "state": np.where(failed, State.FAILED, State.DONE).astype(np.uint8),
        "message": [explained.errors.get(place, remark) for place in range(count)],
    }


def _metric_inputs(
    masking: Masking, explained: Explained, good: list[int], model: Any, baseline: Baseline, key: Sequence[object]
) -> MetricInputs:
    slots = [masking.batch.scored[place] for place in good]
    samples = [masking.batch.occupants[slot] for slot in slots]
    masks = [sample.mask for sample in samples if sample.mask is not None]
    x = masking.batch.x[slots]
    return MetricInputs(
        model,
        x,
        explained.picture[good],
        masking.run.target[good],
        torch.stack(masks).to(x.device) if masks else None,
        baseline,
        key,
    )
