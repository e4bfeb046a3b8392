"""Which functions of a forward pass a peer has no rule for, and whether it adds constants to activations.

Peers whose rules hang on modules see nothing of what is computed between them: there autograd's gradient runs, without
a word. So the forward pass is run once under a `TorchFunctionMode`, which notes every function that is called outside
of the modules with rules, on something that depends on the input. The same way one sees what does not depend on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from relprop.tracing.inputs import tensors_in

Harmless = Callable[[str, int], bool]
"""Whether the gradient is right for a function, by its name and how many of its inputs depend on the model's."""

_MOVES = """
    as_strided cat channel_shuffle chunk clone concat concatenate contiguous double expand expand_as flatten flip float
    gather get getitem index_select masked_fill movedim moveaxis narrow pad permute pixel_shuffle pixel_unshuffle
    repeat repeat_interleave requires_grad reshape reshape_as roll select setitem split squeeze stack swapaxes t
    take_along_dim tensor_split to transpose type type_as unbind unflatten unfold unsqueeze view view_as where
"""
_RECTIFIERS_AND_SELECTION = """
    relu threshold dropout dropout1d dropout2d dropout3d feature_dropout max_pool1d max_pool2d max_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax max topk maximum
"""
_SUMS = "add iadd radd sub isub"
_SCALES = "mul imul rmul multiply div idiv truediv itruediv true_divide neg"
_LINEAR = """
    linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm mean sum rsub avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate fold upsample
"""
_PRODUCTS = "matmul rmatmul bmm mm baddbmm addmm einsum tensordot"

_ALWAYS = frozenset((_MOVES + _RECTIFIERS_AND_SELECTION).split())
_ADDING = frozenset(_SUMS.split())
_JOINING = frozenset({"cat", "concat", "concatenate", "stack", "where", "scaled_dot_product_attention"})
_SCALING = frozenset(f"{_SCALES} {_PRODUCTS}".split())
_ALWAYS_LINEAR = _ALWAYS | _ADDING | frozenset(_LINEAR.split())


def passes_relevance(name: str, dependent: int) -> bool:
    """Whether the gradient of a function hands relevance on as any rule would.

    It does where entries are moved, rectified or chosen, and where a constant is added. It doesn't for a sum of two
    activations, each of which would get all of it, nor for a factor, which would scale it.
    """
    return name in _ALWAYS or (name in _ADDING and dependent < 2)


def passes_gradient(name: str, dependent: int) -> bool:
    """Whether the gradient of a function, multiplied with its input, is LRP-0: it is for what is linear."""
    return name in _ALWAYS_LINEAR or (name in _SCALING and dependent < 2)


def without_rules(model: nn.Module, x: Tensor, ruled: Callable[[nn.Module], bool], harmless: Harmless) -> Counter[str]:
    """Count the functions that get the plain gradient where that is no rule.

    Parameters
    ----------
    model
        A copy; its parameters stop requiring gradients.
    x
        Its input, ``(B, ...)``.
    ruled
        Whether a module has a rule; what is called inside of it doesn't count.
    harmless
        What may get the gradient.
    """
    notes = _Notes(harmless)
    model.requires_grad_(False)
    with _noted(model, ruled, notes), notes:
        model(x.clone().requires_grad_())
    return notes.found


class _Notes(TorchFunctionMode):
    def __init__(self, harmless: Harmless) -> None:
        super().__init__()
        self.harmless = harmless
        self.inside = 0
        self.found: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dependent = sum(map(_depends, tree_leaves((args, kwargs))))
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func)).strip("_")
        if not self.inside and any(map(_depends, tree_leaves(output))) and not self.harmless(name, dependent):
            self.found[name] += 1
        return output


def adds_constants(model: nn.Module, x: Tensor) -> bool:
    """Whether anything but zero that does not depend on the input is added to activations or put beside them.

    Learnt tokens, computed position biases and masks do so: they take a share of the relevance, as biases do.
    The model is called on x, ``(B, ...)``. Its parameters, those of a copy, stop requiring gradients.
    """
    constants = _Constants()
    model.requires_grad_(False)
    with constants:
        model(x.clone().requires_grad_())
    return constants.found


class _Constants(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func)).strip("_")
        # A third argument of an addition is a factor.
        terms = list(args[:2]) if name in _ADDING else tensors_in((args, kwargs))
        if name in _ADDING | _JOINING and any(map(_depends, terms)):
            self.found |= any(map(_is_constant, terms))
        return func(*args, **kwargs or {})


def _is_constant(value: object) -> bool:
    if isinstance(value, Tensor):
        return torch.is_floating_point(value) and not value.requires_grad and bool(value.any())
    return isinstance(value, float | int) and not isinstance(value, bool) and value != 0


def _depends(value: object) -> bool:
    return isinstance(value, Tensor) and torch.is_floating_point(value) and value.requires_grad


@contextmanager
def _noted(model: nn.Module, ruled: Callable[[nn.Module], bool], notes: _Notes) -> Iterator[None]:
    """Let the notes know while a module with a rule runs."""

    def enter(*_: object) -> None:
        notes.inside += 1

    def leave(*_: object) -> None:
        notes.inside -= 1

    chosen = [module for module in model.modules() if ruled(module)]
    handles = [module.register_forward_pre_hook(enter) for module in chosen]
    handles += [module.register_forward_hook(leave) for module in chosen]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
