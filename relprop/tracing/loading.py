"""What can be captured: modules, exported programs, and paths of these."""

from __future__ import annotations

from os import PathLike, fspath

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.errors import CaptureError, first_line
from relprop.tracing.batch_axis import refuse_fixed_batch

Model = nn.Module | ExportedProgram | str | PathLike[str]
"""What can be captured: a module (an ``fx.GraphModule`` too), an exported program, the path of a ``.pt2``."""


def load_model(model: Model) -> nn.Module | ExportedProgram:
    """Load a model that is given as a path, and look inside one that ``torch.compile`` wrapped."""
    if isinstance(model, str | PathLike):
        return load_exported(model)
    inner: nn.Module | ExportedProgram = getattr(model, "_orig_mod", model)
    return inner


def load_exported(path: str | PathLike[str]) -> ExportedProgram:
    """Load a ``.pt2`` file.

    Raises
    ------
    CaptureError
        If the file is missing or is no exported program.
    """
    try:
        return torch.export.load(fspath(path))
    except Exception as error:  # zip, pickle and schema errors alike
        raise CaptureError(
            f"{fspath(path)} can't be read as an exported program (.pt2): {first_line(error)}"
        ) from error


def refuse_training(model: nn.Module) -> None:
    """Raise a `CaptureError` if a part of a model is in training mode."""
    # A plain nn.Module only holds others; fx.GraphModule makes such containers, always in training mode.
    training = [path for path, m in model.named_modules() if m.training and type(m) is not nn.Module]
    if training:
        where = ", ".join(repr(path) for path in training[:3] if path) or "the model itself"
        raise CaptureError(
            f"{type(model).__name__} is in training mode (for example {where}), where dropout and batch statistics "
            "make its output random: call model.eval() first"
        )


def refuse_fixed_program(program: ExportedProgram) -> None:
    """Raise a `CaptureError` if a program was exported for one batch size."""
    nodes = {node.name: node for node in program.graph.nodes}
    first = next((nodes[name] for name in program.graph_signature.user_inputs if name in nodes), None)
    if first is not None and isinstance(value := first.meta.get("val"), Tensor) and value.ndim:
        refuse_fixed_batch(value.shape[0])
