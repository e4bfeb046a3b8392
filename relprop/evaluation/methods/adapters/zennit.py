"""Attributions of zennit, under any of its composites."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from relprop.errors import RelpropWarning, near_names
from relprop.evaluation.methods.adapters.model_copy import one_hot, private_copy, require_module
from relprop.evaluation.methods.base import MethodError, plain
from relprop.extras import extra
from relprop.versions import version


def zennit_composites(name: str = "METHOD") -> dict[str, Any]:
    """Return zennit's composites by name; ``name`` is the one that is meant, for the error without zennit."""
    with extra("methods", f"zennit.{name}"):
        import zennit.composites
        import zennit.core
    return _classes(zennit.composites, zennit.core.Composite)


def check_zennit(name: str, options: Iterable[str]) -> None:
    """Refuse a name that is neither a composite nor an attributor of zennit; options are its own.

    Raises
    ------
    MissingExtraError, MethodError
    """
    composites = zennit_composites(name)
    if name not in _attributors():
        _choose(name, composites, "composite")


def _attributors() -> dict[str, Any]:
    import zennit.attribution

    return _classes(zennit.attribution, zennit.attribution.Attributor)


class ZennitMethod:
    """Relevance by zennit, as a callable ``(x, target) -> relevance``.

    Parameters
    ----------
    model : nn.Module
        It is copied without its weights; the composite is registered to the copy.
    composite : str or Composite, optional
        A class of ``zennit.composites``, as ``"EpsilonPlusFlat"``, or a composite. ``"Gradient"``, ``"SmoothGrad"`` and
        ``"IntegratedGradients"`` are attributors without one.
    attributor : str
        A class of ``zennit.attribution``.
    canonizer : str, optional
        A class of ``zennit.torchvision`` or ``zennit.canonizers``, as ``"ResNetCanonizer"``.
    **options
        Arguments of the composite, or of the attributor where there is none.

    Notes
    -----
    The seed is the target's output, as LRP decomposes it; of a gradient it is one. Where a composite has no rule zennit
    takes the gradient: a `RelpropWarning` names the layers with parameters that this is true of.

    Raises
    ------
    MissingExtraError
        zennit is not installed.
    MethodError
        It has no such composite, attributor or canonizer.
    """

    def __init__(
        self,
        model: nn.Module,
        composite: Any = "EpsilonPlusFlat",
        *,
        attributor: str = "Gradient",
        canonizer: str | None = None,
        **options: Any,
    ) -> None:
        with extra("methods", f"zennit.{composite}"):
            import zennit.canonizers
            import zennit.torchvision
        attributors = _attributors()
        canonizers = _classes(zennit.canonizers, zennit.canonizers.Canonizer)
        canonizers |= _classes(zennit.torchvision, zennit.canonizers.Canonizer)
        self._model = private_copy(require_module(model, "zennit"))
        given = composite
        if isinstance(composite, str) and composite in attributors:
            attributor, composite = composite, None
        kind = _choose(attributor, attributors, "attributor")
        extra_options: dict[str, Any] = {}
        if composite is None:
            extra_options = options
        elif isinstance(composite, str):
            chosen = _choose(composite, zennit_composites(composite), "composite")
            if canonizer is not None:
                options = options | {"canonizers": [_choose(canonizer, canonizers, "canonizer")()]}
            composite = _call(chosen, options, composite)
        elif options or canonizer:
            raise MethodError("a composite that is made already takes no options")
        self._conserves = composite is not None
        if composite is not None:
            _warn_of_gradients(self._model, composite, given if isinstance(given, str) else type(given).__name__)
        self._attributor: Any = _call(kind, {"model": self._model, "composite": composite, **extra_options}, attributor)
        self.config = {
            "package": "zennit",
            "version": version("zennit"),
            "composite": given if isinstance(given, str) else type(given).__name__,
            "attributor": attributor,
            "canonizer": canonizer,
            "options": plain({key: value for key, value in options.items() if key != "canonizers"}),
        }
        self.description = f"{self.config['composite']} of zennit"

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Attribute the outputs of the classes ``(B,)`` to the pictures, ``(B, C, H, W)``."""

        def seed(output: Tensor) -> Tensor:
            chosen = one_hot(output, target)
            return chosen * output.detach() if self._conserves else chosen

        with self._attributor as attribute:
            _, relevance = attribute(x, seed)
        return relevance  # type: ignore[no-any-return]


def _warn_of_gradients(model: nn.Module, composite: Any, name: str) -> None:
    """Warn of the layers with parameters for which a composite has no rule.

    One that has a rule for none of them, as guided backpropagation, is meant to take the gradient there.
    """
    context: dict[str, Any] = {}  # in which composites note what they have met
    ruled, others = 0, Counter[str]()
    for path, module in model.named_modules():
        rule = composite.module_map(context, path, module)
        if any(parameter is not None for parameter in module._parameters.values()):
            ruled += rule is not None
            others[type(module).__name__] += rule is None
    lacking = ", ".join(f"{count} {kind}" for kind, count in others.items() if count)
    if ruled and lacking:
        warnings.warn(
            f"zennit's {name} has no rule for some modules with parameters of the model: {lacking}. Relevance passes "
            "them as a gradient does",
            RelpropWarning,
            stacklevel=3,
        )


def _classes(module: Any, base: type) -> dict[str, Any]:
    return {name: kind for name, kind in vars(module).items() if inspect.isclass(kind) and issubclass(kind, base)}


def _choose(name: str, choices: dict[str, Any], what: str) -> Any:
    if name not in choices:
        raise MethodError(f"zennit has no {what} {name!r}{near_names(name, choices)}")
    return choices[name]


def _call(kind: Any, options: dict[str, Any], name: str) -> Any:
    try:
        return kind(**options)
    except TypeError as error:
        raise MethodError(f"zennit.{name}: {error}") from error
