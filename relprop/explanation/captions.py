"""Numbers beside maps: how far two maps differ, and how much relevance arrives."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite, log10

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relprop.explanation.maps import Maps

NEARLY_SAME = 0.01
"""Maps that differ by less are about what all classes have in common: their difference is easily misread."""


def map_difference(explanation: Maps) -> Tensor | None:
    """Return by how much the target's map and that of what it is set against differ, ``(B,)`` in [0, 1].

    It is ``|R_target - R_rest|_1 / (|R_target|_1 + |R_rest|_1)`` of maps that are summed over the channels: 0 where
    they are equal, 1 where they have no pixel in common.

    Returns
    -------
    Tensor or None
        None without a contrast, and where one seed is both.
    """
    source, seeds = next(iter(explanation.seeds.items()))
    if len(seeds) == 1:
        return None
    maps = seeds.double().sum(1 + explanation.axis_to_sum(source)) if seeds.ndim > 3 else seeds.double()
    target, rest = maps.reshape(*maps.shape[:2], -1)  # (2, B, pixels)
    mass, apart = target.abs().sum(1) + rest.abs().sum(1), (target - rest).abs().sum(1)
    return torch.where(mass == 0, 0.0, apart / mass)


def nearly_same(explanation: Maps) -> NDArray[np.bool_]:
    """Return for which samples the target's map is nearly that of what it is set against, ``(B,)``."""
    moved = map_difference(explanation)
    if moved is None:
        return np.zeros(len(explanation), bool)
    return (moved < NEARLY_SAME).cpu().numpy()


def caution(explanation: Maps, labels: Sequence[str] | None = None) -> str:
    """Warn of a map whose colours show hardly anything; empty where there is none.

    Of several samples it is about all that are `nearly_same`, which are drawn pale.
    """
    same, moved = nearly_same(explanation), map_difference(explanation)
    if moved is None or not same.any():
        return ""
    rest = _percent(float(moved[torch.from_numpy(same).to(moved.device)].max()))
    both = f"{100 - float(rest):.{len(rest.partition('.')[2])}f} % the same"
    others = others_words(explanation, labels)
    if len(explanation) == 1:
        name = target_words(explanation, labels)
        return f"Caution: the maps for {name} and for {others} are {both}; colours show the remaining {rest} %"
    which = "all maps" if same.all() else "the pale maps"
    return f"Caution: {which} of a class and of {others} are at least {both}; colours show the rest"


def target_words(explanation: Maps, labels: Sequence[str] | None = None) -> str:
    """Name the class of a single sample; of several, say whose it is."""
    if explanation.target is None:
        return "the target"
    if len(explanation) > 1:
        return "its class"
    target = int(explanation.target[0])
    return labels[target] if labels else f"class {target}"


def single_answer(explanation: Maps, labels: Sequence[str] | None = None) -> list[str]:
    """Say for each sample of a model with one output which answer is explained: yes, or what makes the output larger.

    Relevance speaks for the larger output, also where the model says no.
    """
    name = labels[0] if labels else "output 0"
    found = []
    for value, probability in zip(explanation.output[:, 0].tolist(), explanation.probability.tolist(), strict=True):
        if not isfinite(probability):
            found.append(f"{name}: what makes it larger, output {value:.3g}")
            continue
        predicted = "" if probability >= 0.5 else f" (predicted: no {1 - probability:.1%})"
        found.append(f"{name}: yes {probability:.1%}{predicted}")
    return found


def others_words(explanation: Maps, labels: Sequence[str] | None = None) -> str:
    """Name what the target is set against."""
    against = explanation.contrast
    return "the others" if isinstance(against, str | None) else _other(against, labels)


def _percent(share: float) -> str:
    """Write a share as a percentage, to one digit, or to the first that is not zero."""
    digits = 1 if share <= 0 else max(1, ceil(-log10(100 * share)))
    return f"{100 * share:.{digits}f}"


def arriving(explanation: Maps) -> Tensor | None:
    """Return what share of the output's relevance reaches the picture, ``(B,)``, under rules that do not conserve it.

    Of a contrast it is the target's. None where it is conserved, or not measured; and where target and contrast are
    one seed, whose mass is a difference that may be nothing.
    """
    kept = explanation.conservation
    return kept.masses[-1][0] if not (kept.conserves or kept.signed) and kept.cuts else None


def contrast_words(explanation: Maps, labels: Sequence[str] | None = None) -> str:
    """Say what the target was set against; empty without a contrast, and classes by name where there are."""
    against = explanation.contrast
    if against is None:
        return ""
    if isinstance(against, str):
        words = {"rest": "all other classes alike", "log-odds": "the other classes as probable as they are (log-odds)"}
        return f"against {words[against]}"
    return f"against {_other(against, labels)}"


def _other(against: int | Tensor, labels: Sequence[str] | None) -> str:
    """Name the other class, or say that each sample has one, ``(B,)``."""
    classes = [against] if isinstance(against, int) else sorted(set(against.tolist()))
    if len(classes) > 1:
        return "one class each"
    return labels[classes[0]] if labels else f"class {classes[0]}"


def caption_words(explanation: Maps, labels: Sequence[str] | None = None) -> str:
    """Say both for a caption, of several samples from the smallest to the largest; classes by name where there are."""
    kept, share, moved = explanation.conservation, arriving(explanation), map_difference(explanation)
    words = []
    if moved is not None:
        words.append(
            f"the two maps, of this class and of {others_words(explanation, labels)}, differ by {_range(moved)}"
        )
    if share is not None:
        words.append(f"{_range(share)} of the output's relevance reaches the picture")
    elif not kept.conserves:
        words.append("these rules do not conserve relevance")
    return "; ".join(words)


def _range(shares: Tensor) -> str:
    """Write shares ``(B,)`` as percentages, from the smallest to the largest."""
    low, high = (f"{float(share):.1%}" for share in shares.aminmax())
    return low if low == high else f"{low} to {high}"
