"""Relevance at the target: the seeds of a program."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.assign.targets import Against
from relprop.rewrite.step import widen

Size = Literal["one", "output", "signed"]


def seed_names(contrast: Against, size: Size) -> tuple[str, ...]:
    """Say what each seed stands for: the target, and what it is set against, which may be both in one."""
    if contrast is None:
        return ("target",)
    if _in_one(contrast, size):
        return ("target minus rest",)
    return ("target", str(contrast))


def _in_one(contrast: Against, size: Size) -> bool:
    return size == "signed" and contrast == "rest"


class Seed(nn.Module):
    """Relevance at the target: one seed for it and, with contrast, one for the rest.

    Parameters
    ----------
    contrast : int, "rest" or None
        A second seed is this class, or uniform over all but the target.
    size : {"one", "output", "signed"}
        Whether a seed has mass one, or is weighed with the output: the target's own, and the mean of the others. Or, in
        place of two seeds against the rest, there is one: one at the target and ``-1 / classes`` at all others.
    classes : bool
        Whether the output has classes; else it is a callable target's one number per sample.
    """

    def __init__(self, contrast: Against, size: Size, classes: bool) -> None:
        super().__init__()
        self.contrast = contrast
        self.size = size
        self.classes = classes

    def forward(self, output: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the seeds, ``(S, *output)``, the classes they stand for, and the mass of each, ``(S, B)``.

        Parameters
        ----------
        output : Tensor
            ``(B, classes)``, or ``(B,)`` where there are none.
        target : Tensor, optional
            ``(B,)``, classes; where negative, or not given, that of the sample's largest output.
        """
        output = widen(output)
        if not self.classes:
            seeds = torch.ones_like(output).unsqueeze(0)
        else:
            largest = output.argmax(1)
            target = largest if target is None else torch.where(target < 0, largest, target)
            chosen = F.one_hot(target, output.shape[1]).to(output.dtype)
            seeds = torch.stack(self._seeds(target, chosen))
        if self.size == "output":
            # Where a class is masked out by minus infinity its seed is zero, which the product would not be.
            seeds = torch.where(seeds == 0, 0.0, seeds * output)
        return (seeds, target, seeds.sum(2)) if self.classes else (seeds, None, seeds)

    def _seeds(self, target: Tensor, chosen: Tensor) -> list[Tensor]:
        """Return the one-hot classes, and what they are set against."""
        if _in_one(self.contrast, self.size):
            return [chosen - (1 - chosen) / chosen.shape[1]]
        return [chosen, *self._against(target, chosen)]

    def _against(self, target: Tensor, chosen: Tensor) -> list[Tensor]:
        """Return what the target is set against, like the one-hot classes."""
        if self.contrast is None:
            return []
        if self.contrast == "rest":
            return [(1 - chosen) / (chosen.shape[1] - 1)]
        return [F.one_hot(torch.full_like(target, self.contrast), chosen.shape[1]).to(chosen.dtype)]
