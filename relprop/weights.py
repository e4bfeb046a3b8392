"""State dicts: reading them from files and telling whether they fit a model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from relprop.errors import RelpropError
from relprop.export import first_line


class WeightsError(RelpropError, ValueError):
    """Weights that cannot be read, downloaded, or that belong to another architecture."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, out of its wrapping, half precision widened to float32."""
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"cannot read weights {path}: not a PyTorch file of tensors alone") from error
    except Exception as error:  # zip, safetensors and the file system raise unrelated types
        raise WeightsError(f"cannot read weights {path}: {first_line(error)}") from error
    while isinstance(found, dict) and (inner := found.get("state_dict", found.get("model"))) is not None:
        found = inner
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()) or not found:
        raise WeightsError(f"{path} holds no state dict (tensors by name)")
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


def renamed(state: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Give a state dict the model's key names, position by position."""
    wanted = model.state_dict()
    if [v.shape for v in state.values()] != [v.shape for v in wanted.values()]:
        raise WeightsError(f"{path}: its tensors do not follow {type(model).__name__}'s in number and shape")
    return dict(zip(wanted, state.values(), strict=True))


def misfit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Compare two state dicts; batch counters may be missing, as no inference reads them."""
    return {
        "are missing": [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")],
        "are unexpected": [k for k in given if k not in wanted],
        "have another shape": [k for k in wanted if k in given and wanted[k].shape != given[k].shape],
    }
