"""What people write for ``--target`` and ``--contrast``, understood or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relprop.errors import TargetError, near_names

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
    if (top := count_of(text, len(labels))) is not None:
        return Choice(top=top)
    return Choice(index=_class("--target", text, labels))


def count_of(text: str, classes: int = SIDE_BY_SIDE) -> int | None:
    """Return the N of ``topN``, or None where the text is something else.

    Raises
    ------
    TargetError
        If it is none, or more than there are classes or places on a sheet.
    """
    top, most = re.fullmatch(r"top(\d+)", text.strip()), min(SIDE_BY_SIDE, classes)
    if top is not None and not 1 <= int(top[1]) <= most:
        raise TargetError(f"--target {text.strip()}: N is from 1 to {most}")
    return None if top is None else int(top[1])


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
