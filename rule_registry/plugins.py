"""Rules of other packages, found by their entry points and imported once."""

from __future__ import annotations

import sys
import threading
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

import torch

PLUGINS = "rule_registry.rules"
"""Entry-point group under which other packages name the modules that register their rules."""


@lru_cache(maxsize=1)
def load_plugins() -> str:
    """Import what other packages register under the entry-point group ``rule_registry.rules``, once.

    Returns
    -------
    str
        What is wrong with the first that fails; empty if all is well. It is kept, as importing a package that
        registered half of its rules again would fail for another reason.
    """
    _this_thread.loads = True
    try:
        for entry in entry_points(group=PLUGINS):
            try:
                entry.load()
            except Exception as error:  # whatever a package raises when it is imported
                package = entry.dist.name if entry.dist is not None else "a package"
                return (
                    f"the rules that {package} registers as {entry.name!r} ({entry.value}) can't be loaded: "
                    f"{type(error).__name__}: {error}; repair {package}, or uninstall it"
                )
        return ""
    finally:
        _this_thread.loads = False


_this_thread = threading.local()


def need_plugins() -> None:
    """Load what other packages register, or say what is wrong with it.

    Raises
    ------
    ImportError
        If a package that registers rules can't be loaded; it is named.
    """
    if getattr(_this_thread, "loads", False):
        return  # one of them looks up what there is
    failure = load_plugins()
    if failure:
        raise ImportError(failure)
    if "torchvision" in sys.modules and hasattr(torch.ops.torchvision, "deform_conv2d"):
        for module in ("vision", "deformable"):  # its operations exist only where it is imported
            import_module(f"rule_registry.{module}")
