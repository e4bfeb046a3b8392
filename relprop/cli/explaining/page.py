"""What the page of ``relprop explain --html`` shows of a picture."""

from __future__ import annotations

from collections.abc import Mapping

from relprop.cli.explaining.drawing import caption, readable, targets_of, verdicts
from relprop.cli.explaining.picture import InputPicture
from relprop.explanation.captions import caution
from relprop.explanation.display import heats_of, legend_for
from relprop.explanation.explanation import Explanation
from relprop.models import Classifier
from relprop.pages.explanations import Bar, ExplainedClass, ExplanationPage
from relprop.versions import versions

MOST_PROBABLE = 5
"""Classes whose probabilities are shown, beside those that are explained."""


def show_on_page(
    page: ExplanationPage,
    classifier: Classifier,
    rules: str,
    prepared: InputPicture,
    explanation: Explanation,
    paths: Mapping[str, str],
) -> None:
    """Add a picture to a page, with one sample of the explanation for each class explained."""
    classes = []
    for k in range(len(explanation)):
        one = explanation[k]
        heats, scales = heats_of(one)
        (title,) = verdicts(classifier, one)
        legend, warning = legend_for(one, classifier.labels), caution(one, classifier.labels)
        classes.append(
            ExplainedClass(title, heats[0], legend, caption(classifier, rules, prepared, one, scales), warning)
        )
    seen = classifier.pictures(prepared.x[None])[0]
    page.add(readable(prepared.path.name), seen, classes, probability_bars(classifier, explanation), paths)


def probability_bars(classifier: Classifier, explanation: Explanation) -> list[Bar]:
    """Return the most probable classes and those explained, the largest first; nothing of a single output."""
    probabilities, targets = explanation.probabilities[0], targets_of(explanation)
    if len(probabilities) == 1 or not probabilities.isfinite().all():
        return []
    top = probabilities.topk(min(MOST_PROBABLE, len(probabilities))).indices.tolist()
    chosen = sorted({*top, *targets}, key=lambda index: (-float(probabilities[index]), index))
    return [Bar(classifier.labels[index], float(probabilities[index]), index in targets) for index in chosen]


def page_facts(classifier: Classifier, rules: str) -> list[tuple[str, str]]:
    """Return what holds for all pictures of a page."""
    facts = [("model", classifier.name), ("weights", classifier.origin), ("rules", rules)]
    if classifier.assumed:
        facts.append(("preprocessing", classifier.assumed))
    return facts + [(name, version) for name, version in versions().items() if name in ("relprop", "torch")]
