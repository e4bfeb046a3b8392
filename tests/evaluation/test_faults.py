"""What goes wrong around an evaluation: metrics that meddle, models that fail, and files that are resumed otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset
from torchvision.transforms import v2

import relprop
from relprop.analysis.plots.plot import plot
from relprop.evaluation import evaluate
from relprop.metrics import perturbation_curves
from relprop.models import read_picture
from relprop.store import ConfigurationError, State, StoreError
from tests.helpers.evaluations import assert_same, contents, inputs, run
from tests.helpers.models import kept, pictures, seeded


class Stopped(Exception):  # noqa: N818
    """A run that is stopped in the middle."""


def stop_after(count: int) -> Any:
    def progress(done: float, total: int | None) -> None:
        if done >= count:
            raise Stopped

    return progress


def begin(path: Path, methods: Any, count: int = 12, **options: Any) -> None:
    with pytest.raises(Stopped):
        run(path, methods, count, unit=1, progress=stop_after(4), **options)


# Metrics


class Normalising(nn.Module):
    """A model that prepares its input, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.inner, self.in_place = kept("plain"), in_place

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.mul_(2).sub_(0.5) if self.in_place else x * 2 - 0.5)


def test_a_model_that_writes_into_its_input_has_the_same_curves() -> None:
    x = pictures(3)
    before = x.clone()
    found, expected = (perturbation_curves(Normalising(how).eval(), x, before.abs(), 1) for how in (True, False))
    assert torch.equal(x, before)
    torch.testing.assert_close(found.probability, expected.probability)


