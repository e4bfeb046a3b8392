"""What the maps of an explanation do not show by themselves: how far two maps differ, and how much arrives in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relprop.explanation.maps import Maps


def map_difference(explanation: Maps) -> Tensor | None:
    """Return by how much the target's map and that of what it is set against differ, ``(B,)`` in [0, 1].

    It is their total variation distance: half the sum over all pixels of ``|R_target - R_rest|``, each of them summed
    over the channels and divided by the sum of its magnitudes. So it is the share of one map's relevance that would
    have to move to make it the other: 0 where they are equal, 1 where they have no pixel in common.

    Returns
    -------
    Tensor or None
        None without a contrast, and where one seed is both.
    """
    seeds = next(iter(explanation.seeds.values()))
    if len(seeds) == 1:
        return None
    maps = seeds.double().sum(2).flatten(2)  # (2, B, pixels)
    mass = maps.abs().sum(2, keepdim=True)
    target, rest = maps / torch.where(mass == 0, 1.0, mass)
    return torch.sum((target - rest).abs(), 1) / 2


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
    classes = [against] if isinstance(against, int) else sorted(set(against.tolist()))
    if len(classes) > 1:
        return "one class each"
    return labels[classes[0]] if labels else f"class {classes[0]}"


def caption_words(explanation: Maps, labels: Sequence[str] | None = None) -> str:
    """Say both for a caption, of several samples from the smallest to the largest; classes by name where there are."""
    kept, share, moved = explanation.conservation, arriving(explanation), map_difference(explanation)
    words = []
    if moved is not None:
        against = explanation.contrast
        others = "the others" if isinstance(against, str | None) else _other(against, labels)
        words.append(f"the two maps, of this class and of {others}, differ by {_range(moved)}")
    if share is not None:
        words.append(f"{_range(share)} of the output's relevance reaches the picture")
    elif not kept.conserves:
        words.append("these rules do not conserve relevance")
    return "; ".join(words)


def _range(shares: Tensor) -> str:
    low, high = (f"{float(share):.1%}" for share in shares.aminmax())
    return low if low == high else f"{low} to {high}"
