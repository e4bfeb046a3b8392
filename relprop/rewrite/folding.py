"""A layer and the norm behind it as one layer: a linear map, then a gain and a shift of each channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload

from relprop.rewrite.step import widen
from rule_registry import Rule, fold_into


class FoldedLayer(nn.Module):
    """Weight and bias of the one layer, made anew at every call: the values are those of the moment.

    Parameters
    ----------
    layer : OpOverload
        The operation of the layer.
    rule : Rule
        The norm's, which declares a ``fold``.
    """

    def __init__(self, layer: OpOverload, rule: Rule) -> None:
        super().__init__()
        self.layer = layer
        self.rule = rule

    def forward(self, layer: Mapping[str, Any], norm: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the weight, shaped as the layer's, and the bias ``(C,)``.

        Parameters
        ----------
        layer, norm : mapping
            What the two are called with, by name.
        """
        assert self.rule.fold is not None
        widened = [{name: widen(value) for name, value in given.items()} for given in (layer, norm)]
        return fold_into(self.layer, widened[0], self.rule.fold(widened[1]))
