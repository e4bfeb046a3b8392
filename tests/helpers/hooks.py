"""Relevance hooks that several tests register."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relprop import NodeInfo


class Seen:
    """A hook that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[NodeInfo, Tensor]] = []

    def __call__(self, info: NodeInfo, relevance: Tensor) -> None:
        self.calls.append((info, relevance))

    @property
    def last(self) -> Tensor:
        return self.calls[-1][1]


def keep(channels: slice, axis: int = 2) -> Any:
    """Let the relevance of some channels through, ``(S, B, C, ...)``."""

    def mask(info: NodeInfo, relevance: Tensor) -> Tensor:
        kept = torch.zeros_like(relevance)
        part = (slice(None),) * axis + (channels,)
        kept[part] = relevance[part]
        return kept

    return mask


def stop(info: NodeInfo, relevance: Tensor) -> Tensor:
    return torch.zeros_like(relevance)


def negative(info: NodeInfo, relevance: Tensor) -> Tensor:
    """Turn the sign of every other entry along the last axis."""
    return relevance * (1 - 2 * (torch.arange(relevance.shape[-1]) % 2))
