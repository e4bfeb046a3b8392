"""Which picture is drawn of an explanation, and the words on it."""

from __future__ import annotations

from matplotlib.figure import Figure

from relprop.cli.explaining.picture import InputPicture
from relprop.explanation.captions import caption_words, caution, contrast_words, single_answer
from relprop.explanation.display import draw as draw_maps
from relprop.explanation.display import heats_of, legend_for
from relprop.explanation.explanation import Explanation
from relprop.models import Classifier
from relprop.pictures import PERCENTILE, Array, class_sheet, panel, scale_note, scale_words


def draw(classifier: Classifier, rules: str, prepared: InputPicture, explanation: Explanation) -> Figure:
    """Draw a panel of one picture, or where several of its classes are explained these side by side.

    Parameters
    ----------
    classifier : Classifier
        What was explained.
    rules : str
        Words for the rule set.
    prepared : InputPicture
        The picture.
    explanation : Explanation
        One sample for each class explained.
    """
    heats, scales = heats_of(explanation)
    titles = verdicts(classifier, explanation)
    seen = classifier.pictures(prepared.x[None])[0]
    legend, warning = legend_for(explanation, classifier.labels), caution(explanation, classifier.labels)
    words = caption(classifier, rules, prepared, explanation, scales)
    if len(heats) > 1:
        notes = [scale_note(float(scale)) for scale in scales]
        return class_sheet(seen, heats, titles, words, notes=notes, legend=legend, caution=warning)
    original = prepared.original_with(heats[0])
    return panel(seen, heats[0], titles[0], words, original, legend=legend, caution=warning)


def caption(classifier: Classifier, rules: str, prepared: InputPicture, explanation: Explanation, scales: Array) -> str:
    """Say what maps are, where their colours saturate, ``(maps,)``, and the numbers that go with them."""
    against = contrast_words(explanation, classifier.labels)
    what = _what(classifier, rules, prepared) + (f", {against}" if against else "")
    words = caption_words(explanation, classifier.labels)
    said = f"\n{words}" if words else ""
    saturate = f"colours saturate at the {PERCENTILE:g}th percentile of each map's |relevance|, given below it"
    return f"{what}; {saturate if len(scales) > 1 else scale_words(float(scales[0]))}{said}"


def draw_layers(classifier: Classifier, rules: str, prepared: InputPicture, explanation: Explanation) -> Figure:
    """Draw one row for each class explained: its map at the input, then at each layer asked for."""
    seen = classifier.pictures(prepared.x[None]).repeat(len(explanation), axis=0)
    return draw_maps(explanation, seen, verdicts(classifier, explanation), remark=_what(classifier, rules, prepared))


def verdicts(classifier: Classifier, explanation: Explanation) -> list[str]:
    """Name each class explained, and the predicted one where that is not among them."""
    labels, targets = classifier.labels, targets_of(explanation)
    found = []
    if explanation.output.shape[1] == 1:
        return single_answer(explanation, labels)
    for row, target in zip(explanation.probabilities, targets, strict=True):
        verdict, predicted = f"{labels[target]} {row[target]:.1%}", int(row.argmax())
        if predicted not in targets:
            verdict += f" (predicted: {labels[predicted]} {row[predicted]:.1%})"
        found.append(verdict)
    return found


def _what(classifier: Classifier, rules: str, prepared: InputPicture) -> str:
    channels = classifier.channels
    drawn = f", of whose {channels} channels the first {'three are' if channels > 3 else 'is'} drawn"
    return f"{readable(prepared.path.name)}{'' if channels in (1, 3) else drawn}   {rules} on {classifier.name}"


def targets_of(explanation: Explanation) -> list[int]:
    """Return the classes explained."""
    assert explanation.target is not None, "on the command line a target is a class"
    classes: list[int] = explanation.target.tolist()
    return classes


def readable(name: str) -> str:
    """Replace what can be neither drawn nor printed: bytes that are no UTF-8, line ends, escapes."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name)
