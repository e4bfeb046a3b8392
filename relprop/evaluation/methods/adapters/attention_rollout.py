"""Attention rollout for vision transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from relprop.evaluation.methods.adapters.grad_cam import tokens_as_picture
from relprop.evaluation.methods.adapters.model_copy import private_copy, require_module
from relprop.evaluation.methods.base import MethodError
from relprop.versions import version


class AttentionRollout:
    """How much of each patch attention hands to the output, whatever the class, as a callable ``(x, target)``.

    The product over all blocks of ``(A + 1) / 2``, where A is the mean of the heads' attention and the one stands for
    the residual connection (Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, eq. 1). Its row of
    the class token, or the mean of all rows where there is none, is enlarged to the picture.

    Parameters
    ----------
    model : nn.Module
        A ViT as timm builds them: attention modules with ``attn_drop`` and ``fused_attn``. It is copied without its
        weights; attention is written out in the copy, so that it can be seen.

    Raises
    ------
    MethodError
        The model is no such transformer.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = private_copy(require_module(model, "attention-rollout"))
        found: list[Any] = [
            module
            for module in self._model.modules()
            if isinstance(getattr(module, "fused_attn", None), bool) and hasattr(module, "attn_drop")
        ]
        if not found or not hasattr(self._model, "patch_embed"):
            raise MethodError(
                f"attention-rollout needs a vision transformer as timm builds them, not a {type(model).__name__}"
            )
        self.config = {
            "package": "relprop",
            "version": version("relprop"),
            "method": "attention-rollout",
            "blocks": len(found),
        }
        self.description = "attention rollout (Abnar and Zuidema 2020)"
        self._seen: list[Tensor] = []
        for module in found:
            module.fused_attn = False
            module.attn_drop.register_forward_hook(lambda _, __, output: self._seen.append(output))

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Follow attention through all blocks, whatever the classes ``(B,)``: ``(B, C, H, W)`` to ``(B, 1, H, W)``."""
        self._seen.clear()
        with torch.no_grad():
            self._model(x)
        flow: Tensor | None = None
        for attention in self._seen:
            if attention.ndim != 4 or attention.shape[-1] != attention.shape[-2]:
                raise MethodError(f"attention of shape {tuple(attention.shape)} is not between all tokens of a picture")
            step = (attention.mean(1) + torch.eye(attention.shape[-1], device=x.device)) / 2
            flow = step if flow is None else step @ flow
        self._seen.clear()
        assert flow is not None, "the model has attention modules, but called none"
        rows = flow[:, :1] if getattr(self._model, "num_prefix_tokens", 0) else flow.mean(1, keepdim=True)
        grid = tokens_as_picture(rows.transpose(1, 2), self._model)
        return nn.functional.interpolate(grid, size=x.shape[2:], mode="bilinear", align_corners=False)
