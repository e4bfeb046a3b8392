"""What an explainer runs."""

from __future__ import annotations

from torch import Tensor

import relprop
from relprop.rewrite.program import RelevanceProgram
from relprop.tracing.inputs import check_inputs


def running(explainer: relprop.Explainer, x: Tensor) -> RelevanceProgram:
    """Return the program that explains inputs like these."""
    return explainer.prepare(check_inputs(x, None)).in_place_program
