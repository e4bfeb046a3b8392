"""Cosine similarity: a bilinear product of two vectors whose lengths are held, as the statistics of norms are.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call


def terms(call: Call) -> Tensor:
    """Return the terms that the cosine is a sum of, ``(..., axis, ...)``."""
    a, b = torch.broadcast_tensors(call["x1"], call["x2"])
    a_length, b_length = (x.square().sum(call["dim"], keepdim=True).sqrt().clamp(min=call["eps"]) for x in (a, b))
    terms: Tensor = a * b / (a_length * b_length)
    return terms


def at_terms(call: Call, s: Tensor) -> Tensor:
    """Give what lies at each output to each of its terms: ``(S, ..., 1, ...)``, which broadcasts to these."""
    return s.unsqueeze(call["dim"] + 1 if call["dim"] >= 0 else call["dim"])
