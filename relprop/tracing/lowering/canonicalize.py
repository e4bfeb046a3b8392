"""Operations of an exported program in a form that holds for any batch; those that change nothing are left out.

A program is exported from an example of two samples. The graph must mean the same for one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_VIEWS = (aten.view.default, aten._unsafe_view.default)
_SQUEEZES = (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)


def identity_argument(node: fx.Node) -> fx.Node | None:
    """Return the argument of which an operation changes nothing, or that it writes over a whole tensor.

    Branches that are left out are often spelled as a sum with zero, and ``x[:, :k] = y`` where there are just k
    channels writes over all there was. A squeeze may find no axis to leave out.
    """
    same: Any = None
    if node.target in (aten.add.Tensor, aten.sub.Tensor) and node.args[1] in (0, 0.0):
        same = node.args[0]
    elif node.target in (aten.copy.default, aten.slice_scatter.default):
        same = node.args[1]
    elif node.target in _SQUEEZES:
        same = node.args[0]
    if not isinstance(same, fx.Node):
        return None
    before, after = same.meta["val"], node.meta["val"]
    return same if (before.shape, before.dtype) == (after.shape, after.dtype) else None


def make_batch_generic(node: fx.Node) -> None:
    """Rewrite an operation that could do something else with another batch than the example's.

    A view of other strides than the example's may need a copy. A squeeze keeps every axis that holds samples: it would
    leave out that of a single one, and the graph behind it would take classes for samples.
    """
    if node.target in _VIEWS:
        node.target = aten.reshape.default
    elif node.target in _SQUEEZES:
        source: Any = node.args[0]
        sizes = source.meta["val"].shape
        wanted: Any = range(len(sizes)) if node.target is aten.squeeze.default else node.args[1]
        axes = [axis for axis in ([wanted] if isinstance(wanted, int) else wanted) if _is_one(sizes[axis])]
        node.target, node.args = aten.squeeze.dims, (source, axes)


def _is_one(size: Any) -> bool:
    """Whether a size is one in every batch: that of an axis with samples is a symbol."""
    return isinstance(size, int) and size == 1
