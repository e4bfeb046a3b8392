"""Whether a map depends on what the model learned, and on the class: weights drawn anew, and a second class.

A map that stays as it is when the weights of later layers are drawn anew can't explain what these layers do (Adebayo et
al., Sanity Checks for Saliency Maps, NeurIPS 2018, who draw from the output downwards). Rules that hand on positive
parts alone converge to one map, whatever the class (Sixt et al., When Explanations Lie, ICML 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from relprop.assign.plan import Plan
from relprop.assign.targets import Target
from relprop.errors import RelpropError
from relprop.explainer import Explainer
from relprop.explanation.explanation import Explanation
from relprop.graph.layers import weighted_layers
from relprop.options import Options, spell_options
from relprop.tracing.loading import Model
from relprop.tracing.model_copy import structural_copy
from relprop.verification.similarity import Randomization, similarity


class RandomizationError(RelpropError, ValueError):
    """A model whose layers can't be drawn anew."""


@spell_options
def randomize(
    model: Model,
    x: Any,
    *,
    target: Target = None,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> Randomization:
    """Compare maps with those of copies of the model whose last layers are drawn anew, and with those of another class.

    Maps are compared by their magnitude, channels of pictures summed. The target stays that of the model itself.

    Parameters
    ----------
    model, x, target, kwargs, **options
        As `relprop.explain` has them; the model is not changed.
    seed : int
        The new weights follow from it.

    Returns
    -------
    Randomization
        Print it.

    Raises
    ------
    RandomizationError
        No layer with weights lies between the source and the output.

    Examples
    --------
    >>> import torch
    >>> from relprop.verification.randomize import randomize
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                             torch.nn.Linear(144, 5)).eval()
    >>> found = randomize(model, torch.randn(2, 3, 8, 8), rules="gradient")
    >>> found.layers, list(found.depths)
    (2, [1, 2])
    """
    explainer = Explainer(model, **options)
    inputs = explainer.check_inputs(x, kwargs)
    plan = explainer.plan(inputs, target)
    inputs = inputs.marked_as(plan.graph)
    explanation = explainer(inputs, target)
    meant = target if explanation.target is None else explanation.target
    maps = magnitudes(explanation)
    depths = depths_of(len(weight_groups(plan)))
    found = {
        depth: similarity(maps, magnitudes(Explainer(copied, **options)(inputs, meant)))
        for depth, copied in randomized_copies(explainer.model, plan, depths, seed).items()
    }
    runner_up = next_class(explanation)
    return Randomization(
        model=type(explainer.model).__name__,
        rules=explanation.rules,
        contrast=_in_words(explanation.contrast),
        layers=max(depths),
        depths=found,
        other_class=None if runner_up is None else similarity(maps, magnitudes(explainer(inputs, runner_up))),
    )


def depths_of(layers: int) -> tuple[int, ...]:
    """Return how many last layers are drawn anew: one, two, three, half of all, all.

    Raises
    ------
    RandomizationError
        There is none.

    Examples
    --------
    >>> depths_of(53), depths_of(2)
    ((1, 2, 3, 26, 53), (1, 2))
    """
    if layers == 0:
        raise RandomizationError(
            "no layer with weights lies between the source and the output, so there is nothing to draw anew: name an "
            "earlier module with at="
        )
    return tuple(sorted({min(depth, layers) for depth in (1, 2, 3, max(1, layers // 2), layers)}))


def randomized_copies(
    model: nn.Module | ExportedProgram, plan: Plan, depths: Sequence[int], seed: int = 0
) -> dict[int, nn.Module]:
    """Return copies of a model, by how many of their last layers are drawn anew; they share the tensors that are not.

    The entries of each weight, and those of its bias, are permuted, so that they keep the distribution that was
    learned and nothing else of it. A layer is drawn alike in all copies.
    """
    groups = list(reversed(weight_groups(plan)))
    own = model.module() if isinstance(model, ExportedProgram) else model
    copies = {}
    for depth in depths:
        generator = torch.Generator().manual_seed(seed)
        drawn = {id(tensor): _permuted(tensor, generator) for group in groups[:depth] for tensor in group}
        copies[depth] = structural_copy(own)
        for module in copies[depth].modules():
            module.training = False  # an exported program's modules say that they are in training, and refuse eval()
        replaced = set()
        for module in copies[depth].modules():
            for name, parameter in module._parameters.items():
                if id(parameter) in drawn:
                    module._parameters[name] = drawn[id(parameter)]
                    replaced.add(id(parameter))
        if len(replaced) < len(drawn):
            raise RandomizationError(
                f"{type(own).__name__} has weights that are no registered parameters of its modules, so they can't be "
                "drawn anew"
            )
    return copies


def weight_groups(plan: Plan) -> list[list[Tensor]]:
    """Return the parameters of each weighted layer, in forward order and any shape; a shared one is the last's."""
    graph = plan.graph
    groups: list[list[Tensor]] = []
    seen: set[int] = set()
    for node in reversed(weighted_layers(graph, list(plan.sites))):
        names = dict.fromkeys(name for value in node.all_input_nodes for name in _parameters(plan, value))
        tensors = [tensor for tensor in (graph.tensors[name] for name in names) if id(tensor) not in seen]
        seen.update(map(id, tensors))
        groups += [tensors] if tensors else []
    return groups[::-1]


def _parameters(plan: Plan, node: fx.Node) -> list[str]:
    """Return the parameters that a constant is made of."""
    if plan.graph.batch.get(node) is not None:
        return []
    if node.op == "get_attr":
        return [str(node.target)] if str(node.target) in plan.graph.parameters else []
    return [name for value in node.all_input_nodes for name in _parameters(plan, value)]


def _permuted(tensor: Tensor, generator: torch.Generator) -> nn.Parameter:
    """Return a parameter with the entries of a tensor, of any shape, in a drawn order."""
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return nn.Parameter(tensor.detach().flatten()[order].reshape(tensor.shape), requires_grad=tensor.requires_grad)


def next_class(explanation: Explanation) -> Tensor | None:
    """Return the class with the largest output but the target's and the contrast's, ``(B,)``.

    None where the target is a callable, where there is no such class, and where two classes are set against each other,
    of which the maps are those of one another but for the sign.
    """
    contrast, output = explanation.contrast, explanation.output
    if explanation.target is None or output.shape[1] < (2 if contrast is None else 3):
        return None
    left = output.detach().float().scatter(1, explanation.target[:, None], -math.inf)
    if isinstance(contrast, int | Tensor):
        against = torch.as_tensor(contrast, device=left.device).expand(len(left))
        left = left.scatter(1, against[:, None], -math.inf)
    return left.argmax(1)


def magnitudes(explanation: Explanation) -> Tensor:
    """Return the magnitudes of maps, ``(B, entries)``: channels of pictures summed, all sources behind each other."""
    axes = explanation.axis_to_sum
    maps = (m.sum(axes(name)) if m.ndim == 4 else m for name, m in explanation.relevances.items())
    return torch.cat([m.detach().double().abs().flatten(1) for m in maps], 1)


def _in_words(contrast: object) -> str:
    if contrast is None:
        return "none"
    return str(contrast) if isinstance(contrast, int | str) else "one class per sample"
