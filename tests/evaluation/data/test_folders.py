"""Folders of pictures: broken ones, labels, transforms, and workers that read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from relprop import gae
from relprop.evaluation import (
    DataError,
    PictureFolder,
    evaluate,
)
from relprop.gae import mosaic_members
from relprop.store import State
from tests.helpers.evaluations import assert_same, contents, gradient_of
from tests.helpers.models import kept


def transform(picture: Any) -> Tensor:
    """What a data set of pictures would have done to it."""
    array = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    return nn.functional.interpolate(array[None].float() / 255 - 0.5, size=(8, 8))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures in folders of three classes, one of them broken."""
    generator = np.random.default_rng(0)
    for k in range(12):
        file = tmp_path / "pictures" / str(k % 3) / f"{k:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), generator.integers(0, 256, (10, 12, 3), np.uint8))
    (tmp_path / "pictures" / "1" / "04.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return tmp_path / "pictures"


def test_a_broken_picture_in_a_folder_is_marked_and_its_slot_filled(folder: Path, tmp_path: Path) -> None:
    found = evaluate(kept("plain"), folder, "constant,gradient", tmp_path / "run.h5", transform=transform)
    assert (found.samples, found.unreadable, found.failed, found.complete) == (12, 1, 1, True)
    assert "cannot read picture" in found.failure
    assert "1 samples can't be scored" in str(found)
    data = PictureFolder(folder)
    broken = data.names.index("1/04.png")
    assert data.labels == [0] * 4 + [1] * 4 + [2] * 4
    with h5py.File(tmp_path / "run.h5") as file:
        samples = file["samples"]
        assert samples["name"].asstr()[broken] == "1/04.png"
        assert "04.png" in samples["message"].asstr()[broken]
        for state in (samples["state"], file["methods/gradient/state"]):
            assert state[broken] == State.FAILED
            assert np.delete(state, broken).tolist() == [State.DONE] * 11
        members = samples["mosaic_members"][:]
        assert np.isnan(file["methods/gradient/gae"][broken])
        scores = file["methods/gradient/gae"][:]
    chosen = mosaic_members(12, 0)
    (row,) = np.flatnonzero((chosen == broken).any(1))
    spare = next(index for index in chosen.flatten() if index not in chosen[row])
    mosaic = np.where(chosen[row] == broken, spare, chosen[row])
    x = torch.stack([transform(cv2.imread(str(data.paths[k]))[..., ::-1]) for k in mosaic])
    expected = gae.score(kept("plain"), x, gradient_of).gae
    for place, index in enumerate(chosen[row]):
        if index != broken:
            assert members[index].tolist() == mosaic.tolist()
            assert scores[index] == pytest.approx(float(expected[place]), abs=1e-5, nan_ok=True)


@pytest.mark.full
def test_a_method_added_to_a_file_with_a_broken_picture(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    evaluate(kept("plain"), folder, "constant,gradient", tmp_path / "whole.h5", transform=transform)
    evaluate(kept("plain"), folder, "constant", path, transform=transform)
    evaluate(kept("plain"), folder, "gradient", path, transform=transform, resume=True)
    assert_same(contents(path), contents(tmp_path / "whole.h5"))


def test_labels_from_a_table(folder: Path, tmp_path: Path) -> None:
    names = PictureFolder(folder).names
    table = tmp_path / "labels.csv"
    table.write_text("file,class_index,name\n" + "".join(f"{name},{k % 5},x\n" for k, name in enumerate(names)))
    assert PictureFolder(folder, labels=table).labels == [k % 5 for k in range(12)]
    table.write_text("file,class_index\n00.png,3\n")
    with pytest.raises(DataError, match="has no label for 11 of 12 pictures"):
        PictureFolder(folder, labels=table)
    table.write_text("picture,number\n00.png,3\n")
    with pytest.raises(DataError, match="must name the columns file and class_index, not picture, number"):
        PictureFolder(folder, labels=table)
    table.write_text("file,class_index\n00.png,three\n")
    with pytest.raises(DataError, match=r"line 2: 'three' is no class index"):
        PictureFolder(folder, labels=table)


def test_labels_from_names_of_folders(tmp_path: Path) -> None:
    for name in ("tench", "goldfish"):
        (tmp_path / "named" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "named" / name / "a.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "named").rename(tmp_path / "pictures")
    assert PictureFolder(tmp_path / "pictures", class_names=("tench", "goldfish")).labels == [1, 0]
    assert PictureFolder(tmp_path / "pictures", class_names=("TENCH", "Goldfish")).labels == [1, 0]
    assert PictureFolder(tmp_path / "pictures").labels is None, "nothing is known of the classes"


def test_folders_of_no_class_are_an_error_and_no_numbers(tmp_path: Path) -> None:
    for name in ("tench", "gold_fish"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), np.zeros((4, 4, 3), np.uint8))
    for names in (("cat", "dog"), ("cat", "dog", "cow")):
        with pytest.raises(DataError, match="'gold_fish' and 1 more are called after no class of the model") as told:
            PictureFolder(tmp_path, class_names=names)
        assert 'labels="labels.csv" or False' in str(told.value)
    with pytest.raises(DataError, match="'gold_fish' is called after no class of the model; near names: goldfish"):
        PictureFolder(tmp_path, class_names=("tench", "goldfish"))
    with pytest.raises(DataError, match="classes 0 and 2 are both called 'tench'"):
        PictureFolder(tmp_path, class_names=("tench", "gold fish", "tench"))
    assert PictureFolder(tmp_path, class_names=("tench", "gold fish")).labels == [1, 0]
    assert PictureFolder(tmp_path, class_names=("cat", "dog"), labels=False).labels is None


@pytest.mark.parametrize("form", ["pil", "uint8", "gray", "uint8 tensor", "path"])
def test_pictures_in_every_form_go_through_the_transform(tmp_path: Path, form: str) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), np.uint8)
    if form == "gray":
        arrays[...] = arrays[..., :1]
    made: dict[str, Any] = {
        "pil": lambda a: Image.fromarray(a),
        "uint8": lambda a: a,
        "gray": lambda a: a[..., 0],
        "uint8 tensor": lambda a: torch.from_numpy(a).permute(2, 0, 1),
        "path": lambda a: saved(tmp_path, a),
    }
    evaluate(kept("plain"), [made[form](a) for a in arrays], "constant", tmp_path / "a.h5", transform=transform)
    expected = kept("plain")(torch.stack([transform(a) for a in arrays]))
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_allclose(file["samples/output"][:], expected.detach(), atol=1e-5)


def saved(folder: Path, array: np.ndarray) -> str:
    file = folder / f"{array.sum()}.png"
    cv2.imwrite(str(file), array[..., ::-1])
    return str(file)


@pytest.mark.full
def test_workers_read_and_give_the_same_bits(folder: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        evaluate(
            kept("plain"), folder, "constant", tmp_path / f"{workers}.h5", transform=transform, workers=workers, unit=1
        )
    assert_same(contents(tmp_path / "0.h5"), contents(tmp_path / "2.h5"))
