"""From a model to one functional ATen graph with a dynamic batch, by ``torch.export``."""

from __future__ import annotations

import io
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from threading import get_ident
from typing import Any, TextIO

import torch
from torch import SymInt, Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from relprop.errors import CaptureError, RelpropError, first_line
from relprop.graph import ROOT
from relprop.in_place import write_out_of_place
from relprop.outputs import explained
from relprop.recurrent import WRITTEN_OUT

aten = torch.ops.aten

# Recurrent layers hold their weights in a list too, which export fills for a while. That is the copy's own list.
warnings.filterwarnings("ignore", rf"The tensor attributes? self\.{ROOT}\.(.*\.)?_flat_weights\[", UserWarning)


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


def export(
    wrapped: Wrapped, args: tuple[Any, ...], kwargs: Mapping[str, Any], batched: Sequence[bool]
) -> ExportedProgram:
    """Export a wrapped model; the tensors marked in ``batched`` become dynamic in their first axis.

    Raises
    ------
    CaptureError
        If ``torch.export`` can't trace the model.
    """
    axis = Dim("batch", min=1)

    marks = iter(batched)

    def dynamic(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return {0: axis} if next(marks) else {}
        return None

    inputs = (args, dict(kwargs))
    try:
        with redirect_stderr(_WithoutThisThread(sys.stderr)):
            shapes = pytree.tree_map(dynamic, inputs)
            program = torch.export.export(wrapped, inputs, strict=False, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises a dozen unrelated types; the cause is kept
        target = (
            "" if wrapped.target is None else " What the target needs for each sample must be an input of the model."
        )
        raise CaptureError(
            f"torch.export could not trace {type(wrapped.model).__name__}: {first_line(error)}\n"
            "The whole message is the cause of this error. Usual reasons: a branch on values of a tensor, a batch "
            "size fixed in the code, a recurrent layer without batch_first=True that takes the batch for its sequence, "
            "a call out of torch. Rewrite the line it names, or pass a part of the model that can be traced."
            f"{target}"
        ) from error
    write_out_of_place(program.graph)
    for module, region in gradient_regions(program):
        region.args = (False, *region.args[1:])
        module.recompile()
    return lower(program)


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


class _WithoutThisThread(io.TextIOBase):
    """A stream that drops what its maker prints: before it raises, torch.export prints the graph it has so far."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.thread = get_ident()

    def write(self, text: str) -> int:
        return len(text) if get_ident() == self.thread else self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()


def lower(program: ExportedProgram) -> ExportedProgram:
    """Make an exported program functional, in the vocabulary that rules are written for.

    Raises
    ------
    CaptureError
        If it can't be.
    """
    attention = aten.scaled_dot_product_attention.default
    written_out = {attention: partial(_attention, infinite=_may_mask_by_infinity(program)), **_DECOMPOSITIONS}
    try:
        lowered: ExportedProgram = program.run_decompositions(written_out)
    except RelpropError:  # of a decomposition
        raise
    except Exception as error:  # as above
        raise CaptureError(
            f"the exported graph can't be made functional: {first_line(error)}\n"
            "The usual reason is a forward that changes a tensor in place which is an attribute of its module: make it "
            "a buffer with register_buffer."
        ) from error
    return lowered


def _may_mask_by_infinity(program: ExportedProgram) -> bool:
    """Whether minus infinity is written in a program, held by it, or may be given to it for all samples alike."""
    signature = program.graph_signature
    for node in program.graph.nodes:
        value = node.meta.get("val")
        given = node.name in signature.user_inputs and isinstance(value, Tensor) and value.is_floating_point()
        if (given and not _carries_batch(value)) or -math.inf in (*node.args, *node.kwargs.values()):
            return True
    held = (*(program.state_dict.get(name) for name in signature.buffers), *program.constants.values())
    floating = (value for value in held if isinstance(value, Tensor) and value.is_floating_point())
    return any(bool(value.isneginf().any()) for value in floating)


def _carries_batch(tensor: Tensor) -> bool:
    return any(isinstance(size, SymInt) for size in tensor.shape)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    infinite: bool,
) -> Tensor:
    """Attention written out, so that it has one meaning however a model spells it.

    A query that no key is open to, as that of a padded position, attends to nothing, where softmax would be 0 / 0. What
    that takes is left out for masks that have no such rows: causal ones, and, unless ``infinite``, learned biases.
    """
    if dropout_p:
        raise CaptureError("attention with dropout in evaluation mode: pass dropout_p=0.0 when not training")
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    logits = (query * scale) @ key.transpose(-2, -1)
    closes = attn_mask is not None and (infinite or attn_mask.dtype == torch.bool or _carries_batch(attn_mask))
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -math.inf)
        if closes:
            closed = (attn_mask == -math.inf).all(-1, keepdim=True)
            attended = (logits + attn_mask.masked_fill(closed, 0.0)).softmax(-1) @ value
            return attended.masked_fill(closed, 0.0)
        logits = logits + attn_mask
    return logits.softmax(-1) @ value


def _add_product(term: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """``addcmul``, whose terms and factors share as those of any sum and product do."""
    return term + (a * b if value == 1 else a * b * value)


def _written_out(operation: OpOverload) -> Callable[..., Any]:
    """Return what an operation stands for, in other operations: those of an einsum, or the one it is a name of."""

    def decomposition(*args: Any, **kwargs: Any) -> Any:
        # Not ``decompose``: that would look up this very function.
        return operation._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)

    return decomposition


_OTHER_NAMES = (
    aten.absolute.default,
    aten.clip.default,
    aten.clip.Tensor,
    aten.concat.default,
    aten.concatenate.default,
    aten.divide.Scalar,
    aten.divide.Tensor,
    aten.einsum.default,
    aten.expand_as.default,
    aten.linalg_matmul.default,
    aten.moveaxis.int,
    aten.moveaxis.intlist,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.multiply.Scalar,
    aten.multiply.Tensor,
    aten.negative.default,
    aten.reshape_as.default,
    aten.special_expit.default,
    aten.subtract.Scalar,
    aten.subtract.Tensor,
    aten.swapaxes.default,
    aten.swapdims.default,
    aten.true_divide.Scalar,
    aten.true_divide.Tensor,
    aten.type_as.default,
    aten.view_as.default,
)
"""Operations that are another, or several, whatever a model calls them."""

_DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.addcmul.default: _add_product,
    **{operation: _written_out(operation) for operation in _OTHER_NAMES},
    **WRITTEN_OUT,
}
