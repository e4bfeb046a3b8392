"""Contrasts: what the target is set against, checked and settled before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx

import rule_registry
from relprop.assign.targets import Target, check_classes, layout, target_classes
from relprop.errors import TargetError
from relprop.graph.ending import Ending
from relprop.graph.graph import Graph
from rule_registry import BatchAxis, Rule, RuleSet

Contrast = int | Sequence[int] | Tensor | Literal["rest", "log-odds", "default"] | None
"""What a user may give as contrast."""
Against = int | Tensor | Literal["rest", "log-odds"] | None
"""A contrast that is settled: one class, one per sample ``(B,)``, all others in one of two ways, or none."""
ContrastKind = int | Literal["rest", "log-odds", "class"] | None
"""What a program is made for; of one class per sample these are an input."""
NAMED = 20
"""Samples that an error names at most."""

_REFUSALS = {
    "sigmoid": "it ends in a sigmoid, so each class has a probability of its own and no softmax makes them",
    "cosine": "its outputs are cosine similarities without a scale, of which a softmax makes no probabilities",
    "probabilities": "its outputs are probabilities already, and not those of one softmax whose scores could be taken",
}


def choose_contrast(
    graph: Graph, contrast: Contrast, rules: RuleSet, callable_target: bool, ending: Callable[[], Ending]
) -> ContrastKind:
    """Settle the contrast; raise a `TargetError` where output, target and contrast do not go together.

    Parameters
    ----------
    graph : Graph
        As captured.
    contrast : int, sequence of int, Tensor, {"rest", "log-odds", "default"} or None
        As the user gave it.
    rules : RuleSet
        Whose own contrast is the default.
    callable_target : bool
        Whether the target is a function of the output.
    ending : callable
        Returns how the model ends; it is called where that matters.
    """
    shape, mark = graph.output.meta["val"].shape, graph.batch.get(graph.output)
    apart = mark is None or mark == BatchAxis(0)  # an output without a mark does not depend on the samples at all
    wanted = _kind(contrast) if not _is_default(contrast) else None if callable_target else rules.contrast
    if callable_target:
        if not apart or len(shape) != 1:
            raise TargetError(
                f"a callable target must return one number per sample, (B,), not {layout(shape, mark)}; for example "
                "lambda output: output[:, 3:5].logsumexp(1)"
            )
        if wanted is not None:
            raise TargetError(
                f"contrast {wanted!r} needs classes; a callable target has none, so pass <contrast>", contrast="None"
            )
        return None
    if not apart or len(shape) != 2:
        raise TargetError(
            f"the output is {layout(shape, mark)}, not (B, classes): give target a function of it that returns one "
            "number per sample, name another output with <output>, or wrap the model in a module that returns "
            "(B, classes)",
            output="...",
        )
    if wanted in ("rest", "log-odds") and shape[1] == 1:
        return None  # there are no others
    if isinstance(wanted, int) and not 0 <= wanted < shape[1]:
        raise TargetError(f"contrast {wanted} is out of range: the model has classes 0 to {shape[1] - 1}")
    if wanted == "log-odds" and (refusal := _REFUSALS.get(ending().kind)):
        if _is_default(contrast):
            return "rest"
        raise TargetError(
            f"contrast 'log-odds' needs class scores that a softmax turns into probabilities; of this model {refusal}: "
            "pass <contrast>",
            contrast='"rest"',
        )
    return wanted


def _is_default(contrast: Contrast) -> bool:
    return isinstance(contrast, str) and contrast == "default"


def _kind(contrast: Contrast) -> ContrastKind:
    """Return which kind of program a contrast of the user's needs."""
    if contrast is None or isinstance(contrast, int):
        return contrast
    if isinstance(contrast, str):
        return "log-odds" if contrast == "log-odds" else "rest"
    return "class"


@dataclass(frozen=True, eq=False)
class Classes:
    """What is explained of each sample of a batch, and against what.

    Parameters
    ----------
    target : Tensor, optional
        Classes ``(B,)``; None for each sample's largest output, or a target that is a function.
    against : int, Tensor, "rest", "log-odds" or None
        The contrast, settled.
    channels : tuple of Tensor
        Channels of each layer of concepts, ``(B, K)``.
    """

    target: Tensor | None
    against: Against
    channels: tuple[Tensor, ...] = ()

    def slice(self, start: int, stop: int) -> tuple[Tensor | None, ...]:
        """Return what a program needs for some samples: channels ``(b, K)``, target ``(b,)`` and contrast ``(b,)``."""
        channels = [channels[start:stop] for channels in self.channels]
        target = None if self.target is None else self.target[start:stop]
        return (*channels, target, *([self.against[start:stop]] if isinstance(self.against, Tensor) else []))


def choose_classes(graph: Graph, target: Target, contrast: Contrast, kind: ContrastKind, batch: int) -> Classes:
    """Settle target and contrast of each sample, or raise one clear `TargetError`."""
    classes = target_classes(graph, target, batch)
    against: Against
    if kind == "class":
        assert not isinstance(contrast, str)
        against = check_classes("contrast", contrast, graph, batch)
    else:
        against = kind
    check_apart(classes, against)
    return Classes(classes, against)


def check_apart(classes: Tensor | None, against: Against) -> None:
    """Raise a `TargetError` that names the samples whose class ``(B,)`` would be set against itself."""
    if classes is None or against is None or isinstance(against, str):
        return
    same = classes == against
    if not same.any():
        return
    samples = same.nonzero()[:, 0].tolist()
    named = ", ".join(map(str, samples[:NAMED])) + (f" and {len(samples) - NAMED} more" if len(samples) > NAMED else "")
    subject = f"contrast {against}" if isinstance(against, int) else "the contrast"
    raise TargetError(
        f"{subject} is the target itself of {len(samples)} of {len(classes)} samples, which are {named} (counted "
        "from 0): name another class, or another target for these"
    )


def rules_behind_scores(ending: Ending) -> Mapping[fx.Node, Rule]:
    """Return the rules by which a seed at the output comes to the scores before the softmax as it is."""
    if ending.softmax is None:
        return {}
    moves = rule_registry.get("structural").table
    return {ending.softmax: rule_registry.passes} | {node: moves[node.target] for node in ending.moves}  # type: ignore[index]
