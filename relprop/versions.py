"""The versions of the software in use, found without importing it."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = ("relprop", "torch", "torchvision", "timm")


def version(package: str) -> str:
    """Return the version of an installed package; ``"not installed"`` for a checkout that merely lies on the path."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Return the versions that results may depend on, by name."""
    return {**{package: version(package) for package in PACKAGES}, "python": platform.python_version()}
