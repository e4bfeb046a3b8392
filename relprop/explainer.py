"""Explaining: capture once, rewrite once, run as often as one likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

import rule_registry
from relprop.assign import Plan, assign, matching_modules
from relprop.capture import Model, capture, load_exported
from relprop.conservation import account
from relprop.errors import CaptureError, InputError, RelpropError, TargetError
from relprop.explanation import Explanation
from relprop.export import plain_mode
from relprop.graph import Graph
from relprop.rewrite import RelevanceProgram, rewrite
from rule_registry import BatchAxis, RuleSet

Target = int | Sequence[int] | Tensor | Callable[[Any], Tensor] | None
Contrast = Literal["rest", "default"] | None


@dataclass(frozen=True)
class Ready:
    """A plan, its program, and the nodes of the layers that were asked for."""

    plan: Plan
    program: RelevanceProgram
    layers: Mapping[str, list[fx.Node]]


class Explainer:
    """Explains one model again and again; capture and rewriting happen at the first call for an input shape.

    Parameters
    ----------
    model : nn.Module, fx.GraphModule, ExportedProgram or path of a ``.pt2``
        In evaluation mode. It is never changed.
    rules : str or RuleSet
        A rule set or its name, see `rule_registry.names`.
    contrast : {"default", "rest", None}
        ``"rest"`` subtracts the relevance of all other classes, seeded uniformly. The default is the rule set's own,
        and None for a callable target.
    layers : sequence of str
        Module paths, or globs of them, whose relevance is returned too.
    at : str, optional
        Path of a module whose output is explained in place of the input.
    output : str or int, optional
        Which output is meant, where the model returns a dict or a tuple.
    batch_size : int, optional
        Explain at most so many samples at once.

    Examples
    --------
    >>> import torch, relprop
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)).eval()
    >>> explainer = relprop.Explainer(model)
    >>> explainer(torch.randn(2, 3, 2, 2), target=3).relevance.shape
    torch.Size([2, 3, 2, 2])
    """

    def __init__(
        self,
        model: Model,
        *,
        rules: str | RuleSet = "abslrp",
        contrast: Contrast = "default",
        layers: Sequence[str] = (),
        at: str | None = None,
        output: str | int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if contrast not in ("rest", "default", None):
            raise ValueError(f'contrast must be "rest", "default" or None, not {contrast!r}')
        self.model = load_exported(model) if isinstance(model, str) or hasattr(model, "__fspath__") else model
        self.rules = rules
        self.contrast = contrast
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        self.at = at
        self.output = output
        self.batch_size = batch_size

    def __call__(self, x: Any, target: Target = None, **kwargs: Any) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        x : Tensor or tuple of Tensor
            The model's positional inputs, samples first; pictures are ``(B, C, H, W)``, as the model expects them.
        target : int, sequence of int, Tensor or callable, optional
            Class of all samples, or one per sample; or a function of the model's output that returns one number
            per sample, ``(B,)``. By default each sample's largest output.
        **kwargs
            The model's keyword inputs.

        Returns
        -------
        Explanation

        Raises
        ------
        InputError, TargetError, CaptureError, MissingRuleError
        """
        args = _check_inputs(x, kwargs)
        ready = self._ready(args, kwargs, target)
        batch = next(leaf.shape[0] for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        with plain_mode():
            leaves = [_plain(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            classes = _classes(ready.plan.graph, target, batch)
            size = self.batch_size or batch
            parts = []
            for start in range(0, batch, size):
                chunk = [leaf[start : start + size] if leaf.ndim and leaf.shape[0] == batch else leaf for leaf in leaves]
                parts.append(ready.program(*chunk, None if classes is None else classes[start : start + size]))
            return _explanation(ready, parts)

    def program(self, x: Any, target: Target = None, **kwargs: Any) -> RelevanceProgram:
        """Return the relevance program for inputs like these: an ``fx.GraphModule`` to print, export or compile."""
        return self._ready(_check_inputs(x, kwargs), kwargs, target).program

    def plan(self, x: Any, target: Target = None, **kwargs: Any) -> Plan:
        """Return the graph and the rule of each of its operations, for inputs like these."""
        return self._ready(_check_inputs(x, kwargs), kwargs, target).plan

    def _ready(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], target: Target) -> Ready:
        function = target if callable(target) else None
        graph = capture(self.model, args, kwargs, target=function, output=self.output)
        rules = rule_registry.get(self.rules) if isinstance(self.rules, str) else self.rules
        contrast = _contrast(graph, self.contrast, rules, function is not None)
        key = (id(rules), contrast, self.layers, self.at)
        if key not in graph.made:
            plan = assign(graph, rules, self.at)
            layers = {path: graph.module_outputs(path) for glob in self.layers for path in matching_modules(graph, glob)}
            for path, nodes in layers.items():
                if not nodes or not all(isinstance(graph.batch[node], BatchAxis) for node in nodes):
                    raise CaptureError(f"module {path!r} has no single tensor as its output; name one inside it")
            graph.made[key] = Ready(plan, rewrite(plan, contrast, layers), layers)
        ready: Ready = graph.made[key]
        return ready


def explain(
    model: Model,
    x: Any,
    *,
    target: Target = None,
    rules: str | RuleSet = "abslrp",
    contrast: Contrast = "default",
    layers: Sequence[str] = (),
    at: str | None = None,
    output: str | int | None = None,
    batch_size: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain which parts of an input speak for a class, and which for the others.

    See `Explainer` for the parameters; ``kwargs`` are the model's keyword inputs. Capture is cached, so calling
    this again for the same model costs no second one.

    Examples
    --------
    >>> import torch, relprop
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                             torch.nn.Linear(288, 5)).eval()
    >>> e = relprop.explain(model, torch.randn(2, 3, 8, 8))
    >>> e.relevance.shape, e.target.shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2]))
    """
    explainer = Explainer(
        model, rules=rules, contrast=contrast, layers=layers, at=at, output=output, batch_size=batch_size
    )
    return explainer(x, target, **(kwargs or {}))


def _check_inputs(x: Any, kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    args = tuple(x) if isinstance(x, tuple | list) else (x,)
    for where, leaf in pytree.tree_flatten_with_path((args, dict(kwargs)))[0]:
        name = pytree.keystr(where)
        if not isinstance(leaf, Tensor):
            if leaf is None or isinstance(leaf, bool | int | float | str):
                continue
            raise InputError(f"input {name} is a {type(leaf).__name__}; the model takes tensors (torch.as_tensor helps)")
        if leaf.numel() == 0:
            raise InputError(f"input {name} is empty: shape {tuple(leaf.shape)}")
        if leaf.is_floating_point() and not leaf.isfinite().all():
            bad = int((~leaf.isfinite()).sum())
            raise InputError(f"input {name} has {bad} of {leaf.numel()} values that are NaN or infinite")
        if leaf.dtype == torch.uint8:
            raise InputError(
                f"input {name} is an integer image (uint8): convert it with x.float() / 255 and normalise it as the "
                "model expects"
            )
    return args


def _plain(leaf: Tensor) -> Tensor:
    return leaf.clone() if leaf.is_inference() else leaf.detach()


def _contrast(graph: Graph, contrast: Contrast, rules: RuleSet, callable_target: bool) -> Literal["rest"] | None:
    shape = graph.output.meta["val"].shape
    wanted: Literal["rest"] | None = None
    if contrast != "default":
        wanted = contrast
    elif not callable_target:
        wanted = rules.contrast
    if callable_target:
        if len(shape) != 1:
            raise TargetError(
                f"a callable target must return one number per sample, (B,), not {_shape(shape)}; for example "
                "lambda output: output[:, 3] - output[:, 5]"
            )
        if wanted:
            raise TargetError('contrast="rest" needs classes; a callable target has none, so pass contrast=None')
        return None
    if len(shape) != 2:
        raise TargetError(
            f"the output is {_shape(shape)}, not (B, classes): give target a function of it that returns one number "
            "per sample"
        )
    if wanted and shape[1] == 1:
        raise TargetError('contrast="rest" needs at least two classes; this model has one output: pass contrast=None')
    return wanted


def _shape(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(str(size) if isinstance(size, int) else "B" for size in shape) + ")"


def _classes(graph: Graph, target: Target, batch: int) -> Tensor | None:
    if target is None or callable(target):
        return None
    device = graph.output.meta["val"].device
    if isinstance(target, bool) or isinstance(target, Tensor) and target.dtype in (torch.bool,) :
        raise TargetError("target must be a class index, not a truth value")
    classes = torch.as_tensor(target, device=device)
    if classes.is_floating_point() or classes.is_complex():
        raise TargetError(f"target must hold whole numbers, not {classes.dtype}")
    if classes.ndim == 0:
        classes = classes.expand(batch)
    if classes.shape != (batch,):
        raise TargetError(f"target has shape {tuple(classes.shape)}; give one class, or one for each of {batch} samples")
    count = graph.output.meta["val"].shape[1]
    wrong = classes[(classes < 0) | (classes >= count)]
    if wrong.numel():
        raise TargetError(f"target {int(wrong[0])} is out of range: the model has classes 0 to {count - 1}")
    return classes.long()


def _explanation(ready: Ready, parts: Sequence[dict[str, Any]]) -> Explanation:
    graph, rules = ready.plan.graph, ready.plan.rules

    def joined(pick: Callable[[dict[str, Any]], Tensor], dim: int) -> Tensor:
        return pick(parts[0]) if len(parts) == 1 else torch.cat([pick(part) for part in parts], dim)

    def seeds_at(node: fx.Node, pick: Callable[[dict[str, Any]], Tensor]) -> Tensor:
        mark = graph.batch[node]
        assert isinstance(mark, BatchAxis)
        return joined(pick, mark.axis + 1)

    def combined(node: fx.Node, seeds: Tensor) -> Tensor:
        relevance = seeds[0] - seeds[1] if seeds.shape[0] == 2 else seeds[0]
        if rules.largest_one:
            mark = graph.batch[node]
            assert isinstance(mark, BatchAxis)
            rows = relevance.movedim(mark.axis, 0).unflatten(0, (-1, mark.factor)).flatten(1)
            relevance = relevance / mark.spread(rows.abs().amax(1), relevance.ndim)
        return relevance

    seeds = {}
    for k, node in enumerate(ready.plan.sources):
        seeds[node.name] = seeds_at(node, lambda part, k=k: part["relevance"][k])  # type: ignore[misc]
        if not seeds[node.name].isfinite().all():
            raise RelpropError(
                "the relevance is not finite. Is the model's output? If so, look at the layers: pass layers=[...] "
                f"and rules={rules.name!r} with a larger stabiliser"
            )
    layers: dict[str, Tensor | list[Tensor]] = {}
    for path, nodes in ready.layers.items():
        found = [
            combined(node, seeds_at(node, lambda part, path=path, k=k: part["layers"][path][k]))  # type: ignore[misc]
            for k, node in enumerate(nodes)
        ]
        layers[path] = found[0] if len(found) == 1 else found
    records = {
        name: None if record is None else joined(lambda part, name=name: part["records"][name], 2)  # type: ignore[misc]
        for name, record in parts[0]["records"].items()
    }
    arrived = []
    for node in ready.plan.sources:
        mark = graph.batch[node]
        assert isinstance(mark, BatchAxis)
        arrived.append(mark.sum(seeds[node.name]))
    return Explanation(
        relevances={node.name: combined(node, seeds[node.name]) for node in ready.plan.sources},
        seeds=seeds,
        output=joined(lambda part: part["output"], 0),
        target=None if parts[0]["target"] is None else joined(lambda part: part["target"], 0),
        conservation=account(ready.plan, records, arrived),
        rules=rules.name,
        layers=layers,
    )
