"""Fresh models made fit to measure: noise in constant parameters, and batch statistics of a real input."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def settle(model: Model, x: Any, seed: int = 0) -> Model:
    """Give constant parameters noise, calibrate batch statistics on ``x``, and switch to evaluation mode.

    Fresh weights are often degenerate (heads and residual gains at zero, layer scales of 1e-5, batch statistics of
    nobody): anything measured on them compares zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            constant = parameter.numel() > 1 and float(parameter.std()) < 1e-4
            if constant or float(parameter.abs().max()) < 1e-3:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        model.eval()
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train()
            norm.momentum = None
        if norms:
            model(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
    return model
