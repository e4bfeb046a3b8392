"""Programs and operations that capture is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import relprop


def exported(model: nn.Module, x: Tensor) -> ExportedProgram:
    return torch.export.export(model, (x,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)


def operations(model: Any, x: Any, **settings: Any) -> set[Any]:
    return {site.op for site in relprop.Explainer(model, **settings).plan(x).sites.values()}
