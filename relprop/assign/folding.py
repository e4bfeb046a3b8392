"""Finding the layers that become one with the norm behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from rule_registry import Rule, Site, layer_arguments


def foldable_layers(
    sites: Mapping[fx.Node, Site], assigned: Mapping[fx.Node, Rule], outputs: Sequence[fx.Node]
) -> dict[fx.Node, fx.Node]:
    """Return each layer whose output goes into a norm alone that folds into it, with the norm.

    Parameters
    ----------
    sites, assigned : mapping
        The operations that carry relevance, and their rules, of which those of norms may declare a ``fold``.
    outputs : sequence of fx.Node
        Nodes that are used by something else than operations.
    """
    found = {}
    for norm, rule in assigned.items():
        layer = norm.args[0]
        if (
            rule.fold is not None
            and isinstance(layer, fx.Node)
            and layer in sites
            and _channels_are_second(layer, sites[layer])
            and len(sites[norm].active) == 1
            and list(layer.users) == [norm]
            and layer not in outputs
        ):
            found[layer] = norm
    return found


def _channels_are_second(layer: fx.Node, site: Site) -> bool:
    """Whether the outputs of a layer lie on the axis that is a norm's channels."""
    arguments = layer_arguments(site.op)
    if arguments is None or arguments.output_axis is None:
        return False
    if any(slot.name in (*arguments.weights, arguments.bias) for slot in site.active):  # what is folded is constant
        return False
    ndim: int = layer.meta["val"].ndim
    return arguments.output_axis % ndim == 1
