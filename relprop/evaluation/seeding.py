"""Random numbers that follow from what is computed, and from nothing that was computed before."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_drawing = threading.RLock()


def _renew_lock() -> None:
    global _drawing
    _drawing = threading.RLock()


if hasattr(os, "register_at_fork"):  # another thread of the parent may have held it
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def forked_random(device: torch.device, *key: object) -> Iterator[None]:
    """Seed the generators of PyTorch, NumPy and Python by a key, and give them back as they were.

    They are the process's, because methods, transforms and metrics of anybody's draw from these: one thread at a time
    has them, and others that come here wait.

    Parameters
    ----------
    device : torch.device
        Whose generator is forked beside the CPU's.
    *key
        Numbers and words: the seed of the run, the unit, the method.
    """
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")
    devices = [] if device.type == "cpu" else [device.index or 0]
    kind = "cuda" if device.type == "cpu" else device.type
    with _drawing, torch.random.fork_rng(devices=devices, device_type=kind):
        python, numpy = random.getstate(), np.random.get_state()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def same_kernels(device: torch.device) -> Iterator[None]:
    """Let a GPU choose the same kernels every time, so that the same pictures give the same bits."""
    if device.type != "cuda":
        yield
        return
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    extras: Any = torch.utils.deterministic
    filled = extras.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    extras.fill_uninitialized_memory = False
    try:
        with torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        extras.fill_uninitialized_memory = filled
