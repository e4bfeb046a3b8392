"""What an explainer runs."""

from __future__ import annotations

from torch import Tensor

import relprop
from relprop.rewrite.program import RelevanceProgram


def running(explainer: relprop.Explainer, x: Tensor) -> RelevanceProgram:
    """Return the program that explains inputs like these, the one place where tests reach for it."""
    return explainer._ready((x,), {}, None).running
