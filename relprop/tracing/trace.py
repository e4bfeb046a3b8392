"""Tracing for every batch size: what a model remembers of its last batch must not get into the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy
from torch import SymInt, Tensor, nn
from torch.export import Dim, ExportedProgram

from relprop.errors import CaptureError, first_line
from relprop.tracing.example import Example, TracedModel
from relprop.tracing.export import Wrapped, export
from relprop.tracing.fingerprint import attributes_of
from relprop.tracing.watched_hooks import watched

_OTHER_SIZES = (3, 5)
"""Batches of which one is not the one that was seen last, nor the two samples of an example."""


@dataclass(frozen=True, eq=False)
class Traced:
    """What `trace` makes.

    Parameters
    ----------
    program : ExportedProgram
        For every batch.
    originals : mapping of int to Tensor
        The model's own tensor, of any shape, for the identity of each that is a copy in the program.
    unlike : frozenset of int
        Batch sizes that the one traced is unlike. They may be remembered; a model that treats such a batch in another
        way has no one graph, so the graph must be compared with the model there.
    """

    program: ExportedProgram
    originals: dict[int, Tensor]
    unlike: frozenset[int] = frozenset()


def trace(subject: TracedModel, example: Example) -> Traced:
    """Export a subject that was never called, for every batch; for one sample where the example has no more.

    A model may keep what it made for the last batch, and compare the next batch with that. Only one answer can hold
    for every batch: it is another one. So where the first try fails, a batch unlike the remembered one is traced. Where
    a model keeps a table by sizes, the entry that is traced is that of any size.

    Raises
    ------
    CaptureError
        If ``torch.export`` can't trace the model.
    """
    if example.inputs.batch_size == 1:
        return _export(subject, example, 1)
    try:
        return _export(subject, example, 2)
    except CaptureError as error:
        if not _may_remember(error):
            raise
        for size in _OTHER_SIZES:
            try:
                return _export(subject, example, size)
            except CaptureError:
                continue
        raise


def _export(subject: TracedModel, example: Example, size: int) -> Traced:
    wrapped, originals = example.traceable(subject)
    if size == 1:
        axis: Any = Dim.STATIC
    elif size == 2:
        axis = Dim("batch", min=1)
    else:
        axis = Dim.DYNAMIC
        for module in wrapped.modules():
            _key_by_symbols(module)
    try:
        program = export(wrapped, example.inputs.samples(size), axis)
        unlike = frozenset() if size <= 2 else _check_guards(program)
    except CaptureError as error:
        raise _with_hooks(error, wrapped) from error.__cause__
    return Traced(program, originals, unlike)


def _may_remember(error: CaptureError) -> bool:
    """Whether a batch size was compared with a number, or looked up in a table."""
    cause = str(error.__cause__)
    return "Constraints violated" in cause or "SymInt" in cause


def _check_guards(program: ExportedProgram) -> frozenset[int]:
    """Return the batch sizes for which a program need not hold.

    Raises
    ------
    CaptureError
        If there are more than single ones.
    """
    values = [node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")]
    sizes: list[Any] = [
        size for value in values if isinstance(value, Tensor) for size in value.shape if isinstance(size, SymInt)
    ]
    conditions = {guard.expr for size in sizes for guard in size.node.shape_env.guards if guard.expr.free_symbols}
    for condition in conditions:
        if not _is_unlike(condition) and not _always_holds(condition):
            raise CaptureError(f"the graph holds only where {condition}")
    numbers = {part for condition in conditions if _is_unlike(condition) for part in condition.args if part.is_number}
    return frozenset(int(number) for number in numbers if number >= 1)


def _is_unlike(condition: Any) -> bool:
    """Whether a condition on sizes says no more than that one is not a number."""
    return isinstance(condition, sympy.Ne) and all(part.is_number or part.is_Symbol for part in condition.args)


def _always_holds(condition: Any) -> bool:
    """Whether a condition on sizes holds for those of every batch that is tried."""
    return all(
        condition.subs(dict.fromkeys(condition.free_symbols, size)) in (True, sympy.true) for size in (1, 2, 3, 7, 1000)
    )


def _key_by_symbols(module: nn.Module) -> None:
    """Let the tables of a copy have entries for sizes that stand for any."""
    class_level = {name: value for base in type(module).__mro__ for name, value in vars(base).items()}
    for name, value in [*class_level.items(), *attributes_of(module)]:
        if type(value) is dict and not name.startswith("__") and all(map(_is_size_key, value)):
            setattr(module, name, SizeTable(value))


def _is_size_key(key: Any) -> bool:
    return all(isinstance(part, int | str) or part is None for part in (key if isinstance(key, tuple) else (key,)))


class SizeTable(dict[Any, Any]):
    """A dict that takes symbolic sizes as keys, each unlike every number."""

    def __contains__(self, key: object) -> bool:
        return super().__contains__(_hashable(key))

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(_hashable(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_hashable(key), value)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(_hashable(key))

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the entry of a key, else the default."""
        return super().get(_hashable(key), default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the entry of a key, which becomes the default if there is none."""
        return super().setdefault(_hashable(key), default)

    def pop(self, key: Any, *default: Any) -> Any:
        """Take the entry of a key out and return it."""
        return super().pop(_hashable(key), *default)


def _hashable(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(map(_hashable, key))
    return ("size", str(key.node.expr)) if isinstance(key, SymInt) else key


def _with_hooks(error: CaptureError, wrapped: Wrapped) -> CaptureError:
    """Name the hooks that the forward seems to rest on, and which of them failed under the tracer."""
    tried = [(path.partition(".")[2], hook) for path, hook in watched(wrapped) if hook.is_tried and not hook.takes_part]
    tried.sort(key=lambda pair: pair[1].failure is None)
    lines = [
        f"A part of the model is the forward hook {hook} on {path!r}"
        + ("" if hook.failure is None else f", which fails under the tracer: {first_line(hook.failure)}")
        for path, hook in tried[:3]
    ]
    return CaptureError("\n".join([str(error), *lines])) if lines else error
