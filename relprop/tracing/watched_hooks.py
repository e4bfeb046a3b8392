"""Which forward hooks of a model take part in its computation, and which only observe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from relprop.tracing.fingerprint import hooks_of
from relprop.tracing.inputs import tensors_in


class Hook:
    """A forward hook on a copy of a model, which tells whether it takes part in the computation.

    A hook surely takes part if it returns something, sets an attribute of its module, or writes into a tensor that it
    is given. One that does nothing of it may keep a feature that the forward reads later, or may observe: that is
    found by calls with it and without it. One that observes must not see the tensors of a tracer.
    """

    def __init__(self, hook: Any) -> None:
        self.hook = hook
        self.takes_part = False
        self.is_tried = False
        self.failure: Exception | None = None

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Call the hook and watch what it does."""
        before = dict(vars(module))
        given = tensors_in((args, kwargs))
        versions = [_version(tensor) for tensor in given]
        try:
            result = self.hook(module, *args, **kwargs)
        except Exception as error:  # whatever it raises: it may be an observer of numbers, which a tracer has none of
            if not self.is_tried:
                raise
            self.failure = error
            return None
        after = vars(module)
        changed = before.keys() != after.keys() or any(after[name] is not before[name] for name in before)
        self.takes_part |= changed or result is not None or versions != [_version(tensor) for tensor in given]
        return result

    def __repr__(self) -> str:
        """Name the hook as its maker does."""
        inner = getattr(self.hook, "func", self.hook)
        return str(getattr(inner, "__qualname__", type(inner).__qualname__))


def _version(tensor: Tensor) -> int:
    """Return how often a tensor, of any shape, was written to."""
    return 0 if tensor.is_inference() else tensor._version  # inference tensors have none


def watch_hooks(model: nn.Module) -> None:
    """Put every forward hook of a copy into a `Hook`."""
    for module in model.modules():
        for registered in hooks_of(module):
            for key, hook in registered.items():
                registered[key] = Hook(hook)


def watched(model: nn.Module) -> Iterator[tuple[str, Hook]]:
    """Yield the hooks of a copy with the path of their module."""
    for path, module in model.named_modules():
        for registered in hooks_of(module):
            yield from ((path, hook) for hook in registered.values() if isinstance(hook, Hook))


def may_keep_features(called: nn.Module) -> bool:
    """Whether a copy that was called has hooks of which that call doesn't tell whether they take part."""
    return any(not hook.takes_part for _, hook in watched(called))


def drop_observers(model: nn.Module, called: nn.Module) -> None:
    """Take from a copy the hooks that did not surely take part when another copy was called."""
    for module, twin in zip(model.modules(), called.modules(), strict=True):
        for registered, seen in zip(hooks_of(module), hooks_of(twin), strict=True):
            for key in list(registered):
                if isinstance(hook := seen.get(key), Hook) and not hook.takes_part:
                    del registered[key]


def try_hooks(model: nn.Module) -> None:
    """Let hooks that may be observers fail on a copy that is traced."""
    for _, hook in watched(model):
        hook.is_tried = True
