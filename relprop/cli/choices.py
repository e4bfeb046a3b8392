"""The values of ``--target`` and ``--contrast``, understood or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relprop.cli.words import split_words
from relprop.errors import TargetError, near_names

SIDE_BY_SIDE = 20
"""Classes of a picture that one sheet shows at most."""


@dataclass(frozen=True)
class Choice:
    """Which classes of a picture are explained.

    Parameters
    ----------
    classes : tuple of int
        These; where none is named, the most probable ones.
    top : int
        So many of these.
    """

    classes: tuple[int, ...] = ()
    top: int = 1

    @property
    def count(self) -> int:
        """How many classes of a picture are explained."""
        return len(self.classes) or self.top


def choose_target(texts: Sequence[str], labels: Sequence[str]) -> Choice:
    """Return what several of ``CLASS`` and ``INDEX``, or one ``topN``, stand for; one text may list several.

    Raises
    ------
    TargetError
        If there is no such class, or several have that name.
    """
    words = [word for text in texts for word in _split(text.strip(), labels)]
    for word in words:
        if (top := count_of(word, len(labels))) is not None:
            if len(words) > 1:
                raise TargetError(f"--target {word}: name classes, or {word} alone")
            return Choice(top=top)
    classes = tuple(dict.fromkeys(_class("--target", word, labels) for word in words))
    if len(classes) > SIDE_BY_SIDE:
        raise TargetError(f"--target: {len(classes)} classes are more than the {SIDE_BY_SIDE} that a sheet shows")
    return Choice(classes)


def _split(text: str, labels: Sequence[str]) -> list[str]:
    """Return the classes that a text lists: at commas, where it is not the name of one class as a whole."""
    folded = text.casefold()
    if any(label.casefold() == folded for label in labels):
        return [text]
    return split_words(text) or [text]


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
