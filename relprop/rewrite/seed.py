"""Relevance at the target: the seeds of a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from relprop.assign.contrasts import ContrastKind
from relprop.graph.ending import Ending
from relprop.rewrite.step import widen
from rule_registry import RuleSet

Size = Literal["one", "output", "signed"]


def in_one_pass(contrast: ContrastKind, rules: RuleSet) -> bool:
    """Whether target and contrast are one seed of both signs: where rules are linear, or are defined so."""
    return contrast is not None and (rules.linear or (rules.seed == "signed" and contrast == "rest"))


def seed_names(contrast: ContrastKind, one_pass: bool) -> tuple[str, ...]:
    """Say what each seed stands for: the target, and what it is set against, which may be both in one."""
    if contrast is None:
        return ("target",)
    return (f"target minus {contrast}",) if one_pass else ("target", str(contrast))


def add_scores(graph: fx.Graph, forward: Mapping[fx.Node, fx.Node], ending: Ending | None) -> fx.Node | None:
    """Add the scores before a model's last softmax, moved as its output is; None where that has none.

    Parameters
    ----------
    graph : fx.Graph
        Of the program.
    forward : mapping
        From nodes of the captured graph to those of the program.
    ending : Ending, optional
        How the model ends, if that matters.
    """
    if ending is None or ending.softmax is None:
        return None
    before, scores = ending.softmax, forward[ending.softmax.args[0]]  # type: ignore[index]
    for node in ending.moves:
        moved = {before: scores}
        scores = graph.node_copy(node, lambda n, moved=moved: moved.get(n) or forward[n])  # type: ignore[misc]
        scores._rename(f"scores_{node.name}")
        before = node
    return scores


class Seed(nn.Module):
    """Relevance at the target: one seed for it and, with contrast, one for what it is set against.

    Parameters
    ----------
    contrast : "rest", "log-odds", "class" or None
        A second seed is uniform over all but the target, the probabilities of all but the target, or one class per
        sample.
    size : {"one", "output", "signed"}
        Whether a seed has mass one, or each entry of it is weighed with the output there. Or, in place of two seeds
        against the rest, there is one: one at the target and ``-1 / classes`` at all others.
    classes : bool
        Whether the output has classes; else it is a callable target's one number per sample.
    one_pass : bool
        Whether the second seed is subtracted from the first, so that there is one of both signs.
    """

    def __init__(self, contrast: ContrastKind, size: Size, classes: bool, one_pass: bool = False) -> None:
        super().__init__()
        self.contrast = contrast
        self.size = size
        self.classes = classes
        self.one_pass = one_pass and contrast is not None

    def forward(
        self, output: Tensor, target: Tensor | None, scores: Tensor | None = None, against: Tensor | int | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return the seeds, ``(S, *output)``, the classes they stand for, and mass and unit of each, ``(S, B)``.

        Parameters
        ----------
        output : Tensor
            ``(B, classes)``, or ``(B,)`` where there are none.
        target : Tensor, optional
            ``(B,)``, classes; where negative, or not given, that of the sample's largest output.
        scores : Tensor, optional
            Like the output, what it was before its softmax.
        against : int or Tensor, optional
            What the target is set against, where that is a class, or one per sample, ``(B,)``.

        Returns
        -------
        Tensor, Tensor or None, Tensor, Tensor
            The unit of masses is the mass of the seed; its magnitude where it has both signs, since its
            mass may then be nothing.
        """
        output = widen(output)
        scores = output if scores is None else widen(scores)
        if not self.classes:
            seeds = torch.ones_like(output).unsqueeze(0)
        else:
            largest = output.argmax(1)
            target = largest if target is None else torch.where(target < 0, largest, target)
            chosen = F.one_hot(target, output.shape[1]).to(scores.dtype)
            seeds = torch.stack([chosen, *self._against(target, chosen, scores, against)])
        if self.one_pass and self.size == "signed":
            seeds = seeds[:1] - (1 - seeds[:1]) / output.shape[1]
        elif self.one_pass:
            seeds = seeds[:1] - seeds[1:]
        if self.size == "output":
            # Where a class is masked out by minus infinity its seed is zero, which the product would not be.
            seeds = torch.where(seeds == 0, 0.0, seeds * scores)
        mass = seeds.sum(2) if self.classes else seeds
        unit = seeds.abs().sum(2) if self.one_pass else mass
        return seeds, target if self.classes else None, mass, torch.where(unit == 0, 1.0, unit)

    def _against(self, target: Tensor, chosen: Tensor, scores: Tensor, against: Tensor | int | None) -> list[Tensor]:
        """Return what the target is set against, ``(B, classes)``, like the one-hot classes ``chosen``."""
        if self.contrast is None:
            return []
        if self.contrast == "rest":
            return [(1 - chosen) / (chosen.shape[1] - 1)]
        if self.contrast == "log-odds":
            others = scores.masked_fill(chosen == 1, -torch.inf)
            # A class that is masked out by minus infinity is none of them; where all are, nothing is left to subtract.
            return [torch.where(others.isneginf(), 0.0, others.softmax(1))]
        if against is None:
            raise ValueError("this program sets each sample against a class of its own: give it these as contrast")
        classes = against if isinstance(against, Tensor) else torch.full_like(target, against)
        return [F.one_hot(classes, chosen.shape[1]).to(chosen.dtype)]
