"""The batches of a loader: what of each is explained, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from relprop.errors import InputError
from relprop.run.progress import DELAY, progress_bar
from relprop.tracing.loading import device_of

KEYS = ("pixel_values", "image", "images", "x")
"""What data sets call the pictures of a batch."""
_CHOICE = 'lambda batch: batch["..."]'


def with_bar(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches, and show how many are done."""
    with progress_bar(len(loader) if isinstance(loader, Sized) else None, "batch", delay=DELAY) as bar:
        for batch in loader:
            yield batch
            bar.update()


def first_input(batch: Any) -> Any:
    """Return the pictures of a batch.

    Raises
    ------
    InputError
        If it is nothing of the kind.
    """
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, tuple | list) and batch:
        return batch[0]
    if isinstance(batch, Mapping):
        for key in KEYS:
            if key in batch:
                return batch[key]
        held = ", ".join(map(str, batch))
        raise InputError(f"a batch holds {held}, none of {', '.join(KEYS)}: say which, <inputs>", inputs=_CHOICE)
    raise InputError(f"a batch is a tensor, a tuple or a mapping, not {type(batch).__name__}: <inputs>", inputs=_CHOICE)


def on_device(model: nn.Module | ExportedProgram, x: Any) -> Any:
    """Bring tensors to where the model is."""
    place = device_of(model)
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(place), x)
