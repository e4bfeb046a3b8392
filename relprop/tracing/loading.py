"""What can be captured: modules, exported programs, and paths of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from os import PathLike, fspath

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.errors import CaptureError, first_line
from relprop.graph.arguments import bind_arguments
from relprop.tracing.batch_axis import refuse_fixed_batch
from relprop.tracing.converted import is_converted, load_converted
from relprop.tracing.program_file import unsafe_part
from relprop.tracing.unusual_tensors import without_plain_values

Model = nn.Module | ExportedProgram | str | PathLike[str]
"""What can be captured: a module (an ``fx.GraphModule`` too), an exported program, the path of one or of a model in
ONNX or Keras."""


def load_model(model: Model) -> nn.Module | ExportedProgram:
    """Load a model that is given as a path, and look inside one that ``torch.compile`` wrapped.

    Raises
    ------
    CaptureError
        If it is no model.
    """
    if isinstance(model, str | PathLike) and is_converted(model):
        return load_converted(model)[0]
    if isinstance(model, str | PathLike):
        return load_exported(model, advice="load it with torch.export.load, and pass the program")
    inner: object = getattr(model, "_orig_mod", model)
    if not isinstance(inner, nn.Module | ExportedProgram):
        raise CaptureError(_what_is_no_model(inner))
    return inner


def _what_is_no_model(given: object) -> str:
    """Say what was given in the place of a model, and what to give."""
    if given is None:
        return "the model is None: did the function that builds or loads it return nothing?"
    if isinstance(given, type):
        return f"the model is the class {given.__name__}, not a model of it: make one, {given.__name__}(...).eval()"
    if isinstance(given, Mapping):
        return (
            f"the model is a {type(given).__name__} with {len(given)} entries; if that is a state dict, build the "
            "model and give it these weights by model.load_state_dict(...)"
        )
    owner = getattr(given, "__self__", None)
    if isinstance(owner, nn.Module):
        return (
            f"the model is the method {getattr(given, '__name__', '')} of a {type(owner).__name__}: pass the "
            f"{type(owner).__name__} itself, or a module whose forward calls that method"
        )
    if callable(given):
        inner = given.func if isinstance(given, partial) else given
        name = getattr(inner, "__name__", type(inner).__name__)
        kind = "partial of" if isinstance(given, partial) else "function" if hasattr(inner, "__code__") else "object"
        return (
            f"the model is the {kind} {name}, and what it computes with can't be found: write an nn.Module that has "
            f"the models it calls as attributes, and calls {name} in its forward"
        )
    accepted = "pass an nn.Module, an exported program, or the path of a .pt2, .onnx or .keras file"
    return f"the model is a {type(given).__name__}: {accepted}"


def device_of(model: nn.Module | ExportedProgram) -> torch.device:
    """Return where the model's first tensor lies; the CPU if it has none."""
    tensors = iter(model.state_dict.values() if isinstance(model, ExportedProgram) else model.state_dict().values())
    first = next(tensors, None)
    return torch.device("cpu") if first is None else first.device


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


def refuse_opaque(model: nn.Module) -> None:
    """Raise a `CaptureError` if a part of a model can't be looked into: a TorchScript one, or packed integers."""
    for path, module in model.named_modules():
        where = f"{path!r}, a part of {type(model).__name__}," if path else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{where} is a TorchScript module, scripted or traced, which can't be traced: pass the nn.Module it "
                "was made from"
            )
        if type(module).__module__.startswith(_PACKED) or hasattr(module, "_packed_params"):
            raise CaptureError(
                f"{where} is a quantized {type(module).__name__}, whose weights are packed as integers: no rule can "
                "look into it. Explain the model it was made from, before its quantization"
            )


_PACKED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


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
    """Yield the parameters and buffers of a module, of any shape, with their names."""
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
            given = bind_arguments(node, node.args, node.kwargs)
            if given.get("train") is True or given.get("training") is True:
                raise CaptureError(
                    f"the program was exported in training mode (for example {node.name}), where dropout and batch "
                    "statistics make its output random: call model.eval() first, and export it again"
                )
    module: nn.Module = program.module()
    for part in module.modules():
        part.training = False
    return module
