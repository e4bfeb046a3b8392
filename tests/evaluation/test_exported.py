"""Exported programs are evaluated as the models that they were exported from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from relprop.errors import CaptureError
from relprop.evaluation import evaluate
from tests.helpers.evaluations import SCORES, contents, inputs
from tests.helpers.models import kept, pictures

METHODS = ("abslrp", "random")
COUNT = 9


def exported(model: nn.Module) -> ExportedProgram:
    return torch.export.export(model, (pictures(3),), dynamic_shapes=({0: Dim("batch")},))


def test_a_program_scores_as_its_model(tmp_path: Path) -> None:
    program = exported(kept("plain"))
    evaluate(kept("plain"), inputs(COUNT), METHODS, tmp_path / "model.h5")
    torch.export.save(program, tmp_path / "plain.pt2")
    assert evaluate(program, inputs(COUNT), METHODS[1:], tmp_path / "program.h5").complete
    assert evaluate(program, inputs(COUNT), METHODS, tmp_path / "program.h5", resume=True).complete
    found, expected = contents(tmp_path / "program.h5"), contents(tmp_path / "model.h5")
    for method in METHODS:
        for name in SCORES:
            key = f"methods/{method}/{name}"
            np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-5, err_msg=key)


def test_a_program_of_a_model_in_training_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.LazyLinear(3))
    model(pictures(3))
    with pytest.raises(CaptureError, match="exported in training mode"):
        evaluate(exported(model.train()), inputs(COUNT), METHODS, tmp_path / "run.h5")
