"""From the parts a program returned to one explanation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from relprop.assign.contrasts import Against, check_apart
from relprop.errors import RelpropError, TargetError
from relprop.explanation.concepts import ConceptMaps
from relprop.explanation.explanation import Explanation
from relprop.explanation.maps import layer_name
from relprop.explanation.provenance import Provenance
from relprop.graph.channels import channel_axis
from relprop.graph.ending import Link
from relprop.rewrite.signed import pad_flows
from relprop.run.conservation import Conservation, Cut
from relprop.run.mass_trace import Records, follow
from relprop.run.prepared import PreparedProgram
from relprop.tracing.export import plain_mode
from rule_registry import BatchAxis


def _finite_or_not(parts: Sequence[dict[str, Any]]) -> str:
    return "finite" if all(bool(part["output"].isfinite().all()) for part in parts) else "not finite either"


@plain_mode()
def assemble(
    prepared: PreparedProgram,
    parts: Sequence[dict[str, Any]],
    contrast: Against,
    provenance: Provenance | None = None,
    link: Link = "softmax",
    channels: int | None = None,
) -> Explanation:
    """Join what a program returned for each chunk of a batch, combine the seeds, account for the mass.

    Raises
    ------
    TargetError
        If a predicted class is what it should be set against.
    RelpropError
        If relevance is not finite.
    """
    graph, rules, count = prepared.plan.graph, prepared.plan.rules, len(parts[0]["mass"])

    def joined(pick: Callable[[dict[str, Any]], Tensor], dim: int) -> Tensor:
        return pick(parts[0]) if len(parts) == 1 else torch.cat([pick(part) for part in parts], dim)

    def seeds_at(node: fx.Node, pick: Callable[[dict[str, Any]], Tensor]) -> Tensor:
        mark = graph.axis(node)
        if mark.outer == 1:
            return joined(pick, mark.axis + 1)
        # Samples follow each other anew at every outer position, so chunks go side by side at each of them.
        axis, layout = mark.axis + 1, (mark.outer, -1, mark.factor)
        return joined(lambda part: pick(part).unflatten(axis, layout), axis + 1).flatten(axis, axis + 2)

    flows, arrived = {}, {}
    for k, node in enumerate(prepared.plan.sources):
        flows[node.name] = seeds_at(node, lambda part, k=k: part["relevance"][k])  # type: ignore[misc]
        arrived[node.name] = flows[node.name][:count]
        if not flows[node.name].isfinite().all():
            raise RelpropError(
                f"relevance at {node.name!r} has NaN or infinite values (the model's output is "
                f"{_finite_or_not(parts)}). Name layers to see where it starts: <layers>; a larger stabiliser of rule "
                f"set {rules.name!r} usually helps",
                layers="[...]",
            )
    looked_up = {
        node.name: seeds_at(node, lambda part, name=node.name: part["looked_up"][name])  # type: ignore[misc]
        for node in prepared.plan.lookups.inputs
    }
    flows |= looked_up
    reported = prepared.plan.reported
    seeds = {node.name: _normalized(prepared, node, flows[node.name][:count]) for node in reported}
    axes = {node.name: graph.axis(node) for node in reported}
    layers: dict[str, Tensor | list[Tensor]] = {}
    for path, nodes in prepared.layers.items():
        found = [
            _combined(prepared, node, seeds_at(node, lambda part, path=path, k=k: part["layers"][path][k])[:count])  # type: ignore[misc]
            for k, node in enumerate(nodes)
        ]
        layers[path] = found[0] if len(found) == 1 else found
        axes |= {layer_name(path, k): graph.axis(node) for k, node in enumerate(nodes)}
    target = None if parts[0]["target"] is None else joined(lambda part: part["target"], 0)
    check_apart(target, contrast)
    concepts, start = {}, count
    for layer in prepared.concepts:
        chosen, share = (
            joined(lambda part, path=layer.path, k=k: part["concepts"][path][k], 0)  # type: ignore[misc]
            for k in range(2)
        )
        these = slice(start, start := start + count * chosen.shape[1])
        maps = {node.name: _of_channels(prepared, node, flows[node.name], these, count) for node in reported}
        concepts[layer.path] = ConceptMaps(chosen, share, maps, {name: axes[name] for name in maps})
    return Explanation(
        relevances={node.name: _combined(prepared, node, flows[node.name][:count]) for node in reported},
        seeds=seeds,
        output=joined(lambda part: part["output"], 0),
        target=target,
        conservation=_conservation(prepared, parts, arrived),
        rules=rules.name,
        contrast=contrast,
        layers=layers,
        axes=axes,
        provenance=provenance,
        link=link,
        channels=_channels(prepared, channels),
        looked_up=tuple(looked_up),
        concepts=concepts,
    )


def _difference(seeds: Tensor) -> Tensor:
    """Return the first map of ``(S, *node)``, minus the second if there is one: ``(*node)``."""
    return seeds[0] - seeds[1] if seeds.shape[0] == 2 else seeds[0]


def _normalized(prepared: PreparedProgram, node: fx.Node, seeds: Tensor, whole: Tensor | None = None) -> Tensor:
    """Divide the map of each seed ``(S, *node)`` by its L1 norm where rules say so; both in one stay as they are.

    The maps of a channel are divided by what ``whole``, which they are part of, is.
    """
    both_in_one = prepared.contrast is not None and seeds.shape[0] == 1
    if prepared.plan.rules.normalize != "l1" or both_in_one:
        return seeds
    mark = prepared.plan.graph.axis(node)
    return _over(mark, seeds, mark.sum((seeds if whole is None else whole).abs()))


def _combined(prepared: PreparedProgram, node: fx.Node, seeds: Tensor, whole: Tensor | None = None) -> Tensor:
    """Combine the maps of the seeds ``(S, *node)`` to ``(*node)``, or those of a channel as a part of ``whole``."""
    relevance = _difference(_normalized(prepared, node, seeds, whole))
    if prepared.plan.rules.normalize != "largest":
        return relevance
    mark = prepared.plan.graph.axis(node)
    size = relevance if whole is None else _difference(whole)
    return _over(mark, relevance, mark.rows(size).abs().amax(1))


def _of_channels(prepared: PreparedProgram, node: fx.Node, flows: Tensor, these: slice, seeds: int) -> Tensor:
    """Return the maps of channels, ``(K, *source)``; zero where what flows through them does not come by."""
    parts = flows[these]
    if missing := these.stop - these.start - len(parts):
        parts = torch.cat([parts, flows.new_zeros(missing, *flows.shape[1:])])
    return torch.stack([_combined(prepared, node, part, flows[:seeds]) for part in parts.split(seeds)])


def refuse_ruled_out(explanation: Explanation) -> None:
    """Refuse a class whose output is infinite: the model rules it out, and no input speaks for or against it.

    Raises
    ------
    TargetError
    """
    output, target = explanation.output, explanation.target
    if target is None or output.ndim != 2:
        return
    chosen = output.gather(1, target.reshape(-1, 1).to(output.device)).flatten()
    if bool(chosen.isfinite().all()):
        return
    sample = int((~chosen.isfinite()).nonzero()[0])
    raise TargetError(
        f"the output of class {int(target[sample])} is {float(chosen[sample]):g} for sample {sample}: the model rules "
        "that class out, or in, whatever the input, so nothing is to be explained; choose another target"
    )


def _channels(prepared: PreparedProgram, given: int | None) -> dict[str, int]:
    """Return the axis of the channels of sources and layers with four axes, where it is known."""
    graph = prepared.plan.graph
    named = {node.name: node for node in prepared.plan.sources if node not in prepared.plan.lookups.values}
    layers = {layer_name(path, k): n for path, nodes in prepared.layers.items() for k, n in enumerate(nodes)}
    found = {name: channel_axis(graph, node) for name, node in (named | layers).items() if node.meta["val"].ndim == 4}
    if given is not None:
        found |= {name: given for name in named if name in found}
    return {name: axis for name, axis in found.items() if axis is not None}


def _over(mark: BatchAxis, maps: Tensor, sizes: Tensor) -> Tensor:
    """Divide maps ``(..., *node)`` by a size of each sample, ``(..., B)``; maps of zeros stay as they are."""
    ndim = maps.ndim - sizes.ndim + 1
    return maps / mark.spread(torch.where(sizes == 0, 1.0, sizes), ndim)


def _conservation(
    prepared: PreparedProgram, parts: Sequence[dict[str, Any]], relevance: Mapping[str, Tensor]
) -> Conservation:
    """Keep the measured masses, ``(S, B)`` each, without the maps and the model, until they are needed."""
    output = prepared.plan.graph.output.name
    if not prepared.plan.measures:
        return Conservation(tuple, conserves=False)
    stops = prepared.stops
    measured = [(_of_seeds(prepared, part), part["mass"], part["unit"], part["hooks"]) for part in parts]
    arrived = {}
    for node in prepared.plan.sources:
        arrived[node.name] = prepared.plan.graph.axis(node).sum(relevance[node.name])

    def trace() -> tuple[Cut, ...]:
        steps, masses, units, hooks = zip(*measured, strict=True)
        records = Records(
            {name: _joined([step[name] for step in steps]) for name in steps[0]},
            torch.cat(masses, 1).cpu(),
            torch.cat(units, 1).cpu(),
            {name: mass.cpu() for name, mass in arrived.items()},
            {
                name: [torch.cat(found, 2).cpu() for found in zip(*(hook[name] for hook in hooks), strict=True)]
                for name in hooks[0]
            },
        )
        return follow(stops, records, output)

    at_output = torch.cat([mass / unit for _, mass, unit, _ in measured], 1)
    return Conservation(
        trace, prepared.plan.conserves, at_output, signed=prepared.contrast is not None and len(at_output) == 1
    )


def _of_seeds(prepared: PreparedProgram, part: dict[str, Any]) -> dict[str, Tensor | None]:
    """Return the records of a run, ``(rows, S, B)``, without those of concepts, whose flows lie behind the seeds."""
    records, count = part["records"], len(part["mass"])
    if not prepared.concepts:
        return dict(records)
    return {name: None if record is None else record[:, :count] for name, record in records.items()}


def _joined(records: Sequence[Tensor | None]) -> Tensor | None:
    """Join the records ``(rows, S, b)`` of a step's chunks to ``(rows, S, B)``, on the CPU."""
    return None if records[0] is None else torch.cat(pad_flows(records, 1), 2).cpu()
