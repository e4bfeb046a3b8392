"""What is explained and how, as options say it, and the explainer that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from relprop.assign.rule_names import choose_rules
from relprop.cli.choices import Choice, choose_contrast, choose_target
from relprop.cli.words import split_all
from relprop.errors import TargetError
from relprop.explainer import Explainer
from relprop.models import Classifier


@dataclass(frozen=True)
class Question:
    """The options that say what is explained; see ``relprop explain --help``."""

    rules: str
    targets: tuple[str, ...] = ()
    contrast: str | None = None
    layers: tuple[str, ...] = ()
    model_output: str | None = None
    probability: Literal["softmax", "sigmoid", "output"] | None = None
    batch_size: int = 8
    compile: bool = False


def open_explainer(classifier: Classifier, question: Question) -> tuple[Explainer, Choice]:
    """Return the explainer of a classifier, and which classes of a picture it is asked for.

    Raises
    ------
    RelpropError
        The model has no such class or layer, or the two classes that are compared are one.
    """
    rule_set = choose_rules(question.rules, classifier.mean, classifier.std)
    choice = choose_target(question.targets, classifier.labels)
    against = choose_contrast(question.contrast, classifier.labels)
    if against.get("contrast") in choice.classes:
        name = question.contrast
        raise TargetError(f"--contrast {name} is --target {name} itself: name another class")
    explainer = Explainer(
        classifier.model,
        rules=rule_set,
        layers=split_all(list(question.layers)),
        output=question.model_output,
        batch_size=question.batch_size,
        compile=question.compile,
        probability=question.probability,
        channel_axis=1,
        **against,
    )
    return explainer, choice
