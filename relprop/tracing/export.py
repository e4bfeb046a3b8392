"""From a model to one functional ATen graph with a dynamic batch, by ``torch.export``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from threading import get_ident
from typing import Any, TextIO

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram

from relprop.errors import CaptureError
from relprop.graph.graph import ROOT
from relprop.tracing.causes import cause_of
from relprop.tracing.inputs import Inputs
from relprop.tracing.lowering.functionalize import leave_out_dropout, write_out_of_place
from relprop.tracing.outputs import explained

aten = torch.ops.aten

_ASSIGNED = rf"The tensor attributes? self\.{ROOT}\."
"""A forward or a hook may keep tensors in attributes, and recurrent layers do for a while. These are the copy's own."""


@contextmanager
def plain_mode() -> Iterator[None]:
    """Run without an autograd tape, outside of inference mode and of autocast.

    Autocast would fill a graph with casts, and grad-mode switches inside a model would become opaque regions.
    """
    with torch.inference_mode(False), torch.no_grad(), no_autocast():
        yield


@contextmanager
def no_autocast() -> Iterator[None]:
    """Switch autocast off on every kind of device for which it is on."""
    kinds = [kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(kind)]
    contexts = [torch.autocast(kind, enabled=False) for kind in kinds]
    for context in contexts:
        context.__enter__()
    try:
        yield
    finally:
        for context in reversed(contexts):
            context.__exit__(None, None, None)


class Wrapped(nn.Module):
    """A model with its target: the signature is fixed, and the output is the one to be explained."""

    def __init__(
        self, model: nn.Module, target: Callable[[Any], Any] | None = None, output: str | int | None = None
    ) -> None:
        super().__init__()
        self.add_module(ROOT, model)
        self.target = target
        self.output = output

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.get_submodule(ROOT)

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the model; then choose the output and call the target on it, where there are such."""
        return explained(self.model(*args, **kwargs), self.target, self.output)


def export(wrapped: Wrapped, inputs: Inputs, axis: Any = None) -> ExportedProgram:
    """Export a wrapped model; the tensors that hold samples become dynamic in their first axis, by default in one way.

    Raises
    ------
    CaptureError
        If ``torch.export`` can't trace the model.
    """
    axis = axis or Dim("batch", min=1)
    shapes = inputs.map(lambda _, batched: {0: axis} if batched else {}, lambda _: None)
    try:
        with redirect_stderr(_WithoutThisThread(sys.stderr)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", _ASSIGNED, UserWarning)
            arguments = inputs.args, dict(inputs.kwargs)
            program = torch.export.export(wrapped, arguments, strict=False, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises a dozen unrelated types; the cause is kept
        target = (
            "" if wrapped.target is None else " What the target needs for each sample must be an input of the model."
        )
        raise CaptureError(
            f"torch.export could not trace {type(wrapped.model).__name__}: {cause_of(error)}\n"
            "The whole message is the cause of this error. Usual reasons: a branch on values of a tensor (a mask of "
            "nn.Transformer without is_causal), a batch size fixed in the code or read by len(x), which is x.shape[0] "
            "to a tracer, a loop over samples, a recurrent layer without batch_first=True that takes the batch for its "
            f"sequence, a call out of torch. Rewrite that, or pass a part of the model that can be traced.{target}"
        ) from error
    leave_out_dropout(program.graph)
    write_out_of_place(program.graph)
    for module, region in gradient_regions(program):
        region.args = (False, *region.args[1:])
        module.recompile()
    return program


def gradient_regions(program: ExportedProgram) -> list[tuple[fx.GraphModule, fx.Node]]:
    """Return the regions of a program that switch the gradient on, and the graph each is in.

    Lowering would run them on an autograd tape, and keep the ``detach`` of whatever that saves.
    """
    return [
        (module, node)
        for module in program.graph_module.modules()
        if isinstance(module, fx.GraphModule)
        for node in module.graph.find_nodes(
            op="call_function", target=torch.ops.higher_order.wrap_with_set_grad_enabled
        )
        if node.args[0]
    ]


class _WithoutThisThread:
    """A stream that drops what its maker prints: before it raises, torch.export prints the graph it has so far.

    To other threads, which have it for their own meanwhile, it is the stream in all else.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.thread = get_ident()

    def write(self, text: str) -> int:
        return len(text) if get_ident() == self.thread else self.stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
