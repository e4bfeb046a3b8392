"""Explaining: capture once, rewrite once, run as often as one likes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

import rule_registry
from relprop.assign.assign import assign
from relprop.assign.plan import Plan
from relprop.assign.targets import Contrast, Target, check_apart, choose_contrast, target_classes
from relprop.errors import CaptureError, MissingRuleError
from relprop.explanation.assemble import assemble
from relprop.explanation.explanation import Explanation
from relprop.graph.module_outputs import matching_modules, module_outputs
from relprop.rewrite.hooks import Hook, place
from relprop.rewrite.program import RelevanceProgram
from relprop.rewrite.rewrite import rewrite
from relprop.run.chunks import BatchSize, run_in_chunks
from relprop.run.compiled import NotCompiledError
from relprop.run.memory import memory_for
from relprop.run.prepared import Ready
from relprop.tracing.capture import capture
from relprop.tracing.export import plain_mode
from relprop.tracing.inputs import check_inputs, plain
from relprop.tracing.loading import Model, opened
from rule_registry import RuleSet

PROGRAMS_KEPT = 8
"""Programs kept per captured graph, and per explainer with hooks: one per rule set, contrast, choice of layers …"""


class Explainer:
    """Explains one model again and again; capture and rewriting happen at the first call for an input shape.

    Parameters
    ----------
    model : nn.Module, fx.GraphModule, ExportedProgram or path of a ``.pt2``
        In evaluation mode. It is never changed.
    rules : str or RuleSet
        A rule set or its name, see `rule_registry.names`.
    contrast : {"default", "rest", None} or int
        ``"rest"`` subtracts the relevance of all other classes, seeded uniformly; a class that of this class alone:
        why the target and not that one. The default is the rule set's own, and None for a callable target.
    layers : sequence of str
        Module paths, or globs of them, whose relevance is returned too. Here, in ``at`` and in ``hooks`` a module
        stands for the one tensor of its own that is used further; where there are several, name modules inside it.
    at : str, optional
        Path of a module whose output is explained in place of the input.
    output : str or int, optional
        Which output is meant, where the model returns a dict or a tuple.
    batch_size : int or "auto", optional
        Explain at most so many samples at once, or with ``"auto"`` as many as memory holds, which is measured on the
        first few. By default a batch is explained at once, on a CPU in chunks of a few samples, which is faster there.
    hooks : mapping of str to callable, optional
        From module paths, or globs of them, or names of operations, to functions ``hook(info, relevance)`` that are
        called while relevance flows through that output: ``info`` is a `NodeInfo`, the relevance ``(S, *output)``
        has the seeds in front. What a hook returns, of the same shape, takes the relevance's place, in ``layers``
        too; a hook that returns None observes. It is called once for every matching module, call of it, and chunk
        of ``batch_size``. Under rule sets built on the gradient what flows is the gradient. What hooks take away or
        add is told by ``conservation``. A program with hooks can be exported only if `torch.export` can trace them.
    compile : bool
        Whether the relevance program is compiled by ``torch.compile``, which needs a C++ compiler, for CUDA Triton.
        That takes minutes at the first call, and again for every other shape and memory layout, and where more samples
        are explained at once than before; fewer, as what a batch leaves over, are explained by the program as it is.
        What can't be compiled, with hooks say, is explained so too, and one warning tells why.

    Notes
    -----
    Relevance under a linear rule set (gradients, epsilon and its kin) is a sum over the entries of a layer: maps of
    complementary masks add up to the map without a mask. Under ``abslrp`` every operation rescales to the mass that
    arrives, so there the masses of such maps add up, and their entries only nearly.

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
        batch_size: BatchSize = None,
        hooks: Mapping[str, Hook] | None = None,
        compile: bool = False,
    ) -> None:
        if not (batch_size in (None, "auto") or (isinstance(batch_size, int) and batch_size >= 1)):
            raise ValueError(f'batch_size must be at least 1, or "auto" or None, not {batch_size!r}')
        if compile and batch_size == "auto":
            raise ValueError('compile=True compiles for one number of samples at once: name it in place of "auto"')
        if contrast not in ("rest", "default", None) and (isinstance(contrast, bool) or not isinstance(contrast, int)):
            raise ValueError(f'contrast must be "rest", "default", None or a class index, not {contrast!r}')
        if not isinstance(hooks, Mapping | None):
            raise TypeError(f"hooks must be a mapping from module paths to functions, not {hooks!r}")
        for pattern, hook in (hooks or {}).items():
            if not callable(hook):
                raise TypeError(f"the hook at {pattern!r} must be a function of (info, relevance), not {hook!r}")
        if isinstance(rules, str):
            _named(rules)
        elif not isinstance(rules, RuleSet):
            raise TypeError(f"rules must be the name of a rule set, or what rule_registry.get returns, not {rules!r}")
        self.model = opened(model)
        self.rules = rules
        self.contrast = contrast
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        self.at = at
        self.output = output
        self.batch_size = batch_size
        self.hooks = dict(hooks or {})
        self.compile = compile
        self._warned = False
        # Kept here and not with the graph: hooks may refer to anything, the model too, and must not outlive their use.
        self._hooked: dict[Any, Ready] = {}

    def __call__(self, x: Any, target: Target = None, kwargs: Mapping[str, Any] | None = None) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        x : Tensor or tuple of Tensor
            The model's positional inputs, samples first; pictures are ``(B, C, H, W)``, as the model expects them.
        target : int, sequence of int, Tensor or callable, optional
            Class of all samples, or one per sample; or a function of the model's output that returns one number
            per sample, ``(B,)``. By default each sample's largest output.
        kwargs : mapping, optional
            The model's keyword inputs.

        Returns
        -------
        Explanation

        Raises
        ------
        InputError, TargetError, CaptureError, MissingRuleError, RuleError, OutOfMemoryError
        """
        args, kwargs = check_inputs(x, kwargs)
        with memory_for(1):  # what a capture needs does not depend on the batch
            ready = self._ready(args, kwargs, target)
        batch = next(leaf.shape[0] for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        with plain_mode(), memory_for(batch):
            leaves = [plain(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            classes = target_classes(ready.plan.graph, target, batch)
            check_apart(classes, ready.contrast)

            def run(start: int, stop: int) -> dict[str, Any]:
                chunk = [leaf[start:stop] if leaf.ndim and leaf.shape[0] == batch else leaf for leaf in leaves]
                chosen = None if classes is None else classes[start:stop]
                if self.compile and ready.compiled.pays_for(stop - start):
                    return self._run_compiled(ready, *chunk, chosen)
                returned: dict[str, Any] = ready.running(*chunk, chosen)
                return returned

            explanation = assemble(ready, run_in_chunks(run, ready, batch, self.batch_size, leaves[0].device))
            check_apart(explanation.target, ready.contrast)
            return explanation

    def program(self, x: Any, target: Target = None, kwargs: Mapping[str, Any] | None = None) -> RelevanceProgram:
        """Return the relevance program for inputs like these: an ``fx.GraphModule`` to print, export or compile.

        It keeps every relevance as it is for who interprets or changes it. What explains is a copy that overwrites
        those that nobody reads any more, which saves time and memory.
        """
        return self._ready(*check_inputs(x, kwargs), target).program

    def plan(self, x: Any, target: Target = None, kwargs: Mapping[str, Any] | None = None) -> Plan:
        """Return the graph and the rule of each of its operations, for inputs like these."""
        return self._ready(*check_inputs(x, kwargs), target).plan

    def _run_compiled(self, ready: Ready, *inputs: Any) -> dict[str, Any]:
        """Run a program compiled where it can be, and as it is where it can't."""
        try:
            if ready.hooks:
                raise NotCompiledError("hooks are functions to be called with every relevance")
            return ready.compiled(*inputs)
        except NotCompiledError as error:
            reason = str(error)
        returned: dict[str, Any] = ready.running(*inputs)
        if not self._warned:
            self._warned = True
            warnings.warn(f"not compiled, and so explained as without compile=True: {reason}", stacklevel=5)
        return returned

    def _ready(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], target: Target) -> Ready:
        function = target if callable(target) else None
        graph = capture(self.model, args, kwargs, target=function, output=self.output)
        rules = _named(self.rules) if isinstance(self.rules, str) else self.rules
        contrast = choose_contrast(graph, self.contrast, rules, function is not None)
        hooks = tuple((pattern, id(hook)) for pattern, hook in self.hooks.items())
        key = (graph, id(rules), contrast, self.layers, self.at, hooks)
        made = self._hooked if self.hooks else graph.made
        if key not in made:
            plan = assign(graph, rules, self.at)
            layers = {
                path: module_outputs(graph, path, glob)
                for glob in self.layers
                for path in matching_modules(graph, glob)
            }
            for path, nodes in layers.items():
                if not nodes:
                    raise CaptureError(f"module {path!r} has no output that carries the batch; name one inside it")
            placed = place(plan, self.hooks, contrast)
            if len(made) >= PROGRAMS_KEPT:
                made.pop(next(iter(made)), None)
            made[key] = Ready(plan, rewrite(plan, contrast, layers, placed), layers, placed, contrast)
        ready: Ready = made[key]
        return ready


def _named(rules: str) -> RuleSet:
    try:
        return rule_registry.get(rules)
    except LookupError as error:
        raise MissingRuleError(str(error)) from error


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
    batch_size: BatchSize = None,
    hooks: Mapping[str, Hook] | None = None,
    compile: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain which parts of an input speak for a class, and which for the others.

    See `Explainer` for the parameters; ``kwargs`` are the model's keyword inputs. Capture is cached, and so is what
    ``compile`` made, so calling this again for the same model costs no second one.

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
        model,
        rules=rules,
        contrast=contrast,
        layers=layers,
        at=at,
        output=output,
        batch_size=batch_size,
        hooks=hooks,
        compile=compile,
    )
    return explainer(x, target, kwargs)
