"""Models whose forward reads what hooks kept, somewhere outside of the modules that the hooks are on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.models import CLASSES, Lambda

FEATURES: dict[str, Tensor] = {}
LAST: Tensor | None = None


class Saver:
    """A hook object, whose method is registered: it has the feature from the first call on."""

    def __init__(self, module: nn.Module) -> None:
        self.handle = module.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.stored = output


class CallableSaver:
    """A hook that is an object itself."""

    stored: Tensor

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.stored = output


def _two(read: Callable[[Any], Tensor]) -> Lambda:
    """A model that joins the output of its second layer with what is read."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.second(torch.tanh(m.first(x)))
        return m.head(torch.cat([y, read(m)], 1))

    return Lambda(forward, first=nn.Linear(8, 6), second=nn.Linear(6, 4), head=nn.Linear(10, CLASSES))


def hook_object() -> nn.Module:
    """As U-Nets built around a classifier have them."""
    model = _two(lambda m: m.saver.stored)
    model.saver = Saver(model.first)
    return model


def callable_object() -> nn.Module:
    model = _two(lambda m: m.savers[0].stored)
    model.savers = [CallableSaver()]
    model.first.register_forward_hook(model.savers[0])
    return model


def closure_over_a_dict() -> nn.Module:
    """As depth estimators read out the blocks of a transformer."""
    kept: dict[str, Tensor] = {}

    def keep_as(name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            kept[name] = output

        return keep

    model = _two(lambda m: m.kept["first"])
    model.kept = kept
    model.first.register_forward_hook(keep_as("first"))
    return model


def closure_over_the_model() -> nn.Module:
    model = _two(lambda m: m.feature)
    model.first.register_forward_hook(lambda module, args, output: setattr(model, "feature", output))
    return model


def closure_alone() -> nn.Module:
    """Nothing of the model refers to the list but the two functions."""
    kept: deque[Tensor] = deque(maxlen=1)
    model = _two(lambda m: kept[-1])
    model.first.register_forward_hook(lambda module, args, output: kept.append(output))
    return model


def default_argument() -> nn.Module:
    def keep(module: nn.Module, args: Any, output: Tensor, kept: dict[str, Tensor] = {}) -> None:  # noqa: B006
        kept["first"] = output

    model = _two(lambda m: m.kept["first"])
    model.kept = keep.__defaults__[0]  # type: ignore[index]
    model.first.register_forward_hook(keep)
    return model


def bound_method() -> nn.Module:
    """As timm collects features: a partial of a method of the model, into a dict by device."""

    class Collecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))
            self.head = nn.Linear(10, CLASSES)
            self.collected: dict[torch.device, dict[str, Tensor]] = {}
            for name in ("0", "2"):
                self.body.get_submodule(name).register_forward_hook(partial(self.collect, name))

        def collect(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
            self.collected.setdefault(output.device, {})[name] = output

        def forward(self, x: Tensor) -> Tensor:
            self.body(x)
            features = self.collected.pop(x.device)
            return self.head(torch.cat([features["2"], features["0"]], 1))

    return Collecting()


def pre_hook() -> nn.Module:
    model = _two(lambda m: m.kept["second"])
    model.kept = {}
    model.second.register_forward_pre_hook(lambda module, args: model.kept.update(second=args[0]))
    return model


def _keep_in_global_dict(module: nn.Module, args: Any, output: Tensor) -> None:
    FEATURES["first"] = output


def global_dict() -> nn.Module:
    model = _two(lambda m: FEATURES["first"])
    model.first.register_forward_hook(_keep_in_global_dict)
    return model


def global_dict_of_the_model() -> nn.Module:
    """As a model that is built by functions: they name the dict, and the model has it too."""
    model = _two(lambda m: m.kept["first"])
    model.kept = FEATURES
    model.first.register_forward_hook(_keep_in_global_dict)
    return model


def _assign_global(module: nn.Module, args: Any, output: Tensor) -> None:
    global LAST
    LAST = output


def global_name() -> nn.Module:
    def read(m: Any) -> Tensor:
        assert LAST is not None
        return LAST

    model = _two(read)
    model.first.register_forward_hook(_assign_global)
    return model


def class_attribute() -> nn.Module:
    class Keeping(nn.Module):
        kept: dict[str, Tensor] = {}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(10, CLASSES)
            self.first.register_forward_hook(self.keep)

        @staticmethod
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            Keeping.kept["first"] = output

        def forward(self, x: Tensor) -> Tensor:
            y = self.second(torch.tanh(self.first(x)))
            return self.head(torch.cat([y, self.kept["first"]], 1))

    return Keeping()


KINDS = {
    build.__name__: build
    for build in (
        hook_object,
        callable_object,
        closure_over_a_dict,
        closure_over_the_model,
        closure_alone,
        default_argument,
        bound_method,
        pre_hook,
        global_dict,
        global_dict_of_the_model,
        global_name,
        class_attribute,
    )
}
