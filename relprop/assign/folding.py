"""Layers that are one with the batch norm behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from relprop.rewrite.folding import aten
from rule_registry import Rule, Site, Slot
from rule_registry.transposed import CONVOLUTIONS


def layers_to_merge(
    sites: Mapping[fx.Node, Site], assigned: Mapping[fx.Node, Rule], outputs: Sequence[fx.Node]
) -> dict[fx.Node, fx.Node]:
    """Return each layer whose output goes into a batch norm alone, with the batch norm.

    Parameters
    ----------
    sites, assigned : mapping
        The operations that carry relevance, and their rules: those of kind ``"merges"`` are looked at.
    outputs : sequence of fx.Node
        Nodes that are used by something else than operations.
    """
    found = {}
    for norm, rule in assigned.items():
        layer = norm.args[0]
        if (
            rule.kind == "merges"
            and isinstance(layer, fx.Node)
            and layer in sites
            and _lays_out_channels(layer)
            and sites[layer].active == sites[norm].active == (Slot("input"),)
            and list(layer.users) == [norm]
            and layer not in outputs
        ):
            found[layer] = norm
    return found


def _lays_out_channels(layer: fx.Node) -> bool:
    """Whether the outputs of a layer lie on the axis that is a batch norm's channels, the second."""
    return layer.target in CONVOLUTIONS or (layer.target == aten.linear.default and layer.meta["val"].ndim == 2)
