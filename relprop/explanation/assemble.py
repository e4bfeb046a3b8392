"""From the parts a program returned to one explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from relprop.graph.graph import Graph
from relprop.rewrite.signed import pad_flows
from relprop.run.conservation import Conservation, Cut
from relprop.run.mass_trace import Records, follow
from relprop.run.prepared import PreparedProgram
from relprop.tracing.export import plain_mode
from rule_registry import BatchAxis


class _Chunks:
    """What a program returned for each chunk of a batch, to be joined.

    Parameters
    ----------
    parts : sequence of dict
        What the program returned, see `relprop.rewrite.program.RelevanceProgram`.
    graph : Graph
        Of the program; it says where the samples lie.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]], graph: Graph) -> None:
        self.parts = parts
        self.graph = graph

    def join(self, *keys: str | int, dim: int = 0) -> Tensor:
        """Return the tensor that the keys lead to in every part, joined along an axis ``dim`` of ``(...)``."""
        found = [_at(part, keys) for part in self.parts]
        return found[0] if len(found) == 1 else torch.cat(found, dim)

    def join_at(self, node: fx.Node, *keys: str | int) -> Tensor:
        """Return relevance at a node, ``(S, *node)``, of all chunks: joined along the samples."""
        mark = self.graph.axis(node)
        if mark.outer == 1 or len(self.parts) == 1:
            return self.join(*keys, dim=mark.axis + 1)
        # Samples follow each other anew at every outer position, so chunks go side by side at each of them.
        axis, layout = mark.axis + 1, (mark.outer, -1, mark.factor)
        found = [_at(part, keys).unflatten(axis, layout) for part in self.parts]
        return torch.cat(found, axis + 1).flatten(axis, axis + 2)

    def are_finite(self) -> bool:
        """Whether all outputs are finite."""
        return all(bool(part["output"].isfinite().all()) for part in self.parts)


def _at(part: Any, keys: Sequence[str | int]) -> Tensor:
    """Return the tensor, of any shape, that keys lead to, one inside the other."""
    for key in keys:
        part = part[key]
    return part  # type: ignore[no-any-return]


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
    chunks = _Chunks(parts, graph)
    flows = _flows_at_sources(prepared, chunks)
    arrived = {name: flow[:count] for name, flow in flows.items()}
    looked_up = {node.name: chunks.join_at(node, "looked_up", node.name) for node in prepared.plan.lookups.inputs}
    flows |= looked_up
    reported = prepared.plan.reported
    axes = {node.name: graph.axis(node) for node in reported}
    layers: dict[str, Tensor | list[Tensor]] = {}
    for path, nodes in prepared.layers.items():
        found = [
            _combined(prepared, node, chunks.join_at(node, "layers", path, k)[:count]) for k, node in enumerate(nodes)
        ]
        layers[path] = found[0] if len(found) == 1 else found
        axes |= {layer_name(path, k): graph.axis(node) for k, node in enumerate(nodes)}
    target = None if parts[0]["target"] is None else chunks.join("target")
    check_apart(target, contrast)
    return Explanation(
        relevances={node.name: _combined(prepared, node, flows[node.name][:count]) for node in reported},
        seeds={node.name: _normalized(prepared, node, flows[node.name][:count]) for node in reported},
        output=chunks.join("output"),
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
        concepts=_concept_maps(prepared, chunks, flows, count),
    )


def _flows_at_sources(prepared: PreparedProgram, chunks: _Chunks) -> dict[str, Tensor]:
    """Return the relevance of each source, ``(flows, *source)``: of the seeds, then of concepts.

    Raises
    ------
    RelpropError
        If relevance is not finite.
    """
    flows = {}
    for k, node in enumerate(prepared.plan.sources):
        flows[node.name] = chunks.join_at(node, "relevance", k)
        if not flows[node.name].isfinite().all():
            output = "finite" if chunks.are_finite() else "not finite either"
            raise RelpropError(
                f"relevance at {node.name!r} has NaN or infinite values (the model's output is {output}). Name layers "
                "to see where it starts: <layers>; a larger stabiliser of rule set "
                f"{prepared.plan.rules.name!r} usually helps",
                layers="[...]",
            )
    return flows


def _concept_maps(
    prepared: PreparedProgram, chunks: _Chunks, flows: Mapping[str, Tensor], seeds: int
) -> dict[str, ConceptMaps]:
    """Return the maps of the channels of each layer of concepts, whose ``(flows, *node)`` lie behind the seeds."""
    found, start, graph = {}, seeds, prepared.plan.graph
    for layer in prepared.concepts:
        chosen, share = (chunks.join("concepts", layer.path, k) for k in range(2))
        these = slice(start, start := start + seeds * chosen.shape[1])
        nodes = prepared.plan.reported
        maps = {node.name: _of_channels(prepared, node, flows[node.name], these, seeds) for node in nodes}
        found[layer.path] = ConceptMaps(chosen, share, maps, {node.name: graph.axis(node) for node in nodes})
    return found


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
