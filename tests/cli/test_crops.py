"""``relprop explain --crops``."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import relprop
from relprop.models import cut_crops, load_classifier, read_picture
from tests.helpers.cli import assert_one_line, entries, explain


def test_one_map_of_the_pictures_size_is_written(desk: Path) -> None:
    result = explain("cat.jpg", "--model", "own:make", "--crops", "2", "--format", "png,npz", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "crops joined, at most" in result.output
    (entry,) = entries()
    picture = read_picture(Path("cat.jpg"))
    known = load_classifier("own:make")
    cut = cut_crops(known, picture, 2)
    with np.load(Path("out", entry["paths"]["npz"])) as held:
        heat = held["relevance"]
    assert heat.shape == picture.shape[:2]
    with torch.no_grad():
        assert entry["target"] == int(known.scores(known.transform(picture)[None]).argmax())
    expected = cut.join(relprop.explain(known.model, cut.x, target=entry["target"]).summed())
    np.testing.assert_allclose(heat, expected, atol=1e-5 * np.abs(expected).max())
    assert [crop["box"] for crop in entry["crops"]] == [list(box) for box in cut.boxes]
    assert cv2.imread(str(Path("out", entry["paths"]["png"]))).std() > 1


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [
        (["--crops", "none"], "'none' is not tiles, nor a number", 2),
        (["--crops", "2", "--html"], "leave --html out", 2),
        (["--crops", "2", "--target", "top3"], "leave several --target out", 2),
        (["--crops", "30"], "show nothing", 1),
    ],
)
def test_what_has_no_meaning_beside_crops_is_refused(desk: Path, options: list[str], words: str, code: int) -> None:
    result = explain("cat.jpg", "--model", "own:make", "-q", *options)
    if code == 2:
        assert_one_line(result, words, code)
    assert result.exit_code == code
    assert words in result.stderr
