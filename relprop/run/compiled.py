"""A relevance program as machine code: flattened to one graph of ATen operations, then through ``torch.compile``.

``torch.compile`` would follow the Python of every rule and break the program apart at each, to compile the pieces again
for every shape they meet. So the program runs once on tensors without values, whatever Python its rules are written
in, and what happened to them is one graph. The model's tensors are inputs of it: their values are those of the moment
of a call.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from relprop.errors import RelpropError, first_line
from relprop.run.memory import is_out_of_memory
from relprop.tracing.tracer import only_tracer

SHAPES_KEPT = 8
"""Shapes for which a program is kept compiled."""


class NotCompiledError(RelpropError):
    """A program can't be compiled; the message says why."""


class CompiledProgram:
    """A relevance program that is compiled at its first call for each shape of its inputs.

    Parameters
    ----------
    program : fx.GraphModule
        A relevance program without hooks, which would be called at compilation alone.
    """

    def __init__(self, program: fx.GraphModule) -> None:
        self.program = program
        self._made: dict[Any, _Compiled | str] = {}
        self._lock = threading.Lock()
        self._sizes: set[int] = set()
        self._warned = False

    def pays_for(self, samples: int) -> bool:
        """Whether so many samples are the most there have been, or what they need has been compiled already.

        Fewer are what is left over of a batch or of a stream of them, and not worth minutes.
        """
        if samples > max(self._sizes, default=0):
            self._sizes.add(samples)
        return samples in self._sizes

    def warn_once(self, reason: str) -> None:
        """Warn that a run fell back on the program as it is, the first time that one does."""
        if not self._warned:
            self._warned = True
            warnings.warn(f"not compiled, and so explained as without compile=True: {reason}", stacklevel=6)

    def __call__(self, *inputs: Any) -> dict[str, Any]:
        """Return what the program would.

        Parameters
        ----------
        *inputs : Tensor
            The program's own, the target, or None, and a contrast of one class per sample, if there is one; samples lie
            along the first axis of the first.

        Raises
        ------
        NotCompiledError
            If there is no compiler for the device, or it can't do with the program; also at every later call for
            such inputs, at once.
        """
        first = inputs[0]
        # A target of None is the same as the classes of the largest outputs, and no second program.
        tensors = [torch.full(first.shape[:1], -1, device=first.device) if t is None else t for t in inputs]
        given = [tensor.clone() for tensor in tensors]  # not expanded, whatever the strides were
        held = {str(node.target): getattr(self.program, str(node.target)) for node in self._tensors()}
        key = (torch.get_num_threads(), *map(_layout, (*held.values(), *given)))
        with self._lock:
            made = self._made.get(key)
            if isinstance(made, str):
                raise NotCompiledError(made)
            try:
                if made is None:
                    with only_tracer():
                        made = _Compiled(self.program, held, given)
                        result = made(held, given)
                    self._keep(key, made)
                    return result
            except Exception as error:  # of torch's tracer and compilers, which raise what they like
                if is_out_of_memory(error):
                    raise
                self._keep(key, reason := f"{type(error).__name__}: {first_line(error)}")
                raise NotCompiledError(reason) from error
        return made(held, given)

    def _tensors(self) -> Iterator[fx.Node]:
        return iter(self.program.graph.find_nodes(op="get_attr"))

    def _keep(self, key: Any, made: _Compiled | str) -> None:
        if len(self._made) >= SHAPES_KEPT:
            del self._made[next(iter(self._made))]
        self._made[key] = made


class _Compiled:
    """A program for tensors of one layout.

    Parameters
    ----------
    program : fx.GraphModule
        What is compiled.
    held : mapping of str to Tensor
        The model's tensors that it reads, of any shape, by name.
    given : list of Tensor
        Its inputs, ``(B, ...)`` where they hold samples, and the classes, ``(B,)``.
    """

    def __init__(self, program: fx.GraphModule, held: Mapping[str, Tensor], given: list[Tensor]) -> None:
        def flat(*tensors: Tensor) -> list[Any]:
            returned = _WithTensors(program, dict(zip(held, tensors, strict=False))).run(*tensors[len(held) :])
            leaves, self._structure = pytree.tree_flatten(returned)
            return leaves

        with _values_unknown():
            graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*held.values(), *given)
        # On a CPU convolutions would get tensors channels last, which the products after them do not want: half as much
        # time again for resnet50.
        options: dict[str, Any] = {"layout_optimization": given[0].is_cuda}
        self._run: Callable[..., list[Any]] = torch.compile(graph, fullgraph=True, dynamic=False, options=options)

    def __call__(self, held: Mapping[str, Tensor], given: list[Tensor]) -> dict[str, Any]:
        """Return what the program would for tensors of the same layout."""
        returned: dict[str, Any] = pytree.tree_unflatten(list(self._run(*held.values(), *given)), self._structure)
        return returned


class _WithTensors(fx.Interpreter):
    """Runs a program on other tensors than it holds."""

    def __init__(self, program: fx.GraphModule, held: Mapping[str, Tensor]) -> None:
        super().__init__(program)
        self.held = held

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the tensor given in the place of a held one."""
        return self.held[target]


@contextmanager
def _values_unknown() -> Iterator[None]:
    """Let `torch.compiler.is_compiling` say that tensors have no values to look at, as ``torch.compile`` does.

    ``make_fx`` does not set the flag, and there is no public way to. It is one for all threads, of which two that set
    it at once could leave it set: only one traces.
    """
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """Return shape, strides, type and device of a tensor: a program is compiled for these."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
