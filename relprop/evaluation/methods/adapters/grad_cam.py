"""Any class activation map of pytorch-grad-cam."""

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

HEADS = frozenset({"classifier", "head", "fc"})
"""What libraries call the classifier, which in some models ends with feature maps of classes."""


GRAD_CAM_OPTIONS = ("layer", "eigen_smooth", "aug_smooth")


def grad_cam_methods(name: str = "METHOD") -> dict[str, Any]:
    """Return the class activation maps by name; ``name`` is the one meant, for the error without the package."""
    with extra("methods", f"grad-cam.{name}"):
        import pytorch_grad_cam
        from pytorch_grad_cam.base_cam import BaseCAM
    return {
        key: value
        for key, value in vars(pytorch_grad_cam).items()
        if inspect.isclass(value) and issubclass(value, BaseCAM)
    }


def check_grad_cam(name: str, options: Iterable[str]) -> Any:
    """Return a class activation map of pytorch-grad-cam, if it has that name and these options.

    Raises
    ------
    MissingExtraError, MethodError
    """
    available = grad_cam_methods(name)
    if name not in available:
        raise MethodError(f"pytorch_grad_cam has no method {name!r}{near_names(name, available)}")
    if unknown := sorted(set(options) - {"layer", *GRAD_CAM_OPTIONS}):
        accepted = ", ".join(GRAD_CAM_OPTIONS)
        raise MethodError(f"grad-cam.{name} has no option {unknown[0]!r}; it accepts: {accepted}")
    return available[name]


class GradCamMethod:
    """A class activation map of pytorch-grad-cam, as a callable ``(x, target) -> relevance``.

    Maps are enlarged to the picture's size by the library, and not negative.

    Parameters
    ----------
    model : nn.Module
        It is copied without its weights; hooks are put into the copy.
    name : str
        A class of ``pytorch_grad_cam``, as ``"GradCAM"``, ``"GradCAMPlusPlus"``, ``"EigenCAM"``.
    layer : str, optional
        Path of the module whose output is weighed: a feature map ``(B, C, h, w)``, or tokens ``(B, N, C)``, of which
        those that are no patches are left out. Without one it is found at the first call, see `default_layer`.
    **options
        Arguments of the call, as ``eigen_smooth=True``.

    Raises
    ------
    MissingExtraError
        pytorch-grad-cam is not installed.
    MethodError
        It has no such class, or the model no such layer.
    """

    def __init__(self, model: nn.Module, name: str = "GradCAM", layer: str | None = None, **options: Any) -> None:
        kind = check_grad_cam(name, options)
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        self._model = private_copy(require_module(model, f"grad-cam.{name}"))
        self.config: dict[str, Any] = {
            "package": "grad-cam",
            "version": version("grad-cam"),
            "method": name,
            "layer": layer,
            "options": plain(options),
        }
        self.description = f"{name} of pytorch-grad-cam"
        self._kind, self._target, self._options = kind, ClassifierOutputTarget, options
        self._cam: Any = None
        if layer is not None:
            self._watch(layer)

    def prepare(self, x: Tensor) -> None:
        """Find the layer for pictures like these, ``(B, C, H, W)``, where none was named."""
        if self._cam is None:
            self._watch(default_layer(self._model, x))

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Draw the maps ``(B, H, W)`` of the classes ``(B,)`` on the pictures ``(B, C, H, W)``."""
        self.prepare(x)
        with torch.enable_grad():
            targets = [self._target(int(index)) for index in target]
            # Only what depends on its input has gradients here: parameters of the copy need none.
            found = self._cam(input_tensor=x.requires_grad_(), targets=targets, **self._options)
        self._cam.activations_and_grads.clear()
        return torch.from_numpy(found)

    def _watch(self, path: str) -> None:
        layer = find_layer(self._model, path)
        self.config["layer"] = path
        self.description = f"{self.config['method']} of pytorch-grad-cam at {path}"
        self._cam = self._kind(model=self._model, target_layers=[layer], reshape_transform=self._as_picture)

    def _as_picture(self, activation: Tensor) -> Tensor:
        """Return a layer's output, which may be tokens ``(B, N, C)``, as ``(B, C, h, w)``."""
        if activation.ndim == 4:
            return activation
        if activation.ndim != 3:
            raise MethodError(
                f"the output of {self.config['layer']} is {tuple(activation.shape)}, no feature map (B, C, h, w) and "
                "no tokens (B, N, C): name another layer"
            )
        return tokens_as_picture(activation, self._model)


def default_layer(model: nn.Module, x: Tensor) -> str:
    """Choose the layer of a class activation map for pictures ``(B, C, H, W)``.

    Returns
    -------
    str
        Of a ViT the norm in front of the last attention, since behind it only the class token is read; else the last
        module in front of the classifier whose output is still a feature map.
    """
    norms: list[str] = [
        path for path, module in model.named_modules() if isinstance(module, nn.LayerNorm) and "norm1" in path
    ]
    if norms and hasattr(model, "patch_embed"):
        return norms[-1]
    seen: list[str] = []

    def watch(path: str, output: object) -> None:
        is_map = isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1
        if is_map and path and not HEADS.intersection(path.split(".")):
            seen.append(path)

    handles = [
        module.register_forward_hook(lambda _, __, output, path=path: watch(path, output))
        for path, module in model.named_modules()
        if not isinstance(module, nn.AdaptiveAvgPool2d)  # what VGG has behind its features
    ]
    try:
        with torch.no_grad():
            model(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise MethodError("the model has no feature map to draw a class activation map of: name a layer")
    return seen[-1]


def tokens_as_picture(tokens: Tensor, model: nn.Module) -> Tensor:
    """Return tokens ``(B, N, C)`` as ``(B, C, h, w)``, without those in front that are no patches."""
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    prefix = int(getattr(model, "num_prefix_tokens", -1))
    if grid is None or prefix < 0:  # any ViT: a square of patches, behind whatever is in front
        side = int(tokens.shape[1] ** 0.5)
        grid, prefix = (side, side), tokens.shape[1] - side * side
    if tokens.shape[1] - prefix != grid[0] * grid[1]:
        raise MethodError(f"{tokens.shape[1]} tokens are not {prefix} and a grid of {grid[0]} x {grid[1]} patches")
    patches: Tensor = tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)
    return patches
