"""What is told of a picture and a class that was explained, in an index and beside maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from relprop.cli.explaining.cropped import Joined
from relprop.cli.explaining.drawing import targets_of
from relprop.cli.explaining.picture import InputPicture
from relprop.explanation.captions import map_difference
from relprop.explanation.explanation import Explanation
from relprop.models import Classifier


def entries_of(
    classifier: Classifier, rules: str, prepared: InputPicture, explanation: Explanation
) -> list[dict[str, Any]]:
    """Say what is known of one picture, for each of its classes: an explanation has one sample for each of them."""
    return [_entry(classifier, rules, prepared, explanation[k]) for k in range(len(explanation))]


def joined_entry(classifier: Classifier, rules: str, joined: Joined) -> dict[str, Any]:
    """Say what is known of one photograph that was explained crop by crop."""
    target, probabilities = joined.target, joined.probabilities[:, joined.target]
    pairs = zip(joined.crops.boxes, probabilities, strict=True)
    return {
        "file": str(joined.path),
        "target": target,
        "label": classifier.labels[target],
        "probability": _as_number(probabilities.max()),
        "crops": [{"box": box, "probability": _as_number(p)} for box, p in pairs],
        "model": classifier.name,
        "weights": classifier.origin,
        "rules": rules,
        "contrast": joined.parts[0].contrast,
        "size": joined.crops.size,
    }


def _entry(classifier: Classifier, rules: str, prepared: InputPicture, explanation: Explanation) -> dict[str, Any]:
    labels, probabilities = classifier.labels, explanation.probabilities[0]
    (target,), predicted = targets_of(explanation), int(probabilities.argmax())
    kept = explanation.conservation
    return {
        "file": str(prepared.path),
        "target": target,
        "label": labels[target],
        "probability": _as_number(probabilities[target]),
        "predicted": predicted,
        "predicted_label": labels[predicted],
        "predicted_probability": _as_number(probabilities[predicted]),
        "conservation_error": kept.error if kept.cuts else None,
        "lost": kept.lost if kept.cuts else None,
        "model": classifier.name,
        "weights": classifier.origin,
        "rules": rules,
        "contrast": explanation.contrast,
        "map_difference": None if (moved := map_difference(explanation)) is None else float(moved[0]),
        **({} if explanation.provenance is None else explanation.provenance.as_dict()),
        "size": prepared.view and prepared.view.size,
        "box": prepared.view and prepared.view.box,
    }


def _as_number(probability: Tensor) -> float | None:
    """Return a probability ``()`` as JSON has it: None where it is not finite."""
    return float(probability) if probability.isfinite() else None