def draws(model: Any, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
    return torch.rand(len(x)) + np.random.rand()


def test_what_metrics_draw_follows_from_the_seed(tmp_path: Path) -> None:
    options: dict[str, Any] = {"unit": 1, "metrics": {"drawn": draws}}
    run(tmp_path / "whole.h5", ["constant"], 12, **options)
    begin(tmp_path / "run.h5", ["constant"], metrics={"drawn": draws})
    torch.rand(5)
    run(tmp_path / "run.h5", ["constant"], 12, resume=True, **options)
    assert_same(contents(tmp_path / "run.h5"), contents(tmp_path / "whole.h5"))
    with h5py.File(tmp_path / "run.h5") as file:
        assert len(set(file["methods/constant/drawn"][:].tolist())) == 12


def test_a_metric_that_writes_into_what_it_is_given_changes_no_other(tmp_path: Path) -> None:
    def meddles(model: Any, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        x.zero_(), relevance.neg_(), target.zero_()
        return torch.zeros(len(x))

    orders: list[dict[str, Any]] = [{"deletion": None, "bad": meddles}, {"bad": meddles, "deletion": None}]
    for k, metrics in enumerate(orders):
        run(tmp_path / f"{k}.h5", ["gradient"], 8, metrics=metrics, relevance="map")
    assert_same(contents(tmp_path / "0.h5"), contents(tmp_path / "1.h5"))


def test_an_infinite_score_is_none(tmp_path: Path) -> None:
    def endless(model: Any, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        return torch.where(torch.arange(len(x)) % 2 == 0, torch.inf, torch.ones(len(x)))

    run(tmp_path / "run.h5", ["constant", "random"], 12, metrics={"endless": endless})
    with relprop.Results(tmp_path / "run.h5") as results:
        assert "all values are equal" in str(results.summary())
        assert results.summary()["constant"].scores["endless"].undefined == 6
        assert np.nanmax(results.score("endless", "constant")) == 1


@pytest.mark.parametrize("name", ["label", "probability", "method", "control", "quadrant", "attribution"])
def test_a_metric_takes_no_name_of_another_column(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=f"can't be called {name!r}"):
        run(tmp_path / "run.h5", ["constant"], 8, metrics={name: draws})


# Names


def test_slashes_of_a_methods_text_become_bars(tmp_path: Path) -> None:
    maps = tmp_path / "maps.npy"
    np.save(maps, np.random.default_rng(0).random((8, 8, 8), np.float32))
    box = "z-box:low=-4/-4/-4,high=4/4/4"
    found = run(tmp_path / "run.h5", f"maps:path={maps},{box}", 8)
    assert list(found.methods) == [f"maps:path={maps}".replace("/", "|"), box.replace("/", "|")]
    with pytest.raises(StoreError, match="without /"):
        run(tmp_path / "no.h5", {"a/b": "constant"}, 8)
    with pytest.raises(StoreError, match="can't be called 1"):
        run(tmp_path / "no.h5", {1: "constant"}, 8)


@pytest.mark.full
def test_a_long_name_is_cut_in_the_names_of_files(tmp_path: Path) -> None:
    names = ["注" * 40, "注" * 41]
    run(tmp_path / "run.h5", dict.fromkeys(names, "gradient"), 8, relevance="map")
    with relprop.Results(tmp_path / "run.h5") as results:
        sheets = [file for file in plot(results, tmp_path / "plots").files if "best-worst" in file]
    assert len(set(sheets)) == 2
    assert all(Path(file).is_file() for file in sheets)


# Pictures


@pytest.mark.parametrize("kind", ["array", "file"])
def test_a_transform_that_passes_arrays_by_is_given_pictures(tmp_path: Path, kind: str) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (8, 16, 12, 3), np.uint8)
    files = [tmp_path / f"{k}.png" for k in range(8)]
    for file, array in zip(files, arrays, strict=True):
        Image.fromarray(array).save(file)
    prepare = v2.Compose([v2.Resize((8, 8)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    given: Any = arrays if kind == "array" else files
    evaluate(kept("plain"), given, "constant", tmp_path / "run.h5", transform=prepare)
    expected = kept("plain")(torch.stack([prepare(Image.fromarray(array)) for array in arrays]))
    with h5py.File(tmp_path / "run.h5") as file:
        np.testing.assert_allclose(file["samples/output"][:], expected.detach(), atol=1e-5)


def test_a_picture_of_pil_is_read_as_its_file_is(tmp_path: Path) -> None:
    """Turned as EXIF says, and 16 bits scaled, not clipped."""
    generator = np.random.default_rng(0)
    files = [tmp_path / f"{k}.png" for k in range(4)]
    turned = Image.fromarray(generator.integers(0, 256, (10, 10, 3), np.uint8))
    turned.getexif()[0x112] = 6
    for file in files[:2]:
        turned.save(file, exif=turned.getexif())
    for file in files[2:]:
        Image.fromarray(generator.integers(0, 1 << 16, (10, 10)).astype(np.uint16)).save(file)
    prepare = v2.Compose([v2.Resize((8, 8)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    assert not np.array_equal(read_picture(files[0]), np.asarray(turned))
    opened = [Image.open(file) for file in files]
    for name, dataset in (("files", files), ("opened", opened)):
        evaluate(kept("plain"), dataset, "constant", tmp_path / f"{name}.h5", transform=prepare)
    with h5py.File(tmp_path / "files.h5") as one, h5py.File(tmp_path / "opened.h5") as other:
        np.testing.assert_array_equal(one["samples/output"], other["samples/output"])


def test_labels_in_a_list(tmp_path: Path) -> None:
    x, labels = inputs(8)
    evaluate(kept("plain"), (x, labels.tolist()), "constant", tmp_path / "a.h5")
    evaluate(kept("plain"), (x, labels), "constant", tmp_path / "b.h5")
    assert_same(contents(tmp_path / "a.h5"), contents(tmp_path / "b.h5"))


def test_a_colour_of_numpy(tmp_path: Path) -> None:
    run(tmp_path / "a.h5", ["gradient"], 8, baseline=np.float32(0.5))
    run(tmp_path / "b.h5", ["gradient"], 8, baseline=0.5)
    assert_same(contents(tmp_path / "a.h5"), contents(tmp_path / "b.h5"))


# Resuming


def network(activation: nn.Module) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 16), activation, nn.Linear(16, 5)))


def test_other_pictures_and_another_model_are_refused(tmp_path: Path) -> None:
    """Where nothing but what the model makes of them tells them apart."""
    x = pictures(24)
    data = TensorDataset(x, torch.zeros(24, dtype=torch.long))
    model, path = network(nn.ReLU()), tmp_path / "run.h5"
    with pytest.raises(Stopped):
        evaluate(model, Subset(data, range(12)), "constant", path, unit=1, progress=stop_after(4))
    other: list[tuple[nn.Module, Any]] = [(model, Subset(data, range(12, 24))), (network(nn.Sigmoid()), data)]
    for again, dataset in other:
        given = Subset(dataset, range(12)) if dataset is data else dataset
        with pytest.raises(ConfigurationError, match="begun with other pictures or another model: for sample"):
            evaluate(again, given, "constant", path, unit=1, resume=True)
    assert evaluate(model, Subset(data, range(12)), "constant", path, unit=1, resume=True).complete


def test_a_run_resumed_with_another_method_tells_what_failed(tmp_path: Path) -> None:
    x = pictures(24)
    x[[3, 7, 11]] = torch.nan
    path = tmp_path / "run.h5"
    with pytest.raises(Stopped):
        evaluate(kept("plain"), x, "constant", path, unit=1, progress=stop_after(4))
    found = evaluate(kept("plain"), x, "random", path, unit=1, resume=True)
    assert (found.unreadable, found.failed, found.complete) == (3, 3, False)
    assert (found.methods["constant"].absent > 0, found.methods["random"].done) == (True, 21)


@pytest.mark.full
def test_maps_go_on_being_kept(tmp_path: Path) -> None:
    begin(tmp_path / "run.h5", ["gradient"], relevance="map")
    run(tmp_path / "run.h5", ["gradient"], 12, unit=1, resume=True)
    run(tmp_path / "whole.h5", ["gradient"], 12, unit=1, relevance="map")
    assert_same(contents(tmp_path / "run.h5"), contents(tmp_path / "whole.h5"))


def test_a_stream_whose_filler_comes_late_gets_a_further_method(tmp_path: Path) -> None:
    x = pictures(11)
    x[0] = torch.nan

    def stream() -> Iterator[Tensor]:
        yield from x

    options: dict[str, Any] = {"unit": 1, "data_name": "mine"}
    evaluate(kept("plain"), stream(), "constant,random", tmp_path / "whole.h5", **options)
    evaluate(kept("plain"), stream(), "constant", tmp_path / "run.h5", **options)
    evaluate(kept("plain"), stream(), "random", tmp_path / "run.h5", resume=True, **options)
    assert_same(contents(tmp_path / "run.h5"), contents(tmp_path / "whole.h5"))


# Models


class Choosy(nn.Module):
    """A model that raises on some pictures."""

    def __init__(self, refused: Tensor) -> None:
        super().__init__()
        self.inner, self.refused = kept("plain"), refused

    def forward(self, x: Tensor) -> Tensor:
        if (x[:, None] == self.refused.to(x)).flatten(2).all(2).any():
            raise RuntimeError("not this one")
        return self.inner(x)


@pytest.mark.parametrize("unit", [1, 2])
def test_samples_on_which_the_model_raises_are_marked(tmp_path: Path, unit: int) -> None:
    """All four of a mosaic, of which there is one in a unit, or two."""
    x, _ = inputs(12)
    four = relprop.gae.mosaic_members(12, 0)[1]
    found = evaluate(Choosy(x[four]).eval(), x, "constant", tmp_path / "run.h5", unit=unit)
    assert (found.unreadable, found.complete, found.methods["constant"].done) == (4, True, 8)
    assert "the model fails on it: RuntimeError: not this one" in found.failure
    with h5py.File(tmp_path / "run.h5") as file:
        assert np.flatnonzero(file["samples/state"][:] == State.FAILED).tolist() == sorted(four)


class Tiring(nn.Module):
    """A model that ceases to work, as a GPU may."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.left = kept("plain"), 60

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the device is gone")
        return self.inner(x)


def test_a_model_that_ceases_to_work_ends_the_run(tmp_path: Path) -> None:
    """Samples that another run could score are not marked as failed."""
    with pytest.raises(relprop.RelpropError, match="the device is gone"):
        evaluate(Tiring().eval(), pictures(24), "constant", tmp_path / "run.h5", unit=1)
    with h5py.File(tmp_path / "run.h5") as file:
        states = file["samples/state"][:]
    assert set(states.tolist()) == {State.DONE, State.ABSENT}
