"""Data sets of every kind: indexed, streamed, augmented, broken, or none."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

import relprop
from relprop import gae
from relprop.errors import InputError
from relprop.evaluation import (
    DataError,
    WorkerError,
    evaluate,
)
from relprop.store import is_complete
from tests.helpers.evaluations import assert_same, contents, inputs, run
from tests.helpers.models import kept, pictures


class Pairs(Dataset[Any]):
    """A data set of PyTorch."""

    def __init__(self, x: Tensor, labels: Tensor) -> None:
        self.x, self.labels = x, labels

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], int(self.labels[index])


class Augmented(Pairs):
    """Draws from the generators, as random crops do."""

    def __getitem__(self, index: int) -> Any:
        return self.x[index] + torch.rand(()) + np.random.rand()


@pytest.mark.full
def test_what_a_data_set_draws_follows_from_the_sample(tmp_path: Path) -> None:
    for workers in (0, 1):
        evaluate(kept("plain"), Augmented(*inputs()), "gradient", tmp_path / f"{workers}.h5", workers=workers)
    assert_same(contents(tmp_path / "0.h5"), contents(tmp_path / "1.h5"))


class Alone(Pairs):
    def __getitem__(self, index: int) -> Any:
        return self.x[index]


class Rows(Pairs):
    """As Hugging Face's data sets have them."""

    _fingerprint = "0123abcd"

    def __getitem__(self, index: int) -> Any:
        return {"image": self.x[index], "label": int(self.labels[index]), "other": "thing"}


@pytest.mark.sweep(every=6)
@pytest.mark.parametrize("kind", [Pairs, Alone, Rows, "array", "list", "arrays"])
def test_data_sets_of_every_kind(tmp_path: Path, kind: Any) -> None:
    x, labels = inputs(9)
    made: dict[str, Any] = {
        "array": x.numpy(),
        "list": list(zip(x, labels, strict=True)),
        "arrays": (x.numpy(), labels),
    }
    dataset = made[kind] if isinstance(kind, str) else kind(x, labels)
    evaluate(kept("plain"), dataset, "constant", tmp_path / "a.h5")
    evaluate(kept("plain"), (x, labels), "constant", tmp_path / "b.h5")
    found, expected = contents(tmp_path / "a.h5"), contents(tmp_path / "b.h5")
    if kind in ("array", Alone):
        assert set(found.pop("samples/label")) == {-1}
        expected.pop("samples/label")
    assert_same(found, expected)


