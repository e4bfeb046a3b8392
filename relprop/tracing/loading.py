"""What can be captured: modules, exported programs, and paths of these."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike, fspath

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.errors import CaptureError, first_line
from relprop.tracing.batch_axis import refuse_fixed_batch
from relprop.tracing.inputs import without_plain_values
from relprop.tracing.program_file import unsafe_part

Model = nn.Module | ExportedProgram | str | PathLike[str]
"""What can be captured: a module (an ``fx.GraphModule`` too), an exported program, the path of a ``.pt2``."""


def load_model(model: Model) -> nn.Module | ExportedProgram:
    """Load a model that is given as a path, and look inside one that ``torch.compile`` wrapped."""
    if isinstance(model, str | PathLike):
        return load_exported(model, advice="load it with torch.export.load, and pass the program")
    inner: nn.Module | ExportedProgram = getattr(model, "_orig_mod", model)
    return inner


def load_exported(path: str | PathLike[str], *, trust: bool = False, advice: str = "pass <trust>") -> ExportedProgram:
    """Load a ``.pt2`` file.

    Parameters
    ----------
    path : path
        Of the file.
    trust : bool
        Whether what its maker wrote into it may be carried out, where it holds more than tensors and sizes.
    advice : str
        What to do where the maker is trusted.

    Raises
    ------
    CaptureError
        If the file is missing, is no exported program, or is not trusted.
    """
    try:
        found = None if trust else unsafe_part(path)
    except Exception as error:  # zip and JSON errors alike
        raise CaptureError(
            f"{fspath(path)} can't be read as an exported program (.pt2): {first_line(error)}"
        ) from error
    if found is not None:
        raise CaptureError(
            f"{fspath(path)} is refused, because of {found}: loading it would carry out what its maker wrote. If you "
            f"trust them, {advice}",
            **({"trust": "True"} if "<trust>" in advice else {}),
        )
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


def refuse_unusual_weights(model: nn.Module | ExportedProgram) -> None:
    """Raise a `CaptureError` if a tensor of a model holds no plain values: it is sparse, say, or on ``meta``."""
    for name, tensor in model.state_dict.items() if isinstance(model, ExportedProgram) else _tensors(model):
        if isinstance(tensor, Tensor) and (kind := without_plain_values(tensor)):
            raise CaptureError(
                f"the model's {name} is a {kind} tensor: load its weights first (meta), or make them plain, as "
                "to_dense() does (sparse)"
            )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def refuse_fixed_program(program: ExportedProgram) -> None:
    """Raise a `CaptureError` if a program was exported for one batch size."""
    nodes = {node.name: node for node in program.graph.nodes}
    first = next((nodes[name] for name in program.graph_signature.user_inputs if name in nodes), None)
    if first is not None and isinstance(value := first.meta.get("val"), Tensor) and value.ndim:
        refuse_fixed_batch(value.shape[0])


def callable_program(program: ExportedProgram) -> nn.Module:
    """Return an exported program as a module to call, made anew.

    Its modules say that they are in training and refuse ``eval()``, whatever mode the model was exported in: the
    operations tell that.

    Raises
    ------
    CaptureError
        If an operation was exported in training mode.
    """
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            names = [argument.name for argument in node.target._schema.arguments]
            given = dict(zip(names, node.args, strict=False)) | node.kwargs
            if given.get("train") is True or given.get("training") is True:
                raise CaptureError(
                    f"the program was exported in training mode (for example {node.name}), where dropout and batch "
                    "statistics make its output random: call model.eval() first, and export it again"
                )
    module: nn.Module = program.module()
    for part in module.modules():
        part.training = False
    return module
