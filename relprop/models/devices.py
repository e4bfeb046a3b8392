"""Devices: whether one is there, and bringing a model to it."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from relprop.errors import RelpropError, first_line
from relprop.tracing.loading import device_of as device_of


class DeviceError(RelpropError, ValueError):
    """A device that is unknown, not there, or can't hold the model."""


def find_device(name: str) -> torch.device:
    """Return the device of that name.

    Parameters
    ----------
    name
        As PyTorch has it: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``xpu`` ...

    Raises
    ------
    DeviceError
        There is no device of that name, or it can't be used.
    """
    there = ["cpu"]
    if (accelerator := torch.accelerator.current_accelerator(check_available=True)) is not None:
        there += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device without a driver or without values fails here only
    except Exception as error:  # each backend has its own types and its own long texts
        raise DeviceError(f"unknown device {name!r}; available: {', '.join(there)}") from error
    return device


def move(model: nn.Module | ExportedProgram, device: torch.device) -> None:
    """Bring a model to a device, in place.

    Raises
    ------
    DeviceError
        The device is too small, or lacks a number type of the model.
    """
    try:
        if isinstance(model, ExportedProgram):
            move_to_device_pass(model, str(device))
        else:
            model.to(device)
    except (RuntimeError, TypeError) as error:  # out of memory; no float64 on mps
        raise DeviceError(f"the model can't be moved to {device}: {first_line(error)}") from error
