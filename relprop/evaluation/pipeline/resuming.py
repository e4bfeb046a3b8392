"""Whether a resumed file was begun with the same pictures and the same model, by the model's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from relprop.evaluation.data.readers import Reserve
from relprop.evaluation.subject import EvaluatedModel
from relprop.store import ConfigurationError, EvaluationWriter, State

COMPARED = 4
"""Samples of which the outputs are compared."""

TOLERANCE = 0.02
"""How far outputs may be off, over the largest: other batches, devices and precisions of matrix products are less."""


def require_same_outputs(path: Path, writer: EvaluationWriter, subject: EvaluatedModel, reserve: Reserve) -> None:
    """Compare the model's outputs for some samples that are done with those in the file.

    Parameters
    ----------
    path : Path
        Of the file.
    writer : EvaluationWriter
        Which has it open.
    subject : EvaluatedModel
        The model.
    reserve : Reserve
        Reads samples.

    Raises
    ------
    ConfigurationError
        They differ.
    """
    rows = np.flatnonzero(writer.sample_states() == State.DONE)[:COMPARED]
    expected = writer.read_samples(rows, ["output"])["output"]
    for index, output in zip(writer.index[rows].tolist(), expected, strict=True):
        x = reserve[index].x
        if x is None:
            continue  # where it is needed again, an error says so
        with torch.no_grad():
            found = subject.call(x.unsqueeze(0).to(subject.device))[0].cpu().to(torch.float64).numpy()
        off, largest = float(np.abs(found - output).max()), float(np.abs(output).max())
        if off > TOLERANCE * largest:
            raise ConfigurationError(
                f"{path} was begun with other pictures or another model: for sample {index} the model's output is now "
                f"off by {off:.2g}, the largest being {largest:.2g}. Overwrite it, or choose another file"
            )
