"""Reference pictures: the same however the work is broken off, and what a channel is most relevant in."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch

import relprop
from relprop.concepts import References, ReferencesError, collect, collect_references
from relprop.concepts.table import Best
from relprop.errors import RelpropWarning
from relprop.models import Classifier, PictureError, read_picture
from tests.helpers.models import CLASSES, kept

LAYER, PICTURES = "features.3", 7


@cache
def classifier() -> Classifier:
    def transform(picture: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(picture)).permute(2, 0, 1).float() / 127.5 - 1

    half = (0.5, 0.5, 0.5)
    return Classifier("small", kept("plain"), tuple(f"class {k}" for k in range(CLASSES)), transform, half, half, "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place, draws = tmp_path / "pictures", np.random.default_rng(0)
    (place / "below").mkdir(parents=True)
    for k in range(PICTURES):
        pixels = draws.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(place / ("below" if k % 2 else ".") / f"{k}.png"), pixels)
    return place


def tables(references: References) -> tuple[Any, Any, Any]:
    best = references.layers[LAYER]
    return (
        best.share.tolist(),
        [[references.pictures[k] for k in row] for row in best.picture],
        references.target.tolist(),
    )


def test_references_are_those_of_all_pictures_ranked(folder: Path, tmp_path: Path) -> None:
    found = collect_references(classifier(), folder, LAYER, tmp_path / "refs.h5", per_channel=3, batch=2)
    x = torch.stack([classifier().transform(read_picture(folder / name)) for name in found.pictures])
    e = relprop.explain(kept("plain"), x, contrast=None, layers=[LAYER])
    at_layer = e.layers[LAYER]
    assert isinstance(at_layer, torch.Tensor)
    by_channel = at_layer.sum((2, 3))
    share = by_channel / by_channel.abs().sum(1, keepdim=True)
    best = found.layers[LAYER]
    np.testing.assert_allclose(best.share, share.topk(3, 0).values.T, rtol=1e-5)
    np.testing.assert_allclose(best.share, share.T.gather(1, torch.as_tensor(best.picture)), rtol=1e-5)
    assert e.target is not None
    assert found.target.tolist() == e.target.tolist()
    paths = [path for path, _ in found.of(LAYER, 4)]
    assert paths == [folder / found.pictures[k] for k in best.picture[4]]


def test_a_collection_that_is_broken_off_goes_on_and_ends_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = collect_references(classifier(), folder, LAYER, tmp_path / "whole.h5", per_channel=2, batch=3)
    real, calls = collect._with_pictures, []

    def fails_at_the_second(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(collect, "_with_pictures", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        collect_references(classifier(), folder, LAYER, tmp_path / "refs.h5", per_channel=2, batch=3)
    monkeypatch.setattr(collect, "_with_pictures", real)
    with h5py.File(tmp_path / "refs.h5") as file:
        assert len(file["pictures"]) == 3
    rest = collect_references(classifier(), folder, LAYER, tmp_path / "refs.h5", per_channel=2, batch=3)
    assert tables(rest) == tables(unbroken)
    before = (tmp_path / "refs.h5").read_bytes()
    again = collect_references(classifier(), folder, LAYER, tmp_path / "refs.h5", per_channel=2)
    assert tables(again) == tables(unbroken)
    assert (tmp_path / "refs.h5").read_bytes() == before  # only read


def test_another_configuration_and_foreign_files_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "refs.h5"
    collect_references(classifier(), folder, LAYER, path, per_channel=2)
    with pytest.raises(ReferencesError, match="was made with another per_channel"):
        collect_references(classifier(), folder, LAYER, path, per_channel=3)
    with pytest.raises(ReferencesError, match="another rules"):
        collect_references(classifier(), folder, LAYER, path, per_channel=2, rules="epsilon")
    with h5py.File(path, "r+") as file:
        assert json.loads(file.attrs["config"])["layers"] == [LAYER]
        file["layers/" + LAYER]["picture"][0, 0] = 99
    with pytest.raises(ReferencesError, match="is damaged"):
        collect_references(classifier(), folder, LAYER, path, per_channel=2)
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(ReferencesError, match="no file of reference pictures"):
        collect_references(classifier(), folder, LAYER, path, per_channel=2)


def test_pictures_that_cannot_be_read_are_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    (folder / "a.png").write_bytes(b"nothing")
    with pytest.warns(RelpropWarning, match=r"left out: .*a\.png"):
        found = collect_references(classifier(), folder, LAYER, tmp_path / "refs.h5", per_channel=9, batch=4)
    place = found.pictures.index("a.png")
    assert found.target[place] == -1
    assert place not in found.layers[LAYER].picture
    assert (found.layers[LAYER].picture == -1).sum(1).tolist() == [2] * 8  # there are seven others
    assert len(found.of(LAYER, 0)) == PICTURES
    for file in folder.rglob("*.png"):
        file.write_bytes(b"nothing")
    with pytest.raises(PictureError, match="none of the 8 pictures"):
        collect_references(classifier(), folder, LAYER, tmp_path / "other.h5")


def test_of_ties_the_first_in_the_list_stays_in_front() -> None:
    best = Best.nothing(1, 2)
    for first, shares in ((0, [0.5, 0.7]), (2, [0.7, 0.5])):
        best = best.merged(np.array(shares, np.float32)[:, None], first)
    assert best.picture.tolist() == [[1, 2]]


def test_a_sheet_has_a_row_for_each_channel(folder: Path, tmp_path: Path) -> None:
    references = collect_references(classifier(), folder, LAYER, tmp_path / "refs.h5", per_channel=3)
    x = torch.stack([classifier().transform(read_picture(folder / name)) for name in references.pictures[:2]])
    e = relprop.explain(kept("plain"), x, contrast=None, concepts={LAYER: "top3"})
    figure = references.sheet(e, classifier().pictures(x), sample=1, crops=2)
    words = [text.get_text() for text in figure.texts]
    assert e.target is not None
    for channel in e.concepts[LAYER].channels[1].tolist():
        assert f"channel {channel}" in words
        assert f"{references.of(LAYER, channel)[0][1]:.1%}" in words
    assert f"class {int(e.target[1])}" in words
    with pytest.raises(ReferencesError, match=r"maps of none, references of features\.3"):
        references.sheet(relprop.explain(kept("plain"), x), classifier().pictures(x))
    with pytest.raises(ReferencesError, match="channels 0 to 7, not 8"):
        references.of(LAYER, 8)
    with pytest.raises(ReferencesError, match="no references of a layer 'head'"):
        references.of("head", 0)
