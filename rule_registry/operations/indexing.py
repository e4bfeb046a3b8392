"""Reading at indices: the transposes of operations that write or add there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rule_registry.call import Call

aten = torch.ops.aten


def gathered(call: Call, relevance: Tensor) -> Tensor:
    """Read what lies where a ``scatter`` wrote, ``(S, *src)``; of its source it writes as much as the index has."""
    dim, index, source = call["dim"] % call.result.ndim + 1, call["index"], call["src"]
    unread = [size - read for size, read in zip(source.shape, index.shape, strict=True)]
    margins = [side for width in reversed(unread) for side in (0, width)]
    return F.pad(relevance.gather(dim, index.expand(len(relevance), *index.shape)), margins)


def at_indices(call: Call, relevance: Tensor) -> Tensor:
    """Read what lies at the indices of an ``index_put``: one entry for each that was written, ``(S, *written)``.

    What was written are the values after they were broadcast.

    Seed by seed: an axis in front of indices that are not neighbours would change the order of the others.
    """
    return torch.stack([aten.index(seed, call["indices"]) for seed in relevance])
