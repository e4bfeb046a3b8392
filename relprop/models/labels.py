"""Names of classes: ImageNet's own, or read from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relprop.errors import RelpropError, first_line

Labels = tuple[str, ...]


class LabelsError(RelpropError, ValueError):
    """Class names that cannot be read, or that are not as many as the model has classes."""


def read_labels(path: Path) -> Labels:
    """Read class names, by index.

    Parameters
    ----------
    path
        One name per line; or a JSON list of names; or a JSON object index -> name, as ``{"0": "tench"}``, as the
        ``{"0": ["n01440764", "tench"]}`` of Keras, or below ``id2label`` as in a Hugging Face ``config.json``.

    Raises
    ------
    LabelsError
        The file cannot be read, has an empty line, or names an index twice or not at all.
    """
    try:
        text = path.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise LabelsError(f"cannot read class names {path}: {reason}") from error
    if path.suffix.lower() == ".json" or text.startswith(("[", "{")):
        return _parse(text, path)
    names = [line.strip() for line in text.splitlines()]
    if not names or not all(names):
        where = f"line {names.index('') + 1}" if names else "the file"
        raise LabelsError(f"cannot read class names {path}: {where} is empty")
    return tuple(names)


def imagenet_labels(classes: int) -> Labels:
    """Name the classes as ImageNet, or the larger variant that has so many, does; number them where none has."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return tuple(f"class {i}" for i in range(classes))
    return tuple(str(name).split(",")[0] for name in ImageNetInfo(subset).label_descriptions())


def check_count(labels: Labels, source: str, classes: int, name: str) -> None:
    """Raise a `LabelsError` if the labels are more or fewer than the classes of the model."""
    if len(labels) != classes:
        raise LabelsError(f"{source} names {len(labels)} classes, {name} has {classes}")


def _parse(text: str, path: Path) -> Labels:
    """Read names out of JSON."""
    try:
        content = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:  # numbers and brackets without end, too
        raise LabelsError(f"cannot read class names {path}: no JSON ({first_line(error)})") from error
    if isinstance(content, _Pairs):
        content = next((value for key, value in content if key == "id2label"), content)
    if isinstance(content, _Pairs):
        content = _in_order(content, path)
    if not isinstance(content, list):
        raise LabelsError(f"cannot read class names {path}: {repr(content)[:200]} is no list or object of names")
    names = [value[-1] if isinstance(value, list) and value else value for value in content]
    odd = next((i for i, name in enumerate(names) if not isinstance(name, str)), None)
    if odd is not None or not names:
        where = "it is empty" if not names else f"class {odd} has {names[odd or 0]!r} for a name"
        raise LabelsError(f"cannot read class names {path}: {where}")
    return tuple(names)


_LONGEST_INDEX = 9
"""Digits of a class index."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its pairs: a dict would drop keys that come twice."""


def _in_order(pairs: _Pairs, path: Path) -> list[Any]:
    """Return the values of a JSON object by index."""
    values: dict[int, Any] = {}
    for key, value in pairs:
        if not key.isdecimal() or len(key) > _LONGEST_INDEX:
            raise LabelsError(f"cannot read class names {path}: {key[:80]!r} is no class index")
        if int(key) in values:
            raise LabelsError(f"cannot read class names {path}: class {int(key)} is named twice")
        values[int(key)] = value
    absent = next((i for i in range(len(values)) if i not in values), None)
    if absent is not None:
        raise LabelsError(
            f"cannot read class names {path}: it names classes up to {max(values)}, but not class {absent}"
        )
    return [values[i] for i in range(len(values))]
