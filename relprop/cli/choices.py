"""What people write for ``--rules`` and ``--target``, understood or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relprop.assign.rule_names import ParameterError, choose_rules
from relprop.errors import TargetError, near_names

__all__ = ["Choice", "ParameterError", "choose_contrast", "choose_rules", "choose_target"]

SIDE_BY_SIDE = 20
"""Classes of a picture that one sheet shows at most."""


@dataclass(frozen=True)
class Choice:
    """Which classes of a picture are explained.

    Parameters
    ----------
    index : int, optional
        This class; by default the predicted one.
    top : int
        So many of the most probable classes, where no class is named.
    """

    index: int | None = None
    top: int = 1


def choose_target(text: str | None, labels: Sequence[str]) -> Choice:
    """Return what ``CLASS``, ``INDEX`` or ``topN`` stands for.

    Raises
    ------
    TargetError
        If there is no such class, or several have that name.
    """
    if text is None:
        return Choice()
    text = text.strip()
    if top := re.fullmatch(r"top(\d+)", text):
        most = min(SIDE_BY_SIDE, len(labels))
        if not 1 <= int(top[1]) <= most:
            raise TargetError(f"--target {text}: N is from 1 to {most}")
        return Choice(top=int(top[1]))
    return Choice(index=_class("--target", text, labels))


def choose_contrast(text: str | None, labels: Sequence[str]) -> dict[str, Any]:
    """Return the argument ``contrast`` for ``rest``, ``log-odds``, ``none``, ``CLASS`` or ``INDEX``, if any was given.

    Raises
    ------
    TargetError
        If there is no such class, or several have that name.
    """
    if text is None:
        return {}
    text = text.strip()
    if text in ("rest", "log-odds", "none"):
        return {"contrast": None if text == "none" else text}
    return {"contrast": _class("--contrast", text, labels)}


def _class(option: str, text: str, labels: Sequence[str]) -> int:
    if re.fullmatch(r"-?\d+", text):
        if not 0 <= int(text) < len(labels):
            raise TargetError(f"{option} {text}: the model has classes 0 to {len(labels) - 1}")
        return int(text)
    found = [k for k, label in enumerate(labels) if label.casefold() == text.casefold()]
    if not found:
        raise TargetError(f"{option} {text}: no class has that name{near_names(text, labels)}")
    if len(found) > 1:
        raise TargetError(f"{option} {text}: classes {' and '.join(map(str, found))} have that name; give the number")
    return found[0]
