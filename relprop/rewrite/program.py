"""The relevance program: forward pass and relevance of one model in one module."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from relprop.errors import RelpropError


class RelevanceProgram(fx.GraphModule):
    """Forward pass and relevance of one model in one printable module.

    ``program(x)`` or ``program(x, target)`` returns a dict (one that sets each sample against a class of its own is
    called with these too, as ``contrast``): ``output``; ``target``, ``(B,)``; ``relevance``, a list with one
    ``(S, *source)`` per source, S being the seeds; ``layers``, the same for every layer asked for; ``mass``, that of
    the seeds, and ``unit``, what masses are told in, ``(S, B)``; ``records`` and ``hooks``, the masses behind
    `relprop.Conservation`, by node; ``concepts``, channels and their relevance by layer, whose flows lie behind the
    seeds. It holds the model's own parameters, so changed values take effect at the next call. With hooks it can be
    exported and compiled as far as these can.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run without an autograd tape."""
        with torch.no_grad():
            return super().__call__(*args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> RelevanceProgram:
        raise RelpropError(
            "a relevance program shares its parameters with the model: move or cast the model, then explain again"
        )
