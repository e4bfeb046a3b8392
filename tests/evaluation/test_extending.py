"""A run that gets further samples equals, bit for bit, the one that had them at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import Resize
from torchvision.transforms.functional import to_tensor

import relprop
from relprop.cli import analyse
from relprop.evaluation import evaluate
from relprop.evaluation.data.datasets import Source, open_source
from relprop.evaluation.data.samples import DataError
from relprop.gae.mosaics import cut_in_fours, sample_order
from relprop.models import sample_pictures
from relprop.store import ConfigurationError, EvaluationWriter, MergeError, is_complete, merge, open_evaluation
from relprop.store import schema as file_schema
from relprop.store.description import read_planned
from tests.helpers.evaluations import SAMPLES, assert_same, contents, run
from tests.helpers.models import kept, pictures

METHODS = ("random", "gradient")


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def fourteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extending") / "fourteen.h5"
    run(path, METHODS, limit=14, relevance="map")
    return path


def test_more_samples_leave_whole_fours_as_they_are() -> None:
    order = sample_order(SAMPLES, 0)
    assert sorted(order.tolist()) == list(range(SAMPLES))
    for count in range(4, SAMPLES):
        fours, all_fours = cut_in_fours(order[:count]), cut_in_fours(order)
        assert fours[: count // 4].tolist() == all_fours[: count // 4].tolist()


def test_a_run_is_extended_to_the_same_bits(fourteen: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    first = run(path, METHODS, limit=10, relevance="map")
    assert (first.samples, first.evaluated, first.complete) == (10, 10, True)
    with open_evaluation(path) as file:
        assert file["sample"][:].tolist() == sorted(sample_order(SAMPLES, 0)[:10].tolist())
        assert read_planned(file) == 10
    found = run(path, METHODS, limit=14, relevance="map", resume=True)
    assert (found.samples, found.evaluated, found.complete) == (14, 6, True)
    assert_same(contents(path), contents(fourteen))
    with h5py.File(path) as one, h5py.File(fourteen) as other:
        assert {**one.attrs, "created": ""} == {**other.attrs, "created": ""}
    assert run(path, METHODS, limit=14, relevance="map", resume=True).evaluated == 0
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="has 14 samples, and shall have 9 now"):
        run(path, METHODS, limit=9, relevance="map", resume=True)
    assert path.read_bytes() == before


@pytest.mark.full
@pytest.mark.parametrize("calls", [1, pytest.param(2, marks=pytest.mark.full)])
def test_an_extension_that_is_broken_off_goes_on_to_the_same_bits(
    fourteen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    path = tmp_path / "run.h5"
    run(path, METHODS, limit=10, relevance="map")
    commit, done = EvaluationWriter.commit, []

    def broken(writer: EvaluationWriter) -> None:
        commit(writer)
        done.append(1)
        if len(done) > calls:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(EvaluationWriter, "commit", broken)
        with pytest.raises(KilledError):
            run(path, METHODS[:1], limit=14, relevance="map", resume=True)
    with open_evaluation(path) as file:
        assert not is_complete(file)
    assert run(path, METHODS, limit=14, relevance="map", resume=True).complete
    assert_same(contents(path), contents(fourteen))


@pytest.mark.full
def test_a_method_that_is_left_out_of_an_extension_is_open_where_the_mosaic_is_another(
    fourteen: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.h5"
    run(path, METHODS, limit=10, relevance="map")
    assert not run(path, METHODS[:1], limit=14, relevance="map", resume=True).complete
    with relprop.Results(path) as results:
        left = results["gradient"]
        absent = left.samples.index[left.state() == file_schema.State.ABSENT]
    assert set(absent.tolist()) == set(sample_order(SAMPLES, 0)[8:14].tolist())
    assert run(path, METHODS, limit=14, relevance="map", resume=True).complete
    assert_same(contents(path), contents(fourteen))


@pytest.mark.full
def test_shards_are_extended_and_merged(fourteen: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"{part}.h5" for part in range(2)]
    for part, path in enumerate(parts):
        run(path, METHODS, limit=10, relevance="map", shard=(part, 2))
    run(parts[0], METHODS, limit=14, relevance="map", shard=(0, 2), resume=True)
    with pytest.raises(MergeError, match="different lengths"):
        merge(parts, tmp_path / "run.h5")
    run(parts[1], METHODS, limit=14, relevance="map", shard=(1, 2), resume=True)
    merge(parts, tmp_path / "run.h5")
    assert_same(contents(tmp_path / "run.h5"), contents(fourteen))


class Stream:
    """Pictures without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(pictures(SAMPLES))


