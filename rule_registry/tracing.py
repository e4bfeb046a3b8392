"""Whether a tracer runs the rules. Tensors tell: torch's flags are up for what another thread traces, too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def has_values(tensor: Tensor) -> bool:
    """Whether there are values to look at, as a tracer's tensors have none."""
    return not (torch.compiler.is_dynamo_compiling() or isinstance(tensor, FakeTensor))


def is_exported(tensor: Tensor) -> bool:
    """Whether ``torch.export`` traces a tensor."""
    return torch.compiler.is_exporting() and not has_values(tensor)
