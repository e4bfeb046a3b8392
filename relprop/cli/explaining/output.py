"""What ``relprop explain`` leaves behind: files for each picture, and an index of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from relprop.cli.explaining.cropped import Joined
from relprop.cli.explaining.drawing import draw, draw_layers, readable
from relprop.cli.explaining.entries import entries_of, joined_entry
from relprop.cli.explaining.folder import OutputFolder
from relprop.cli.explaining.picture import InputPicture
from relprop.explanation.archive import save
from relprop.explanation.explanation import Explanation
from relprop.models import Classifier
from relprop.pictures import write_png

if TYPE_CHECKING:
    from relprop.pages.explanations import ExplanationPage


class ResultFiles:
    """The files of one run.

    Parameters
    ----------
    folder : OutputFolder
        Where they go.
    places : mapping of Path to Path
        The folder inside of it that the results of each picture go to.
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
        folder: OutputFolder,
        places: Mapping[Path, Path],
        classifier: Classifier,
        rules: str,
        formats: Sequence[str],
        page: ExplanationPage | None = None,
    ) -> None:
        self.folder = folder
        self.places = places
        self.classifier = classifier
        self.rules = rules
        self.formats = formats
        self.page = page

    @property
    def index(self) -> Path:
        """The list of all results."""
        return self.folder.index

    def fail(self, path: Path, message: str) -> None:
        """Record a picture that could not be explained."""
        self.folder.record({"file": str(path), "error": message})
        if self.page is not None:
            self.page.fail(readable(path.name), readable(message))

    def write(self, prepared: InputPicture, explanation: Explanation) -> None:
        """Write the maps of one picture, of which an explanation holds one sample for each class explained.

        Raises
        ------
        OutputError
            If a file can't be written.
        """
        stem = self.folder.free_name(self.places[prepared.path] / prepared.path.stem).as_posix()
        entries = entries_of(self.classifier, self.rules, prepared, explanation)
        paths = {}
        for kind in self.formats:
            paths[kind] = f"{stem}.{kind}"
            if kind != "png":
                explanation.save(self.folder.path / paths[kind], attributes={"classes": json.dumps(entries)})
                continue
            write_png(draw(self.classifier, self.rules, prepared, explanation), self.folder.path / paths[kind])
            if explanation.layers:
                paths["layers"] = f"{stem}.layers.png"
                figure = draw_layers(self.classifier, self.rules, prepared, explanation)
                write_png(figure, self.folder.path / paths["layers"])
        for entry in entries:
            self.folder.record(entry | {"paths": paths})
        if self.page is not None:
            from relprop.cli.explaining.page import show_on_page  # where no page is written, nothing loads it

            show_on_page(self.page, self.classifier, self.rules, prepared, explanation, paths)

    def write_joined(self, joined: Joined) -> None:
        """Write the map of one photograph that was explained crop by crop.

        Raises
        ------
        OutputError
            If a file can't be written.
        """
        stem = self.folder.free_name(self.places[joined.path] / joined.path.stem).as_posix()
        entry = joined_entry(self.classifier, self.rules, joined)
        paths = {kind: f"{stem}.{kind}" for kind in self.formats}
        words = f"{readable(joined.path.name)}   {self.rules} on {self.classifier.name}"
        for path in paths.values():
            draw = partial(joined.figure, self.classifier, words)
            save(self.folder.path / path, joined.items, {"class": json.dumps(entry)}, draw)
        self.folder.record(entry | {"paths": paths})
