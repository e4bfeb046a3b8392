"""Selecting the sites that a rule holds for: by operation, path, class or position."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from torch._ops import OpOverload

from rule_registry.call import Site

Layer = Literal["first", "input", "last"]


@dataclass(frozen=True)
class Selector:
    """A choice of sites; what is None does not matter. Made by `select`."""

    op: OpOverload | None = None
    path: str | None = None
    module: str | None = None
    layer: Layer | None = None
    attention: bool | None = None
    scores: bool | None = None
    before_rectifier: bool | None = None
    activations: int | None = None

    def matches(self, site: Site) -> bool:
        """Whether a site is chosen."""
        names = (site.module_type, site.module_type.rpartition(".")[2])
        return (
            (self.op is None or self.op == site.op)
            and (self.path is None or fnmatchcase(site.path, self.path))
            and (self.module is None or self.module in names)
            and (self.layer is None or {"first": site.first, "input": site.input, "last": site.last}[self.layer])
            and self.attention in (None, site.attention)
            and self.scores in (None, site.evidence != 0)
            and self.before_rectifier in (None, site.before_rectifier)
            and self.activations in (None, len(site.active))
        )

    def __str__(self) -> str:
        parts = {"op": self.op, "path": self.path, "module": self.module, "layer": self.layer}
        words = [f"{name} {value}" for name, value in parts.items() if value is not None]
        for fact, yes, no in (
            (self.attention, "attention inside", "attention outside"),
            (self.scores, "class scores", "below the class scores"),
            (self.before_rectifier, "before a rectifier", "not before a rectifier"),
        ):
            words += [] if fact is None else [yes if fact else no]
        words += [] if self.activations is None else [f"{self.activations} activation{'s' * (self.activations != 1)}"]
        return ", ".join(words)


def select(
    op: OpOverload | None = None,
    path: str | None = None,
    module: type | str | None = None,
    layer: Layer | None = None,
    attention: bool | None = None,
    *,
    scores: bool | None = None,
    before_rectifier: bool | None = None,
    activations: int | None = None,
) -> Selector:
    """Choose sites by operation, module path, module class and position; all that are given must hold.

    Parameters
    ----------
    op : OpOverload, optional
        The ATen operation, for example ``torch.ops.aten.softmax.int``.
    path : str, optional
        Glob over the path of the innermost module, for example ``"blocks.*.attn"``.
    module : type or str, optional
        Class of the innermost module, or its name, with or without its package.
    layer : {"first", "input", "last"}, optional
        The first or last layer with a weight, seen from the input; or every one that no other is before, of which
        models with several branches or inputs have several.
    attention : bool, optional
        Whether the operation is a part of attention, or none: its softmax, a product of two activations that feeds or
        follows it, or a layer that makes queries, keys or values or takes the result. The graph decides.
    scores : bool, optional
        Whether the operation is at the class scores, from the target back to the first layers with a weight, or below.
    before_rectifier : bool, optional
        Whether rectifiers alone read its output, through moves and positive scalars at most.
    activations : int, optional
        How many of its inputs are activations: 1 for a layer, 2 for a product or sum of two.

    Raises
    ------
    ValueError
        If nothing is given: that would choose every operation.
    TypeError
        If ``op`` is not one overload of an operation.
    """
    facts = {"attention": attention, "scores": scores, "before_rectifier": before_rectifier}
    if all(value is None for value in (op, path, module, layer, activations, *facts.values())):
        raise ValueError(
            "select() needs an operation, a path, a module class, a layer, whether it is attention, at the class scores"
            " or before a rectifier, or a number of activations"
        )
    if layer not in (None, *get_args(Layer)):
        raise ValueError(f'layer must be "first", "input" or "last", not {layer!r}')
    if op is not None:
        check_overload(op)
    for name, fact in facts.items():
        if fact not in (None, True, False):
            raise ValueError(f"{name} must be True or False, not {fact!r}")
    if isinstance(module, type):
        module = f"{module.__module__}.{module.__qualname__}"
    return Selector(op, path, module, layer, attention, scores, before_rectifier, activations)


def check_overload(op: object) -> None:
    """Refuse what no node of a graph can be equal to, and what would therefore never be chosen."""
    if not isinstance(op, OpOverload):
        raise TypeError(
            f"{op!r} is not one overload of an operation; give one, as in torch.ops.aten.relu.default, or choose "
            "sites with rule_registry.select(...)"
        )
