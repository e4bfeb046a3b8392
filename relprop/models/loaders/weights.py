"""State dicts, tensors of any shape by name: reading them from files and fitting them to a model."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from relprop.errors import RelpropError, first_line

SHOWN = 3
"""How many keys of each kind an error names."""

Misfit = Mapping[str, list[str]]
"""What does not fit, by kind: keys, or keys with their shapes."""


class WeightsError(RelpropError, ValueError):
    """Weights that cannot be read, downloaded, or that belong to another architecture."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, out of its wrapping, half precision widened to float32.

    Raises
    ------
    WeightsError
        The file is unreadable, holds more than tensors, or no state dict.
    """
    if path.suffix.lower() == ".pt2":
        raise WeightsError(f"{path} is an exported program, not a file of weights: give it as the model")
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # of TorchScript, which is refused below
                found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"cannot read weights {path}: not a state dict; save one with torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # zip, safetensors and the file system raise unrelated types
        archive = "TorchScript" in str(error)  # PyTorch's own text advises to switch safety off
        reason = "a TorchScript archive, not a state dict" if archive else first_line(error)
        raise WeightsError(f"cannot read weights {path}: {reason}") from error
    while isinstance(found, dict) and (inner := found.get("state_dict", found.get("model"))) is not None:
        found = inner
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()) or not found:
        raise WeightsError(f"{path} holds no state dict (tensors by name)")
    return {str(k): v.float() if v.is_floating_point() else v for k, v in found.items()}


def renamed(state: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Give a state dict the model's key names, position by position."""
    wanted = model.state_dict()
    if [v.shape for v in state.values()] != [v.shape for v in wanted.values()]:
        raise WeightsError(f"{path}: its tensors do not follow {type(model).__name__}'s in number and shape")
    return dict(zip(wanted, state.values(), strict=True))


def aligned(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Give the keys of a state dict the model's own prefix, where that is all that differs.

    What wraps a network for training (``DataParallel``, Lightning, ``torch.compile``) puts its own name in front of
    every key: ``module.``, ``model.``, ``_orig_mod.``. Any prefix that all keys of one side share is exchanged for
    the prefix of the other side, silently, as all other names have to agree then.
    """
    ours, theirs = _prefix(wanted), _prefix(given)
    exchanged = {ours + key.removeprefix(theirs): tensor for key, tensor in given.items()}
    return exchanged if not any(_compare_names(wanted, exchanged)) else given


def misfit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Misfit:
    """Compare two state dicts; batch counters may be missing, as no inference reads them."""
    missing, unexpected = _compare_names(wanted, given)
    reshaped = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    return {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}


def misfit_error(path: Path, name: str, found: Misfit) -> WeightsError:
    """Describe in one line what of a file does not fit a model, some keys of each kind."""
    parts = (
        f"{len(keys)} {kind} ({', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''})"
        for kind, keys in found.items()
        if keys
    )
    return WeightsError(f"{path} does not fit {name}: keys {'; '.join(parts)}")


def load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Load a file into a model, whole or not at all.

    Raises
    ------
    WeightsError
        The file is unreadable, or its keys or shapes are not the model's.
    """
    wanted = model.state_dict()
    state = aligned(wanted, read_weights(path))
    found = misfit(wanted, state)
    if any(found.values()):
        raise misfit_error(path, name, found)
    model.load_state_dict(state, strict=False)


def _prefix(keys: Mapping[str, Tensor]) -> str:
    """Return the module path that all keys begin with, with its last dot."""
    parents = (key.split(".")[:-1] for key in keys)
    shared = takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False))
    return "".join(f"{level[0]}." for level in shared)


def _compare_names(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Return the keys that are missing, and those that are not expected."""
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    return missing, [key for key in given if key not in wanted]
