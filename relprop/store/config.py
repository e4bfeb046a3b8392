"""Configurations as canonical JSON, and the differences between two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from relprop.store.errors import ConfigurationError

NOTHING = "nothing"
_LONGEST = 80
"""Characters of a value in a message."""


def canonical_json(config: Mapping[str, Any]) -> str:
    """Write a configuration as JSON with sorted keys and without spaces.

    Raises
    ------
    ConfigurationError
        If it holds what JSON can't say, as tensors, NaN or infinities.
    """
    try:
        return json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the configuration can't be written as JSON: {error}") from error


def config_sha256(text: str) -> str:
    """Return the SHA-256 of a configuration's canonical JSON, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name the keys in which two configurations differ, with both values.

    Parameters
    ----------
    a, b : mapping
        What JSON can say.

    Returns
    -------
    dict
        From key, nested ones joined by dots, to both values as JSON, shortened where long; ``"nothing"`` for a key
        that one of them doesn't have, and that has no default: files older than the key lack it, which means that.

    Examples
    --------
    >>> differences({"seed": 0, "model": {"name": "vgg16"}}, {"seed": 1, "model": {"name": "vgg16"}})
    {'seed': ('0', '1')}
    """
    left, right = (dict(_leaves(json.loads(canonical_json(config)))) for config in (a, b))
    pairs = {key: (_value(left, key), _value(right, key)) for key in sorted({*left, *right})}
    return {key: (_short(one), _short(other)) for key, (one, other) in pairs.items() if one != other}


def format_differences(found: Mapping[str, tuple[str, str]], mine: str, theirs: str) -> str:
    """Put differences into words, ``mine`` and ``theirs`` saying where the two values are."""
    return "; ".join(f"{key} is {one} {mine} and {other} {theirs}" for key, (one, other) in found.items())


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the JSON of each value that holds no further mapping."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for position, item in enumerate(value):
            yield from _leaves(item, f"{path}[{position}]")
    elif path:  # else the whole configuration is empty
        yield path, json.dumps(value, ensure_ascii=False)


DEFAULTS = {"output": "null", "rule_set_version": "1"}
"""What it means, as JSON, that a configuration lacks a key: what files had before there was that key."""


def _value(leaves: Mapping[str, str], key: str) -> str:
    return leaves.get(key, DEFAULTS.get(key.rpartition(".")[2], NOTHING))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
