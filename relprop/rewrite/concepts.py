"""The relevance that flows through single channels of a layer: each as seeds of its own, behind all others.

From its layer on a channel's relevance goes on beside the whole: rules see more seeds, and nothing else. So one forward
pass and one way down to the layer serve all channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.assign.concepts import ConceptLayer


class ConceptStep(nn.Module):
    """Parts the relevance of some channels from that of a layer.

    Parameters
    ----------
    layer : ConceptLayer
        The layer.
    seeds : int
        How many seeds there are: one, or those of target and contrast.
    """

    def __init__(self, layer: ConceptLayer, seeds: int) -> None:
        super().__init__()
        self.layer = layer
        self.seeds = seeds

    def forward(
        self, flows: Tensor, channels: Tensor, gain: Tensor | None = None, *before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add the flows of the channels behind those that arrive.

        Parameters
        ----------
        flows : Tensor
            Relevance at the layer, ``(S, *output)``, and behind it the flows of channels of layers above.
        channels : Tensor
            ``(B, K)``; where negative, those with most relevance.
        gain : Tensor, optional
            The layer's output, ``(*output)``, where what flows is a gradient that becomes relevance when it is
            multiplied with that.
        *before : Tensor
            The channels of the layers whose flows lie in front, ``(B, K)`` each, K its own.

        Returns
        -------
        Tensor, Tensor, Tensor
            All flows, ``(flows, *output)``, the channels of each sample ``(B, K)``, and the relevance of each,
            ``(B, K)``.
        """
        layer, whole = self.layer, flows[: self.seeds]
        relevance = whole if gain is None else whole * gain
        net = relevance[0] - relevance[1] if self.seeds == 2 else relevance[0]
        apart = net.movedim((layer.batch.axis, layer.axis), (0, 1))
        by_channel = apart.reshape(len(channels), layer.size, -1).sum(2)
        largest = by_channel.topk(channels.shape[1]).indices if channels.shape[1] <= layer.size else channels
        channels = torch.where(channels < 0, largest, channels)
        chosen = F.one_hot(channels, layer.size).to(whole.dtype).movedim(1, 0)  # (K, B, C)
        sizes = [1] * net.ndim
        sizes[layer.batch.axis], sizes[layer.axis] = len(channels), layer.size
        if layer.axis < layer.batch.axis:
            chosen = chosen.transpose(1, 2)
        parts = (whole * chosen.reshape(-1, 1, *sizes)).flatten(0, 1)  # (K S, *output)
        missing = self.seeds * (1 + sum(other.shape[1] for other in before)) - len(flows)
        return torch.cat([flows, flows.new_zeros(missing, *net.shape), parts]), channels, by_channel.gather(1, channels)

    def extra_repr(self) -> str:
        """Say where, for printed programs."""
        return f"channels of {self.layer.path!r}"