class Streamed(IterableDataset[Any]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Any:
        return iter(self.x)


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("count", [8, 9, 11])
def test_a_stream_is_taken_four_by_four(tmp_path: Path, count: int) -> None:
    x = pictures(count)
    found = evaluate(kept("plain"), Streamed(x), ["constant", "gradient"], tmp_path / "run.h5", unit=1)
    assert (found.samples, found.complete) == (count, True)
    with h5py.File(tmp_path / "run.h5") as file:
        members = file["samples/mosaic_members"][:]
        scores = file["methods/gradient/gae"][:]
    fours = np.resize(np.arange(count), (-(-count // 4), 4))
    np.testing.assert_array_equal(members, np.repeat(fours, 4, 0)[:count])
    expected = gae.score(kept("plain"), x[fours.flatten()], relprop.Explainer(kept("plain"), rules="gradient"))
    np.testing.assert_allclose(scores, expected.gae[:count], atol=1e-5)


def test_a_stream_is_resumed_and_gets_further_methods(tmp_path: Path) -> None:
    x = pictures(11)
    path = tmp_path / "run.h5"
    evaluate(kept("plain"), Streamed(x), ["random", "constant"], tmp_path / "whole.h5", unit=1)
    with pytest.raises(DataError, match="stream of samples failed after 6: OSError: the line is down"):
        evaluate(kept("plain"), Breaking(x, 6), "constant", path, unit=1, data_name="mine")
    evaluate(kept("plain"), Streamed(x), "constant", path, unit=1, data_name="mine", resume=True)
    evaluate(kept("plain"), Streamed(x), "random", path, unit=1, data_name="mine", resume=True)
    assert_same(contents(path), contents(tmp_path / "whole.h5"))
    with pytest.raises(DataError, match="can't be cut into shards"):
        evaluate(kept("plain"), Streamed(x), "constant", tmp_path / "no.h5", shard=(0, 2))


class Breaking(Streamed):
    def __init__(self, x: Tensor, after: int) -> None:
        super().__init__(x)
        self.after = after

    def __iter__(self) -> Any:
        yield from self.x[: self.after]
        raise OSError("the line is down")


class Breakable(Alone):
    """A data set of which one sample or another can't be read for a while."""

    broken: tuple[int, ...] = ()

    def __getitem__(self, index: int) -> Any:
        if index in self.broken:
            raise OSError("the disk coughs")
        return super().__getitem__(index)


@pytest.mark.full
def test_mosaics_in_the_file_hold_whatever_can_be_read_later(tmp_path: Path) -> None:
    data, path = Breakable(*inputs()), tmp_path / "run.h5"
    data.broken = (3, 4)
    evaluate(kept("plain"), data, "constant,gradient", tmp_path / "whole.h5")
    evaluate(kept("plain"), data, "constant", path)
    data.broken = ()
    evaluate(kept("plain"), data, "gradient", path, resume=True)
    assert_same(contents(path), contents(tmp_path / "whole.h5"))
    data.broken = (7,)
    with pytest.raises(
        DataError, match="sample 7 was in a mosaic, and can't be read any more: OSError: the disk coughs"
    ):
        evaluate(kept("plain"), data, "random", path, resume=True)


class Deadly(Pairs):
    """Kills the worker process that reads it."""

    main = os.getpid()

    def __getitem__(self, index: int) -> Any:
        if index == 11 and os.getpid() != self.main:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_dying_worker_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    path, data = tmp_path / "run.h5", Deadly(*inputs())
    with pytest.raises(WorkerError, match="worker process that reads pictures died"):
        evaluate(kept("plain"), data, "constant", path, workers=1, unit=1)
    if path.exists():  # the worker may have died before anything was done
        with h5py.File(path) as file:
            assert not is_complete(file)
    assert evaluate(kept("plain"), data, "constant", path, unit=1, resume=True).complete


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (lambda: pictures(3), DataError, "takes four different pictures, the data set has 3"),
        (lambda: Streamed(pictures(3)), DataError, "only 3 of the data set's can be read"),
        (lambda: [], DataError, "empty"),
        (lambda: 3, DataError, "a int is no data set"),
        (lambda: {"train": [1]}, DataError, "give one of them, as dataset\\['train'\\]"),
        (lambda: torch.utils.data.DataLoader(Pairs(*inputs())), DataError, "a DataLoader makes batches of its own"),
        (lambda: pictures(8)[:, :, 0, 0], DataError, "array of pictures"),
        (lambda: (pictures(8), torch.arange(7)), DataError, "8 pictures and 7 labels"),
        (lambda: (pictures(8), torch.arange(8) + 1), DataError, "has label .*, but the model has classes 0 to 4"),
        (lambda: [np.zeros((5, 5, 3), np.uint8)] * 8, DataError, "must be prepared for the model"),
        (lambda: [(1, 2, 3, 4)] * 8, DataError, r"\(image, label\) or \(image, label, mask\), not 4 things"),
        (lambda: [{"text": "no"}] * 8, DataError, "a row has no picture"),
        (lambda: pictures(8).int(), DataError, "floating-point"),
        (lambda: pictures(8, size=7), InputError, "the model fails on pictures"),
        (lambda: "/nowhere/at/all", relprop.RelpropError, "no such file or folder"),
    ],
)
def test_data_sets_that_are_none(tmp_path: Path, dataset: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(kept("plain"), dataset(), "constant", tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists()


def test_labels_are_asked_for_where_they_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    some = [(picture, 0 if k else None) for k, picture in enumerate(pictures(8))]
    with pytest.raises(DataError, match=r"sample 0 .*has no label"):
        evaluate(kept("plain"), some, "constant", path, target="label")
    assert not path.exists()
    run(path, ["constant"], 8)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"^no sample has a label"):
        evaluate(kept("plain"), pictures(8), "constant", path, target="label", overwrite=True)
    assert path.read_bytes() == before


def test_pictures_of_other_sizes_are_marked(tmp_path: Path) -> None:
    rows = [*pictures(8), pictures(1, size=6)[0]]
    found = evaluate(kept("plain"), rows, "constant", tmp_path / "run.h5")
    assert found.unreadable == 1
    assert "mosaics need one size" in found.failure


def test_the_first_samples_alone(tmp_path: Path) -> None:
    assert run(tmp_path / "run.h5", ["constant"], limit=9).samples == 9
    evaluate(kept("plain"), Streamed(pictures(21)), "constant", tmp_path / "stream.h5", limit=6)
    with h5py.File(tmp_path / "stream.h5") as file:
        assert file["sample"][:].tolist() == list(range(6))
