"""Whether a tracer runs the rules, by the kind of tensor: torch's flags are up for what another thread traces, too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor of any shape has values to look at; those of a tracer have none."""
    return not (torch.compiler.is_dynamo_compiling() or isinstance(tensor, FakeTensor))


def is_exported(tensor: Tensor) -> bool:
    """Whether ``torch.export`` traces a tensor of any shape."""
    return torch.compiler.is_exporting() and not has_values(tensor)
