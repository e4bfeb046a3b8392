"""`explain` and `Explainer`: capture and rewrite a model once, then run the program for any number of batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack, cast

from torch import nn
from torch.export import ExportedProgram

from relprop.assign.assign import prove_rectified
from relprop.assign.combined_targets import fold_target
from relprop.assign.concepts import Concepts, choose_channels, find_concepts
from relprop.assign.contrasts import choose_classes, choose_contrast
from relprop.assign.plan import Plan
from relprop.assign.rule_names import as_rule_set
from relprop.assign.targets import Target
from relprop.errors import HookError
from relprop.explanation.assemble import assemble, refuse_ruled_out
from relprop.explanation.attributing import Attributing
from relprop.explanation.explanation import Explanation
from relprop.explanation.provenance import Provenance
from relprop.graph.ending import Link, find_link
from relprop.graph.module_outputs import layer_outputs
from relprop.options import DEFAULTS, Options, check_options, spell_options
from relprop.printed import Printed
from relprop.rewrite.hooks import attach_hooks
from relprop.rewrite.program import RelevanceProgram
from relprop.rewrite.rewrite import rewrite
from relprop.run.batches import first_input, on_device, with_bar
from relprop.run.chunks import run
from relprop.run.ending import assign_rules, ending_of
from relprop.run.memory import memory_for
from relprop.run.prepared import PreparedProgram, keep_program
from relprop.tracing.capture import capture_inputs, whole_operations
from relprop.tracing.converted import is_converted
from relprop.tracing.inputs import Inputs, check_inputs
from relprop.tracing.loading import Model, load_model
from relprop.tracing.sample_axes import argument_names, with_samples_in
from relprop.tracing.tracer import only_tracer
from relprop.tracing.unusual_tensors import as_given

if TYPE_CHECKING:
    from relprop.models import Classifier


class Explainer(Attributing, Printed):
    """Explains one model again and again; capture and rewriting happen at the first call for an input shape.

    Parameters
    ----------
    model : nn.Module, fx.GraphModule, ExportedProgram, path of a ``.pt2``, ``.onnx``, ``.keras``, Classifier or str
        In evaluation mode; a name is one of `relprop.models.load_classifier`. It is never changed.
    rules : str or RuleSet
        A rule set or its name, see `rule_registry.names`.
    contrast : {"default", "rest", "log-odds", None}, int, sequence of int or Tensor
        Whose relevance is subtracted. A class, or one per sample, ``(B,)``: why the target and not that one.
        ``"rest"``: all other classes alike, each ``1 / (C - 1)`` of C. ``"log-odds"``: the other classes as probable as
        the model holds them, ``q_s = p_s / (1 - p_t)`` of the target's probability ``p_t``; target minus ``q`` is the
        gradient of ``log(p_t / (1 - p_t))``. It needs class scores that a softmax turns into probabilities, and takes
        those before the softmax where the model ends in one, or in its logarithm. The default is the rule set's own,
        with ``"rest"`` in place of ``"log-odds"`` where there are no such scores, and None for a callable target. With
        one output there are no others: None. Under linear rules (`rule_registry.RuleSet.linear`) target and contrast
        are one seed of both signs and one pass, under others two.
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
        add is in ``conservation``. A program with hooks can be exported only if `torch.export` can trace them.
    compile : bool
        Whether the relevance program is compiled by ``torch.compile``, which needs a C++ compiler, for CUDA Triton.
        That takes minutes at the first call, and again for every other shape and memory layout, and where more samples
        are explained at once than before; fewer, as what a batch leaves over, are explained by the program as it is.
        What can't be compiled, with hooks say, is explained so too, and one warning says why.
    probability : {"softmax", "sigmoid", "output"}, optional
        What makes probabilities of the output, for titles and `Explanation.probability`; ``"output"``: it is made of
        them. By default it is what the graph ends in: a softmax or sigmoid, or the logarithm of one. Else it is the
        softmax, and nothing for a single output.
    channel_axis : int, optional
        The axis of the channels of pictures, which maps are summed over: 1 of ``(B, C, H, W)``, 3 of ``(B, H, W, C)``.
        By default it is the one that the first convolution sums over, else that of one or three entries.
    batched : sequence of str, optional
        Names of the inputs that hold the samples along their first axis: ``"x"``, or of the arguments of ``forward``.
        By default those with as many rows as the first one, if the model treats each of these as a sample.

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

    @spell_options
    def __init__(self, model: Model | Classifier, **options: Unpack[Options]) -> None:
        chosen: Options = {**DEFAULTS, **options}
        check_options(chosen)
        layers = chosen["layers"]
        self.model, own_output = _open(model)
        self.rules = chosen["rules"]
        self.contrast = chosen["contrast"]
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        self.at = chosen["at"]
        self.output = own_output if chosen["output"] is None else chosen["output"]
        self.batch_size = chosen["batch_size"]
        self.hooks = dict(chosen["hooks"] or {})
        self.compile = chosen["compile"]
        self.probability = chosen["probability"]
        self.channel_axis = chosen["channel_axis"]
        self.batched = chosen["batched"]
        as_rule_set(self.rules)  # an unknown name is an error at once
        # Kept here and not with the graph: hooks may refer to anything, the model too, and must not outlive their use.
        self._hooked_programs: dict[Any, PreparedProgram] = {}

    def __call__(
        self,
        x: Any,
        target: Target = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        concepts: Concepts | None = None,
    ) -> Explanation:
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
        concepts : mapping, optional
            From module paths, or globs of them, to channels: `Explanation.concepts` has a map of what flows through
            each alone. ``[3, 17]``, for each sample ``(B, K)``, or ``"top5"`` for those with most relevance. All are
            propagated at once: each takes as much memory as a seed does. Not together with ``hooks``.

        Returns
        -------
        Explanation

        Raises
        ------
        InputError, TargetError, CaptureError, MissingRuleError, RuleError, HookError, OutOfMemoryError
        """
        inputs = self.check_inputs(x, kwargs)
        prepared = self.prepare(inputs, target, tuple(concepts or ()))
        inputs = inputs.marked_as(prepared.plan.graph)
        classes = choose_classes(prepared.plan.graph, target, self.contrast, prepared.contrast, inputs.batch_size)
        channels = choose_channels(prepared.concepts, concepts or {}, inputs.batch_size, inputs.device)
        parts = run(prepared, inputs, replace(classes, channels=channels), self.batch_size, self.compile)
        link: Link = "softmax" if callable(target) else self.probability or find_link(prepared.plan.graph)
        made_by = Provenance.of(self.model, prepared.plan.rules)
        explanation = assemble(prepared, parts, classes.against, made_by, link, self.channel_axis)
        refuse_ruled_out(explanation)
        given = {node.name: tensor for node, tensor in zip(prepared.plan.graph.inputs, inputs.given, strict=False)}
        relevances = {name: as_given(value, given.get(name)) for name, value in explanation.relevances.items()}
        tensors = {node.name: x for node, x in zip(prepared.plan.graph.inputs, inputs.tensors, strict=True)}
        indices = {name: tensors[name] for name in explanation.looked_up}
        return replace(explanation, relevances=relevances, indices=indices)

    def _blocks(self) -> list[str]:
        rules = self.rules if isinstance(self.rules, str) else self.rules.name
        chosen = {name: getattr(self, name) or None for name in DEFAULTS if name not in ("rules", "contrast")}
        chosen = {"contrast": self.contrast} | {name: value for name, value in chosen.items() if value is not None}
        options = "".join(
            f", {name}={value!r}" for name, value in chosen.items() if not isinstance(value, str) or value != "default"
        )
        return [f"Explainer of {type(self.model).__name__}: rules={rules!r}{options}"]

    def over(
        self,
        loader: Iterable[Any],
        target: Target = None,
        inputs: Callable[[Any], Any] | None = None,
    ) -> Iterator[Explanation]:
        """Explain the batches of a loader one after the other; memory does not grow with their number.

        Parameters
        ----------
        loader : iterable
            A ``DataLoader``, or anything that yields batches. Of a tuple the first entry is taken, of a mapping
            ``pixel_values``, ``image`` or ``x``. Tensors go to where the model is.
        target : int, callable, optional
            As in a call.
        inputs : callable, optional
            From a batch to what is explained, where that is something else.

        Yields
        ------
        Explanation
            Of each batch, when it is there.
        """
        for batch in with_bar(loader):
            yield self(on_device(self.model, first_input(batch) if inputs is None else inputs(batch)), target)

    def program(self, x: Any, target: Target = None, kwargs: Mapping[str, Any] | None = None) -> RelevanceProgram:
        """Return the relevance program for inputs like these: an ``fx.GraphModule`` to print, export or compile.

        It keeps every relevance as it is for who interprets or changes it. What explains is a copy that overwrites
        those that nobody reads any more, which saves time and memory.
        """
        return self.prepare(self.check_inputs(x, kwargs), target).program

    def plan(self, x: Any, target: Target = None, kwargs: Mapping[str, Any] | None = None) -> Plan:
        """Return the graph and the rule of each of its operations, for inputs like these."""
        return self.prepare(self.check_inputs(x, kwargs), target).plan

    def check_inputs(self, x: Any, kwargs: Mapping[str, Any] | None = None) -> Inputs:
        """Return the inputs of a call, checked, and those marked that hold the samples.

        Raises
        ------
        InputError
        """
        inputs = check_inputs(x, kwargs)
        return inputs if self.batched is None else with_samples_in(inputs, self.batched, argument_names(self.model))

    def prepare(self, inputs: Inputs, target: Target = None, concepts: tuple[str, ...] = ()) -> PreparedProgram:
        """Capture, assign and rewrite for inputs like these, or return what was prepared for such before.

        ``concepts`` names the layers, as keys of what a call takes.

        Raises
        ------
        CaptureError, MissingRuleError, TargetError, HookError, OutOfMemoryError
        """
        if concepts and self.hooks:
            raise HookError("concepts and hooks do not go together: explain them one after the other")
        function = target if callable(target) else None
        rules = as_rule_set(self.rules)
        with only_tracer(), memory_for(1):  # two samples are captured, however many there are
            graph = capture_inputs(
                self.model, inputs, target=function, output=self.output, keep=whole_operations(rules)
            )
            inputs = inputs.marked_as(graph)
            contrast = choose_contrast(
                graph, self.contrast, rules, function is not None, lambda: ending_of(graph, inputs)
            )
            if function is not None:
                graph = fold_target(graph, rules, self.at)
            hooks = tuple((pattern, id(hook)) for pattern, hook in self.hooks.items())
            key = (graph, id(rules), contrast, self.layers, self.at, hooks, concepts)
            programs = self._hooked_programs if self.hooks else graph.made
            prepared = programs.get(key)
            if prepared is None:
                plan = assign_rules(graph, rules, contrast, inputs, function is not None, self.at)
                layers = layer_outputs(graph, self.layers)
                attached = attach_hooks(plan, self.hooks, contrast)
                plan = prove_rectified(plan, attached)
                found = find_concepts(plan, concepts)
                program = rewrite(plan, contrast, layers, attached, found)
                prepared = PreparedProgram(plan, program, layers, attached, contrast, found)
                prepared = keep_program(programs, key, prepared)
        return prepared


def _open(model: Model | Classifier) -> tuple[nn.Module | ExportedProgram, str | None]:
    """Return a model that may be given by its name, or as a classifier, and which of its outputs has the classes."""
    if isinstance(model, str) and not (model.endswith(".pt2") or is_converted(model)):
        from relprop.models import load_classifier  # timm is slow to import, and who has a module needs none of it

        model = load_classifier(model)
    loaded = sys.modules.get("relprop.models.classifier")  # else there is no classifier
    if loaded is not None and isinstance(model, loaded.Classifier):
        return model.model, model.output
    return load_model(cast(Model, model)), None


@spell_options
def explain(
    model: Model | Classifier,
    x: Any,
    *,
    target: Target = None,
    kwargs: Mapping[str, Any] | None = None,
    concepts: Concepts | None = None,
    **options: Unpack[Options],
) -> Explanation:
    """Explain which parts of an input speak for a class, and which for the others.

    See `Explainer` for the options, and its call for ``x``, ``target``, ``kwargs`` and ``concepts``. Capture is cached,
    and so is what ``compile`` made, so calling this again for the same model costs no second one.

    Examples
    --------
    >>> import torch, relprop
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                             torch.nn.Linear(288, 5)).eval()
    >>> e = relprop.explain(model, torch.randn(2, 3, 8, 8))
    >>> e.relevance.shape, e.target.shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2]))
    """
    return Explainer(model, **options)(x, target, kwargs, concepts=concepts)
