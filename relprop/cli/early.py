"""Refusals before PyTorch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from relprop.cli.choices import count_of
from relprop.errors import RelpropError, no_rule_set

BUILT_IN = (
    "abslrp",
    "abslrp-composite",
    "abslrp-paper",
    "abslrp-released",
    "alpha-beta",
    "attnlrp",
    "cp-lrp",
    "deconvnet",
    "epsilon",
    "epsilon-alpha2-beta1",
    "epsilon-alpha2-beta1-flat",
    "epsilon-gamma-box",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-plus-residual",
    "excitation-backprop",
    "flat",
    "gamma",
    "gradient",
    "guided-backprop",
    "input-times-gradient",
    "lrp-0",
    "reslrp",
    "w-squared",
    "z-box",
    "z-plus",
)
"""The rule sets that are always there; a test holds them equal to the registry's."""
PLUGINS = "rule_registry.rules"
"""Where packages with rule sets of their own announce them."""


class PathError(RelpropError, FileNotFoundError):
    """A path on the command line at which there is nothing."""


def refuse_early(
    paths: Iterable[Path | None] = (),
    *,
    rules: str | None = None,
    targets: Iterable[str] = (),
    class_names: Path | None = None,
    output: Path | None = None,
) -> None:
    """Raise the error that would come later anyway, if it can be found before a model is loaded.

    All of it is found without PyTorch, but the parameters of rule sets, and names that a plug-in may have.

    Parameters
    ----------
    paths : iterable of Path or None
        What must exist, where it is given.
    rules : str, optional
        As ``--rules`` takes them.
    targets : iterable of str
        As ``--target`` takes them.
    class_names : Path, optional
        A file of class names, which is read.
    output : Path, optional
        A folder that is made, unless it is there.

    Raises
    ------
    PathError, MissingRuleError, ParameterError, TargetError, LabelsError, OutputError
    """
    for path in paths:
        if path is not None and not path.exists():
            raise PathError(f"no such file or folder: {path}")
    for text in targets:
        count_of(text)
    if class_names is not None:
        from relprop.models.labels import read_labels

        read_labels(class_names)
    if output is not None and output.exists() and not output.is_dir():
        from relprop.files import OutputError

        raise OutputError(f"cannot write to {output}: it is a file; name a folder")
    if rules is not None and rules not in BUILT_IN:
        if rules.partition(":")[0] not in BUILT_IN and not entry_points(group=PLUGINS):
            raise no_rule_set(rules, BUILT_IN)
        from relprop.assign.rule_names import choose_rules

        choose_rules(rules)
