"""What ``relprop explain`` leaves behind: files for each picture, and an index of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from torch import Tensor

from relprop.cli.explaining.drawing import draw, draw_layers, readable, targets_of
from relprop.cli.explaining.page import show_on_page
from relprop.cli.explaining.picture import Looked
from relprop.explanation.captions import map_difference
from relprop.explanation.explanation import Explanation
from relprop.files import OutputError
from relprop.models import Classifier
from relprop.pages.explanations import ExplanationPage
from relprop.pictures import write_png

INDEX = "index.jsonl"
_ENDINGS = (".png", ".layers.png", ".npz", ".h5")


class Results:
    """The files of one run; a context manager that keeps the index open.

    A line of the index is written once the files it names are whole, so an interrupted run leaves a valid one. The
    first line of a run replaces the index of an earlier one in the same folder; its other files stay.

    Parameters
    ----------
    folder : Path
        Where they go; it is made if it is missing.
    paths : sequence of Path
        The pictures that will be explained: none of them is ever written over.
    classifier : Classifier
        What is explained.
    rules : str
        Words for the rule set.
    formats : sequence of str
        Of ``"png"``, ``"npz"`` and ``"h5"``.
    page : ExplanationPage, optional
        Where all of them are shown.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        classifier: Classifier,
        rules: str,
        formats: Sequence[str],
        page: ExplanationPage | None = None,
    ) -> None:
        self.folder = folder
        self.classifier = classifier
        self.rules = rules
        self.formats = formats
        self.page = page
        self._inputs = {path.resolve() for path in paths}
        self._numbers: Counter[str] = Counter()
        self._taken: set[str] = set()
        self._lines: TextIO | None = None

    @property
    def index(self) -> Path:
        """The list of all that was written: one JSON object a line."""
        return self.folder / INDEX

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.index.open("a").close()  # told now if it can't be written; emptied once there is a result
        except OSError as error:
            raise OutputError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            with suppress(OSError):  # each line was flushed, and a full disk told of, when it was written
                self._lines.close()

    def fail(self, path: Path, message: str) -> None:
        """Record a picture that could not be explained."""
        self._record({"file": str(path), "error": message})
        if self.page is not None:
            self.page.fail(readable(path.name), readable(message))

    def write(self, looked: Looked, explanation: Explanation) -> None:
        """Write the maps of one picture, of which an explanation holds one sample for each class explained.

        Raises
        ------
        OutputError
            If a file can't be written.
        """
        stem = self._stem(looked.path.stem)
        entries = [self._entry(looked, explanation[k]) for k in range(len(explanation))]
        paths = {}
        for kind in self.formats:
            paths[kind] = f"{stem}.{kind}"
            if kind != "png":
                explanation.save(self.folder / paths[kind], attributes={"classes": json.dumps(entries)})
                continue
            write_png(draw(self.classifier, self.rules, looked, explanation), self.folder / paths[kind])
            if explanation.layers:
                paths["layers"] = f"{stem}.layers.png"
                figure = draw_layers(self.classifier, self.rules, looked, explanation)
                write_png(figure, self.folder / paths["layers"])
        for entry in entries:
            self._record(entry | {"paths": paths})
        if self.page is not None:
            show_on_page(self.page, self.classifier, self.rules, looked, explanation, paths)

    def _entry(self, looked: Looked, explanation: Explanation) -> dict[str, Any]:
        """Say what is known of one picture and class."""
        labels, probabilities = self.classifier.labels, explanation.probabilities[0]
        (target,), predicted = targets_of(explanation), int(probabilities.argmax())
        kept = explanation.conservation
        return {
            "file": str(looked.path),
            "target": target,
            "label": labels[target],
            "probability": _known(probabilities[target]),
            "predicted": predicted,
            "predicted_label": labels[predicted],
            "predicted_probability": _known(probabilities[predicted]),
            "conservation_error": kept.error if kept.cuts else None,
            "lost": kept.lost if kept.cuts else None,
            "model": self.classifier.name,
            "weights": self.classifier.origin,
            "rules": self.rules,
            "contrast": explanation.contrast,
            "map_difference": None if (moved := map_difference(explanation)) is None else float(moved[0]),
            **({} if explanation.provenance is None else explanation.provenance.as_dict()),
            "size": looked.view and looked.view.size,
            "box": looked.view and looked.view.box,
        }

    def _record(self, entry: dict[str, Any]) -> None:
        try:
            if self._lines is None:
                self.index.write_bytes(b"")
                self._lines = self.index.open("a", encoding="utf-8")  # appends: lines of two runs do not mix
            self._lines.write(json.dumps(entry) + "\n")
            self._lines.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self.index}: {error.strerror or error}") from error

    def _stem(self, name: str) -> str:
        """Return a name that no other files of this run have, and under which no picture is written over."""
        for number in count(self._numbers[name] + 1):
            stem = name if number == 1 else f"{name}-{number}"
            files = {f"{stem}{ending}" for ending in _ENDINGS}
            folded = {file.casefold() for file in files}  # some file systems do not tell a.png from A.png
            if folded.isdisjoint(self._taken) and self._inputs.isdisjoint((self.folder / f).resolve() for f in files):
                break
        self._numbers[name] = number
        self._taken |= folded
        return stem


def results_among(paths: Sequence[Path]) -> set[Path]:
    """Return which of some files are results: those that an index beside them lists."""
    found: set[Path] = set()
    for folder in {path.parent for path in paths}:
        with suppress(OSError, ValueError):  # no index, or not one of ours
            for line in (folder / INDEX).read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("paths"), dict):
                    found |= {folder / str(name) for name in row["paths"].values()}
    return found.intersection(paths)


def _known(probability: Tensor) -> float | None:
    return float(probability) if probability.isfinite() else None
