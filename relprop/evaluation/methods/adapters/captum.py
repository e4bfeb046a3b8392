"""Any attribution method of captum."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import near_names
from relprop.evaluation.methods.adapters.model_copy import find_layer, private_copy, require_module
from relprop.evaluation.methods.base import MethodError, plain
from relprop.extras import extra
from relprop.versions import version

WINDOW = 8
"""Windows of occlusion along the shorter side, by default; they overlap by half."""


def captum_methods(name: str = "METHOD") -> dict[str, Any]:
    """Return captum's attribution methods by name; ``name`` is the one that is meant, for the error without captum."""
    with extra("methods", f"captum.{name}"):
        import captum.attr
    return {
        key: value
        for key, value in vars(captum.attr).items()
        if inspect.isclass(value) and issubclass(value, captum.attr.Attribution) and hasattr(value, "attribute")
    }


def captum_options(kind: Any) -> list[str]:
    """Return the options that an attribution method of captum takes."""
    return sorted(_parameters(kind) - {"self", "inputs", "target", "forward_func", "model", "kwargs"})


def check_captum(name: str, options: Iterable[str]) -> Any:
    """Return an attribution method of captum, if it has that name and these options.

    Raises
    ------
    MissingExtraError, MethodError
    """
    available = captum_methods(name)
    kind = available.get(name)
    if kind is None:
        raise MethodError(f"captum.attr has no attribution method {name!r}{near_names(name, available)}")
    if unknown := sorted(set(options) - _parameters(kind)):
        choices = ", ".join(captum_options(kind))
        raise MethodError(f"captum.{name} has no option {unknown[0]!r}; it accepts: {choices}")
    return kind


def _parameters(kind: Any) -> set[str]:
    return {*inspect.signature(kind.__init__).parameters, *inspect.signature(kind.attribute).parameters}


class CaptumMethod:
    """An attribution method of captum, as a callable ``(x, target) -> relevance``.

    Parameters
    ----------
    model : nn.Module
        It is copied without its weights; hooks are put into the copy.
    name : str
        A class of ``captum.attr`` that attributes to the input, as ``"IntegratedGradients"``, or that of a layer, as
        ``"LayerGradCam"``, whose map is enlarged to the picture's size.
    **options
        Arguments of its constructor and of ``attribute``; ``layer`` is a module path. By default baselines are zero,
        the mean of normalised pictures, and Occlusion slides a window of an eighth of the picture.

    Raises
    ------
    MissingExtraError
        captum is not installed.
    MethodError
        captum has no such method, or it has no such option.

    Examples
    --------
    >>> import torch
    >>> from relprop.evaluation import CaptumMethod
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5)).eval()
    >>> method = CaptumMethod(model, "IntegratedGradients", n_steps=8)
    >>> method(torch.randn(2, 3, 4, 4), torch.tensor([0, 3])).shape
    torch.Size([2, 3, 4, 4])
    """

    def __init__(self, model: nn.Module, name: str, **options: Any) -> None:
        kind = check_captum(name, options)
        self.config = {"package": "captum", "version": version("captum"), "method": name, "options": plain(options)}
        self.description = f"{name} of captum"
        self._model = private_copy(require_module(model, f"captum.{name}"))
        made = inspect.signature(kind.__init__).parameters
        accepted = inspect.signature(kind.attribute).parameters
        construct = {key: value for key, value in options.items() if key in made}
        if "layer" in made:
            if "layer" not in construct:
                raise MethodError(f"captum.{name} needs layer=PATH, the module whose output it attributes to")
            construct["layer"] = find_layer(self._model, str(construct["layer"]))
        self._options = {key: value for key, value in options.items() if key in accepted and key not in made}
        self._takes = accepted
        self._method: Any = kind(self._model, **construct)

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Attribute the outputs of the classes ``(B,)`` to pictures ``(B, C, H, W)``, or to a layer, enlarged."""
        found = self._method.attribute(x, target=target, **self._defaults(x), **self._options)
        maps: Tensor = found[0] if isinstance(found, tuple) else found
        if maps.shape[-2:] != x.shape[-2:] and maps.ndim == 4:
            maps = nn.functional.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)
        return maps

    def _defaults(self, x: Tensor) -> dict[str, Any]:
        """Return options that the method needs for pictures ``(B, C, H, W)`` and that the user did not give."""
        window = max(1, min(x.shape[2:]) // WINDOW)
        defaults: dict[str, Any] = {
            "sliding_window_shapes": (x.shape[1], window, window),
            "strides": (x.shape[1], max(1, window // 2), max(1, window // 2)),
        }
        if self._takes.get("baselines") is not None and self._takes["baselines"].default is inspect.Parameter.empty:
            defaults["baselines"] = torch.zeros_like(x[:1])
        if "internal_batch_size" in self._takes:
            defaults["internal_batch_size"] = len(x)  # steps one after the other: memory of one batch
        return {key: value for key, value in defaults.items() if key in self._takes and key not in self._options}
