"""What every test starts with."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from rule_registry import plugins, registry

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that each take all cores get into each other's way; small models are as fast on one. What tests start
    # inherits it.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


os.environ["RELPROP_CACHE"] = "0"  # of the user who runs the tests nothing is written, and no capture is left out


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave one in so many cases of a sweep in the first ring, before ``-m`` chooses."""
    seen: Counter[str] = Counter()
    for item in items:
        if (sweep := item.get_closest_marker("sweep")) is not None:
            name = item.nodeid.split("[")[0]
            if seen[name] % sweep.kwargs["every"]:
                item.add_marker(pytest.mark.full)
            seen[name] += 1


@pytest.fixture(autouse=True)
def _the_same_draws_in_any_order() -> None:
    """Draw the same numbers whichever tests run before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test defines or registers is gone after it."""
    copies = {
        name: replace(d, table=dict(d.table), overrides=list(d.overrides)) for name, d in registry.defined().items()
    }
    monkeypatch.setattr(registry, "_definitions", copies)
    registry._get.cache_clear()
    yield
    registry._get.cache_clear()
    plugins.load_plugins.cache_clear()
