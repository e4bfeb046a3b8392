"""The logic of ``relprop app`` without its page: a picture and a question in, an explanation out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from relprop.assign.rule_names import choose_rules
from relprop.cli.choices import choose_contrast
from relprop.cli.explaining.drawing import caption, draw, draw_layers, verdicts
from relprop.cli.explaining.page import probability_bars
from relprop.cli.explaining.picture import InputPicture, read_input
from relprop.explainer import Explainer
from relprop.explanation.captions import caution
from relprop.explanation.display import heats_of
from relprop.models import Classifier
from relprop.pictures import Pixels, heat_colours, overlay, write_png
from relprop.pictures.tiles import scaled, sharp, tile_size
from relprop.run.memory import memory_for

KEPT = 4
"""Explainers that are held, each with its captured program."""
SIDE = 448
"""Of the pictures that are shown."""


@dataclass(frozen=True)
class Question:
    """What the user wants to know of a picture.

    Parameters
    ----------
    rules : str
        Rule set, ``NAME`` or ``NAME:PARAM=VALUE``.
    target : int, optional
        Class; the predicted one if None.
    contrast : str, optional
        ``rest``, ``log-odds``, ``none`` or the number of a class; None as the rule set has it.
    layer : str, optional
        Module whose map is shown; None for the input's.
    """

    rules: str
    target: int | None = None
    contrast: str | None = None
    layer: str | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """One picture under one rule set.

    Parameters
    ----------
    title : str
        The class and its probability.
    seen, map, overlay : ndarray
        What the model saw, its relevance, and both together, uint8 RGB ``(H, W, 3)``.
    caption, caution : str
        Numbers that go with the map; what keeps it from being misread, empty where nothing does.
    png : Path
        A file with all of it.
    lines : str
        Python that makes the same.
    """

    title: str
    seen: Pixels
    map: Pixels
    overlay: Pixels
    caption: str
    caution: str
    png: Path
    lines: str


class Respondent:
    """Answers one question after the other about pictures, with one model.

    Parameters
    ----------
    classifier : Classifier
        The model.
    loading : mapping
        What it was loaded with, as arguments of `relprop.models.load_classifier`.
    folder : Path
        Where PNG files go.
    """

    def __init__(self, classifier: Classifier, loading: Mapping[str, Any], folder: Path) -> None:
        self.classifier = classifier
        self.loading = loading
        self.folder = folder
        self._explainers: OrderedDict[Question, Explainer] = OrderedDict()
        self._lock = Lock()
        self._files = 0

    @property
    def layers(self) -> list[str]:
        """Module paths whose maps can be shown."""
        model = self.classifier.model
        return [name for name, _ in model.named_modules() if name] if isinstance(model, torch.nn.Module) else []

    def probabilities(self, path: Path) -> list[tuple[str, float]]:
        """Return the most probable classes of a picture, the largest first.

        Raises
        ------
        PictureError, TransformError
            If it can't be read or prepared.
        """
        with self._lock:
            prepared = read_input(path, self.classifier)
            explanation = self._explain(prepared, Question("gradient", contrast="none"))
            return [(bar.label, bar.probability) for bar in probability_bars(self.classifier, explanation)]

    def answer(self, path: Path, question: Question) -> Answer:
        """Explain a picture.

        Raises
        ------
        RelpropError
            If the picture can't be read, or the question can't be answered.
        """
        with self._lock:
            prepared = read_input(path, self.classifier)
            explanation = self._explain(prepared, question)
            heats, scales = heats_of(explanation, question.layer)
            seen = self.classifier.pictures(prepared.x[None])[0]
            size = tile_size(seen.shape[:2], SIDE)
            picture = draw if question.layer is None else draw_layers
            self._files += 1
            png = self.folder / f"relevance-{self._files}.png"
            write_png(picture(self.classifier, question.rules, prepared, explanation), png)
            return Answer(
                verdicts(self.classifier, explanation)[0],
                scaled(seen, size),
                heat_colours(sharp(heats[0], size)),
                scaled(overlay(seen, heats[0]), size),
                caption(self.classifier, question.rules, prepared, explanation, scales),
                caution(explanation, self.classifier.labels),
                png,
                self.lines(question, path.name, int(explanation.target[0])),
            )

    def lines(self, question: Question, name: str, target: int) -> str:
        """Return Python that makes the same."""
        against = choose_contrast(question.contrast, self.classifier.labels)
        loading = "".join(f", {key}={value!r}" for key, value in self.loading.items() if value and key != "name")
        arguments = [f"target={target}", "rules=rules", *(f"{key}={value!r}" for key, value in against.items())]
        if question.layer is not None:
            arguments.append(f"layers=[{question.layer!r}]")
        if self.classifier.output is not None:
            arguments.append(f"output={self.classifier.output!r}")
        return "\n".join(
            [
                "import relprop",
                "from relprop.assign.rule_names import choose_rules",
                "from relprop.models import load_classifier",
                "",
                f"classifier = load_classifier({self.loading['name']!r}{loading})",
                f"x = classifier.transform(classifier.read({name!r}))[None]",
                f"rules = choose_rules({question.rules!r}, classifier.mean, classifier.std)",
                f"e = relprop.explain(classifier.model, x, {', '.join(arguments)})",
                "e.save('relevance.png', classifier.pictures(x))",
                "",
            ]
        )

    def _explain(self, prepared: InputPicture, question: Question) -> Any:
        explainer = self._explainer(question)
        x = prepared.x[None].to(self.classifier.device)
        target = question.target
        if target is None and isinstance(explainer.contrast, int):
            with torch.inference_mode(), memory_for(1):
                target = int(self.classifier.scores(x).argmax())
        return explainer(x, target)

    def _explainer(self, question: Question) -> Explainer:
        """Return the explainer for a rule set; the last few are kept."""
        key = Question(question.rules, None, question.contrast, question.layer)
        if key not in self._explainers:
            self._explainers[key] = Explainer(
                self.classifier.model,
                rules=choose_rules(question.rules, self.classifier.mean, self.classifier.std),
                layers=() if question.layer is None else [question.layer],
                output=self.classifier.output,
                channel_axis=1,
                **choose_contrast(question.contrast, self.classifier.labels),
            )
            if len(self._explainers) > KEPT:
                self._explainers.popitem(last=False)
        self._explainers.move_to_end(key)
        return self._explainers[key]