@pytest.mark.full
def test_a_stream_is_extended_to_the_same_bits(tmp_path: Path) -> None:
    def stream(name: str, limit: int, **options: Any) -> relprop.Evaluation:
        return evaluate(kept("plain"), Stream(), METHODS, tmp_path / name, limit=limit, **options)

    stream("once.h5", 14)
    stream("run.h5", 10)
    found = stream("run.h5", 14, resume=True)
    assert (found.samples, found.evaluated, found.complete) == (14, 6, True)
    assert_same(contents(tmp_path / "run.h5"), contents(tmp_path / "once.h5"))


def test_so_many_of_each_class_are_the_first_of_the_order(tmp_path: Path) -> None:
    labels = [0] * 9 + [1] * 5 + [2] * 3
    source = open_source((pictures(SAMPLES), labels), per_class=4)
    assert isinstance(source, Source)
    order = sample_order(SAMPLES, 7).tolist()
    wanted = [index for label in range(3) for index in [i for i in order if labels[i] == label][:4]]
    assert source.order(7).tolist() == sorted(wanted, key=order.index)
    assert len(wanted) == 11
    data = pictures(SAMPLES), torch.tensor(labels)
    found = evaluate(kept("plain"), data, "random", tmp_path / "run.h5", per_class=2)
    assert found.samples == 6
    with pytest.raises(ConfigurationError, match="per_class is 2 in the file and 3 now"):
        evaluate(kept("plain"), data, "random", tmp_path / "run.h5", per_class=3, resume=True)
    with pytest.raises(DataError, match="pass limit=3 or per_class=2"):
        open_source(data, limit=3, per_class=2)
    for unlabelled in (pictures(SAMPLES), Stream()):
        with pytest.raises(DataError, match="per_class"):
            open_source(unlabelled, per_class=2)


def test_a_run_of_format_1_goes_on_in_its_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the versions before wrote it: the first of the data set, in an order of these alone; no seal."""

    from relprop.evaluation import once as module

    path, limit = tmp_path / "run.h5", 10
    opened = module.open_source
    with monkeypatch.context() as patch:
        patch.setattr("relprop.store.writing.build.FORMAT_VERSION", 1)
        patch.setattr(module, "open_source", lambda *a, **k: opened(*a, **k | {"older": True}))
        run(path, METHODS[:1], limit=limit)
    with h5py.File(path, "r+") as file:
        del file.attrs["taken"]
        assert file.attrs["format_version"] == 1
        assert file["sample"][:].tolist() == list(range(limit))
    whole = shutil.copyfile(path, tmp_path / "copy.h5")
    found = run(path, METHODS, limit=limit, resume=True)
    assert found.complete
    with h5py.File(path) as file:
        assert file.attrs["format_version"] == 1
        members = file["samples/mosaic_members"][:]
        np.testing.assert_array_equal(members[members[:, 0]], members)
    mine, theirs = contents(path), contents(whole)
    shared = mine.keys() & theirs.keys()
    assert {"samples/logit", "methods/random/gae"} <= shared
    assert_same({name: mine[name] for name in shared}, {name: theirs[name] for name in shared})
    with pytest.raises(ConfigurationError, match="limit is 10 in the file and 14 now"):
        run(path, METHODS, limit=14, resume=True)


def test_the_folder_of_the_pictures_is_in_the_file_and_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in sample_pictures()[:4]:
        shutil.copy(place, folder)
    small = Resize((8, 8))
    evaluate(
        kept("plain"),
        folder,
        "random",
        tmp_path / "run.h5",
        transform=lambda picture: to_tensor(small(picture)),
        relevance="map",
    )
    with relprop.Results(tmp_path / "run.h5") as results:
        assert results.pictures_folder == folder
    assert analyse._agreed(folder) is None  # there is no terminal
    asked: list[str] = []
    monkeypatch.setattr(analyse.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(analyse.sys.stdout, "isatty", lambda: True, raising=False)
    for answer, wanted in ((True, folder), (False, None)):
        monkeypatch.setattr(analyse.typer, "confirm", lambda text, answer=answer: asked.append(text) or answer)
        assert analyse._agreed(folder) == wanted
    assert str(folder) in asked[0]
    assert analyse._agreed(tmp_path / "gone") is None
    assert len(asked) == 2
