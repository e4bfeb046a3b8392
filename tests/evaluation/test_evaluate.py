"""The evaluator: what it writes against the metric itself, what it survives, and that nothing depends on the order."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

import relprop
from relprop import gae
from relprop.errors import InputError
from relprop.evaluation import (
    DataError,
    Item,
    MethodFailureError,
    MetricError,
    PictureFolder,
    WorkerError,
    evaluate,
    quantus_metric,
)
from relprop.files import OutputError
from relprop.gae import Flag, mosaic_members
from relprop.store import BusyError, ConfigurationError, EvaluationWriter, FormatError, State, is_complete, merge
from tests.helpers.evaluations import METHODS, SAMPLES, assert_same, contents, inputs, run
from tests.helpers.models import doubled, kept, make, pictures, seeded

SCORES = ("faithfulness", "robustness", "local_consistency", "contrastiveness_raw", "contrastiveness", "gae")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from beginning to end."""
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    found = run(path, metrics=("deletion", "insertion", "srg"), relevance="channels")
    assert found.complete
    return path


def gradient_of(x: Tensor, target: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(kept("plain")(leaf).gather(1, target[:, None]).sum(), leaf)
    return found


# What is written


@pytest.mark.parametrize("method", ["abslrp", "gradient"])
def test_scores_are_those_of_the_metric(whole: Path, method: str) -> None:
    members = mosaic_members(SAMPLES, 0)
    x, _ = inputs()
    explain: Any = relprop.Explainer(kept("plain"), rules=method)
    expected = gae.score(kept("plain"), x[members.flatten()], explain)
    with h5py.File(whole) as file:
        for name in SCORES:
            found = file[f"methods/{method}/{name}"][:][members.flatten()[:SAMPLES]]
            np.testing.assert_allclose(found, getattr(expected, name)[:SAMPLES].numpy(), atol=2e-6, err_msg=name)
        assert np.isfinite(file[f"methods/{method}/gae"][:]).sum() > SAMPLES // 2


def test_the_masking_run_is_that_of_the_metric(whole: Path) -> None:
    x, labels = inputs()
    expected = gae.masking_run(kept("plain"), x)
    with h5py.File(whole) as file:
        samples = file["samples"]
        np.testing.assert_array_equal(samples["prediction"], expected.target)
        np.testing.assert_array_equal(samples["label"], labels)
        np.testing.assert_allclose(samples["probability"][:], expected.probability, atol=1e-6)
        np.testing.assert_allclose(samples["output"][:], expected.output, atol=1e-5)
        # Pixels whose gradients differ by rounding may change places.
        assert (samples["steps"][:] == expected.steps.numpy()).mean() > 0.99
        members, quadrant = samples["mosaic_members"][:], samples["quadrant"][:]
        np.testing.assert_array_equal(members[np.arange(SAMPLES), quadrant], np.arange(SAMPLES))
        chosen = mosaic_members(SAMPLES, 0)
        assert {tuple(row) for row in members} == {tuple(row) for row in chosen}


def test_random_control_follows_from_seed_sample_and_state(whole: Path) -> None:
    """Faithfulness of the random map, computed here from the file's impact map and the documented draw."""
    with h5py.File(whole) as file:
        found, impact = file["methods/random/faithfulness"][:], file["samples/impact"][:]
    for sample in (0, 7, 16):
        drawn = gae.random_map([sample], impact.shape[1:], seed=0)[0].numpy()
        assert found[sample] == pytest.approx((impact[sample] * drawn).sum() / drawn.sum(), abs=1e-6)


def test_metrics_beside_gae(whole: Path) -> None:
    x, _ = inputs()
    curves = relprop.metrics.perturbation_curves(kept("plain"), x, gradient_of(x, kept("plain")(x).argmax(1)))
    with h5py.File(whole) as file:
        group = file["methods/gradient"]
        np.testing.assert_allclose(group["deletion"][:], curves.deletion, atol=1e-5)
        np.testing.assert_allclose(group["insertion"][:], curves.insertion, atol=1e-5)
        np.testing.assert_allclose(group["srg"][:], group["insertion"][:] - group["deletion"][:], atol=1e-6)


def test_maps_are_kept(whole: Path) -> None:
    x, _ = inputs()
    expected = gradient_of(x, kept("plain")(x).argmax(1))
    with h5py.File(whole) as file:
        maps = file["methods/gradient/maps"]
        found = maps["relevance"][:].astype(np.float32) * maps["scale"][:][:, None, None, None]
    np.testing.assert_allclose(found, expected, atol=2e-3 * float(expected.abs().max()))


def test_targets_are_labels_where_asked(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", ["constant"], count=8, target="label")
    with h5py.File(tmp_path / "run.h5") as file:
        np.testing.assert_array_equal(file["samples/target"], inputs(8)[1])
        assert (file["samples/target"][:] != file["samples/prediction"][:]).any()


def test_pointing_game_and_energy_inside_need_masks(tmp_path: Path) -> None:
    x, labels = inputs(8)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    rows = [(picture, label, mask) for picture, label in zip(x, labels, strict=True)]
    names = ("pointing_game", "energy_inside")
    evaluate(kept("plain"), rows, "constant", tmp_path / "run.h5", metrics=names)
    with h5py.File(tmp_path / "run.h5") as file:
        for name in names:
            np.testing.assert_allclose(file[f"methods/constant/{name}"], 0.5)
    with pytest.raises(DataError, match="has no mask of an object"):
        evaluate(kept("plain"), (x, labels), "constant", tmp_path / "none.h5", metrics=names)


def test_ones_own_metric(tmp_path: Path) -> None:
    def largest(model: Any, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        return relevance.flatten(1).amax(1)

    run(tmp_path / "run.h5", ["constant"], count=8, metrics={"largest": largest, "deletion": None})
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["methods/constant/largest"][:].tolist() == [1] * 8
    with pytest.raises(MetricError, match=r"no metric 'deletoin'; near names: deletion"):
        run(tmp_path / "bad.h5", ["constant"], count=8, metrics=("deletoin",))
    with pytest.raises(MetricError, match="must return a number for each of 8 samples"):
        run(tmp_path / "bad.h5", ["constant"], count=8, metrics={"mine": lambda *_: 1.0})


def test_metrics_of_quantus(tmp_path: Path) -> None:
    quantus = pytest.importorskip("quantus")
    metrics = {"sparseness": quantus_metric(quantus.Sparseness(disable_warnings=True))}
    run(tmp_path / "run.h5", {"few": one_pixel, "centre": "centre"}, count=8, metrics=metrics)
    with h5py.File(tmp_path / "run.h5") as file:
        few, centre = file["methods/few/sparseness"][:], file["methods/centre/sparseness"][:]
    np.testing.assert_allclose(few, 1 - 1 / 64, atol=1e-3)  # the Gini index where one of 64 has all
    assert (few > centre).all()


def one_pixel(x: Tensor, target: Tensor) -> Tensor:
    maps = torch.zeros(len(x), 1, *x.shape[2:])
    maps[..., 0, 0] = 1
    return maps


# The same bits, however it was done


def test_every_order_of_methods_gives_the_same_bits(whole: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"metrics": ("deletion", "insertion", "srg"), "relevance": "channels"}
    run(tmp_path / "run.h5", METHODS[::-1], **options)
    assert_same(contents(tmp_path / "run.h5"), contents(whole))


def test_methods_added_later_give_the_same_bits_and_repeat_no_masking_run(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    options: dict[str, Any] = {"metrics": ("deletion", "insertion", "srg"), "relevance": "channels"}
    run(path, METHODS[:1], **options)
    for name in METHODS[1:]:
        found = run(path, [name], resume=True, **options)
        assert found.seconds["masking"] == 0
        assert found.complete
    assert_same(contents(path), contents(whole))


def test_three_shards_merged_are_the_single_run(whole: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"{part}.h5" for part in range(3)]
    options: dict[str, Any] = {"metrics": ("deletion", "insertion", "srg"), "relevance": "channels"}
    for part, path in enumerate(parts):
        assert run(path, shard=(part, 3), **options).complete
    merge(parts, tmp_path / "run.h5")
    assert_same(contents(tmp_path / "run.h5"), contents(whole))
    with h5py.File(tmp_path / "run.h5") as merged, h5py.File(whole) as single:
        assert merged.attrs["config_sha256"] == single.attrs["config_sha256"]


@pytest.mark.parametrize(("unit", "batch_size"), [(1, 32), (3, 7), (6, 500)])
def test_other_units_make_the_same_choices_and_scores_up_to_rounding(
    whole: Path, tmp_path: Path, unit: int, batch_size: int
) -> None:
    run(tmp_path / "run.h5", unit=unit, batch_size=batch_size)
    found, expected = contents(tmp_path / "run.h5"), contents(whole)
    for name in ("mosaic_members", "quadrant", "prediction", "target"):
        np.testing.assert_array_equal(found[f"samples/{name}"], expected[f"samples/{name}"])
    for method in METHODS:
        for name in SCORES:
            key = f"methods/{method}/{name}"
            np.testing.assert_allclose(found[key], expected[key], atol=1e-5, err_msg=key)


def test_stochastic_methods_follow_from_seed_and_unit(tmp_path: Path) -> None:
    def noisy(x: Tensor, target: Tensor) -> Tensor:
        return torch.rand(x.shape) + torch.from_numpy(np.random.rand(*x.shape))

    before = torch.get_rng_state()
    run(tmp_path / "a.h5", {"noisy": noisy})
    torch.rand(3)
    run(tmp_path / "b.h5", {"constant": "constant", "noisy": noisy})
    torch.set_rng_state(before)
    a, b = contents(tmp_path / "a.h5"), contents(tmp_path / "b.h5")
    assert a["methods/noisy/gae"].tobytes() == b["methods/noisy/gae"].tobytes()
    run(tmp_path / "c.h5", {"noisy": noisy}, seed=1)
    assert (
        a["methods/noisy/faithfulness"].tobytes() != contents(tmp_path / "c.h5")["methods/noisy/faithfulness"].tobytes()
    )


def test_the_users_generators_are_left_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    run(tmp_path / "run.h5", {"noisy": lambda x, target: torch.rand_like(x)}, count=8)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = kept("plain")
    before = {name: (id(p), p._version, p.requires_grad, p.grad) for name, p in model.named_parameters()}
    hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()]
    methods = "abslrp,captum.GuidedBackprop,grad-cam.GradCAM,zennit.EpsilonPlus"
    evaluate(model, inputs(8), methods, tmp_path / "run.h5")
    assert {name: (id(p), p._version, p.requires_grad, p.grad) for name, p in model.named_parameters()} == before
    assert [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()] == hooks


# Resuming


def test_resuming_a_finished_run_does_nothing(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    run(path)
    before = path.read_bytes()
    found = run(path, resume=True)
    assert (found.evaluated, found.complete, found.samples) == (0, True, SAMPLES)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"unit": 3}, "unit"),
        ({"batch_size": 8}, "batch_size"),
        ({"baseline": 0.5}, "baseline"),
        ({"target": "label"}, "target"),
        ({"count": 16}, "data"),
        ({"shard": (0, 2)}, "shard"),
    ],
)
def test_another_configuration_is_refused_by_name(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    run(tmp_path / "run.h5", ["constant"])
    before = contents(tmp_path / "run.h5")
    with pytest.raises(ConfigurationError, match=named):
        run(tmp_path / "run.h5", ["constant"], resume=True, **options)
    assert_same(contents(tmp_path / "run.h5"), before)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", ["constant"], count=8)
    with pytest.raises(ConfigurationError, match="model"):
        evaluate(make("plain", seed=1), inputs(8), ["constant"], tmp_path / "run.h5", resume=True)


def test_a_method_of_the_same_name_with_other_options_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", {"mine": "abslrp"}, count=8)
    with pytest.raises(ConfigurationError, match="delta"):
        run(tmp_path / "run.h5", {"mine": "abslrp:delta=0.5"}, count=8, resume=True)


def test_a_file_is_neither_overwritten_nor_resumed_unasked(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", ["constant"], count=8)
    with pytest.raises(OutputError, match="exists"):
        run(tmp_path / "run.h5", ["constant"], count=8)
    assert run(tmp_path / "run.h5", ["random"], count=8, overwrite=True).methods.keys() == {"random"}
    with pytest.raises(InputError, match="either resumed or overwritten"):
        run(tmp_path / "run.h5", ["random"], count=8, overwrite=True, resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_after_a_commit_and_the_run_goes_on(whole: Path, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "run.h5"
    calls = 0

    def kill(x: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # in the middle of a unit
            os.kill(os.getpid(), number)
        return x

    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(path, {"mine": kill, "random": "random"})
    assert signal.getsignal(number) == handler
    with h5py.File(path) as file:
        assert not is_complete(file)
        assert file["methods/mine/state"][:].sum() == 8
        assert file["methods/random/state"][:].sum() == 0
    found = run(path, {"mine": kill, "random": "random"}, resume=True)
    assert found.complete
    assert contents(path)["methods/random/gae"].tobytes() == contents(whole)["methods/random/gae"].tobytes()


# Data sets


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


def test_a_method_added_to_a_file_with_a_broken_picture(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    evaluate(kept("plain"), folder, "constant,gradient", tmp_path / "whole.h5", transform=transform)
    evaluate(kept("plain"), folder, "constant", path, transform=transform)
    evaluate(kept("plain"), folder, "gradient", path, transform=transform, resume=True)
    assert_same(contents(path), contents(tmp_path / "whole.h5"))


class Breakable(Alone):
    """A data set of which one sample or another can't be read for a while."""

    broken: tuple[int, ...] = ()

    def __getitem__(self, index: int) -> Any:
        if index in self.broken:
            raise OSError("the disk coughs")
        return super().__getitem__(index)


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
    assert PictureFolder(tmp_path / "pictures", class_names=("cat", "dog")).labels == [0, 1]
    assert PictureFolder(tmp_path / "pictures", class_names=("cat", "dog", "cow")).labels is None


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


def test_workers_read_and_give_the_same_bits(folder: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        evaluate(
            kept("plain"), folder, "constant", tmp_path / f"{workers}.h5", transform=transform, workers=workers, unit=1
        )
    assert_same(contents(tmp_path / "0.h5"), contents(tmp_path / "2.h5"))


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


def test_a_run_that_fails_leaves_what_others_did(tmp_path: Path) -> None:
    """An empty file that is resumed was not begun by the run that fails."""
    path = tmp_path / "run.h5"
    x, labels = inputs(8)
    labels[mosaic_members(8, 0)[1]] = 7
    with pytest.raises(DataError, match="has label 7"):
        evaluate(kept("plain"), (x, labels), "constant", path, unit=1)
    with h5py.File(path) as file:
        assert file["samples/state"][:].sum() == 4
    with h5py.File(path, "r+") as file:
        file["samples/state"][:] = 0
    with pytest.raises(DataError, match="has label 7"):
        evaluate(kept("plain"), (x, labels), "constant", path, unit=1, resume=True)
    assert path.exists()


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


# Methods that fail


def poisoned(what: str) -> Any:
    """A method that fails on one sample in some of its states, in one way or another."""
    x, _ = inputs()
    bad = x[5]

    def method(pictures: Tensor, target: Tensor) -> Tensor:
        hit = (pictures == bad).flatten(1).all(1)
        maps = pictures.sum(1, keepdim=True)
        if hit.any():
            if what == "raises":
                raise ZeroDivisionError("by sample five")
            if what == "shape":
                return maps[:, :, :-1]
            maps = torch.where(hit.reshape(-1, 1, 1, 1), torch.nan, maps)
        return maps

    return method


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raises", "ZeroDivisionError: by sample five"),
        ("shape", "the relevance map has shape"),
        ("nan", "the map of the picture holds NaN or infinite values"),
    ],
)
def test_a_failing_method_marks_the_sample_and_goes_on(tmp_path: Path, what: str, message: str) -> None:
    found = run(tmp_path / "run.h5", {"bad": poisoned(what), "constant": "constant"}, metrics=("deletion",))
    run(tmp_path / "good.h5", {"bad": lambda x, target: x.sum(1, keepdim=True)}, metrics=("deletion",))
    tally = found.methods["bad"]
    assert (tally.done, tally.failed, tally.absent) == (SAMPLES - 1, 1, 0)
    assert message in tally.failure
    assert (found.methods["constant"].failed, found.failed, found.complete) == (0, 1, True)
    with h5py.File(tmp_path / "run.h5") as file, h5py.File(tmp_path / "good.h5") as good:
        group = file["methods/bad"]
        assert group["state"][5] == State.FAILED
        assert message in group["message"].asstr()[5]
        assert file["samples/state"][5] == State.DONE
        for name in (*SCORES, "deletion"):
            assert np.isnan(group[name][5])
            np.testing.assert_allclose(
                np.delete(group[name], 5), np.delete(good[f"methods/bad/{name}"], 5), atol=1e-5, err_msg=name
            )


def test_fail_fast_stops_and_keeps_what_was_done(tmp_path: Path) -> None:
    with pytest.raises(MethodFailureError, match=r"method bad failed on sample 5 .*by sample five"):
        run(tmp_path / "run.h5", {"constant": "constant", "bad": poisoned("raises")}, fail_fast=True)
    with h5py.File(tmp_path / "run.h5") as file:
        assert not is_complete(file)
        assert file["samples/state"][5] == State.DONE
        assert file["methods/bad/state"][5] == State.ABSENT


def test_failed_samples_are_done_again_when_asked(tmp_path: Path) -> None:
    class Mine:
        config = {"mine": 1}  # noqa: RUF012
        works = False

        def __call__(self, x: Tensor, target: Tensor) -> Tensor:
            return x if self.works else x * torch.nan

    mine = Mine()
    assert run(tmp_path / "run.h5", {"mine": mine}, count=8).methods["mine"].failed == 8
    mine.works = True
    assert run(tmp_path / "run.h5", {"mine": mine}, count=8, resume=True).methods["mine"].failed == 8
    found = run(tmp_path / "run.h5", {"mine": mine}, count=8, resume=True, retry=True)
    assert (found.methods["mine"].failed, found.methods["mine"].done, found.complete) == (0, 8, True)


def test_a_method_that_returns_no_tensor(tmp_path: Path) -> None:
    found = run(tmp_path / "run.h5", {"none": lambda x, target: None}, count=8)
    assert found.methods["none"].failed == 8
    assert "must return a tensor, not a NoneType" in found.methods["none"].failure


# Models


def test_a_model_that_classifies_everything_alike_is_told(tmp_path: Path) -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    model[1].bias.data[3] += 1000
    found = evaluate(model, pictures(8), "gradient,constant", tmp_path / "run.h5")
    assert found.one_class == 8
    assert "8 of 8 samples are in a mosaic of one class" in str(found)
    assert "the model puts all pictures into one class" in str(found)
    with h5py.File(tmp_path / "run.h5") as file:
        assert np.isnan(file["methods/gradient/contrastiveness"]).all()
        assert np.isnan(file["methods/gradient/gae"]).all()
        assert (file["methods/gradient/flags"][:] & Flag.ONE_CLASS).all()


def test_a_model_that_fails_on_one_picture_marks_it(tmp_path: Path) -> None:
    x, _ = inputs(9)

    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = kept("plain")

        def forward(self, pictures: Tensor) -> Tensor:
            bad = (pictures == x[4].to(pictures)).flatten(1).all(1)
            return torch.where(bad[:, None], torch.nan, self.inner(pictures))

    found = evaluate(Moody().eval(), x, "constant", tmp_path / "run.h5")
    assert found.unreadable == 1
    assert "the model fails on it: the model's output is NaN" in found.failure
    assert found.complete
    evaluate(Moody().eval(), x, "random", tmp_path / "run.h5", resume=True)
    evaluate(Moody().eval(), x, "constant,random", tmp_path / "whole.h5")
    assert_same(contents(tmp_path / "run.h5"), contents(tmp_path / "whole.h5"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval(), "single output"),
        (lambda: nn.Flatten(2).eval(), "must return logits"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).train(), "training mode"),
        (lambda: 3, "must be a callable"),
    ],
)
def test_models_that_are_none(tmp_path: Path, model: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(model(), pictures(8), "constant", tmp_path / "run.h5")


def test_a_model_in_float64_is_scored_in_float64(tmp_path: Path) -> None:
    model = doubled(kept("plain"))
    x = pictures(8).double()
    evaluate(model, x, "gradient", tmp_path / "run.h5", unit=1)
    members = mosaic_members(8, 0).flatten()
    expected = gae.score(model, x[members], relprop.Explainer(model, rules="gradient"))
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["methods/gradient/gae"].dtype == np.float64
        np.testing.assert_allclose(file["methods/gradient/gae"][:][members], expected.gae, atol=1e-12)


# Files


def test_a_read_only_folder_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        with pytest.raises(OutputError):
            run(Path("/proc/run.h5"), ["constant"], count=8)
        return
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError):
        run(tmp_path / "run.h5", ["constant"], count=8)


def test_a_file_open_in_another_writer_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", ["constant"], count=8)
    with h5py.File(tmp_path / "run.h5") as file:
        config = relprop.store.read_config(file)
        layout = relprop.store.read_layout(file)
    with EvaluationWriter.resume(tmp_path / "run.h5", config, layout), pytest.raises(BusyError):
        run(tmp_path / "run.h5", ["random"], count=8, resume=True)


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all", b"\x89HDF\r\n\x1a\n cut short"])
def test_a_truncated_or_foreign_file_is_not_resumed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.h5").write_bytes(content)
    with pytest.raises(FormatError):
        run(tmp_path / "run.h5", ["constant"], count=8, resume=True)
    assert (tmp_path / "run.h5").read_bytes().startswith(content)


def test_progress_counts_samples(tmp_path: Path) -> None:
    seen: list[tuple[float, int | None]] = []
    run(tmp_path / "run.h5", ["constant"], count=9, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (9, 9)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_items_may_bring_names(tmp_path: Path) -> None:
    rows = [Item(x, 1, name=f"number {k}") for k, x in enumerate(pictures(4))]
    evaluate(kept("plain"), rows, "constant", tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["samples/name"].asstr()[:].tolist() == [f"number {k}" for k in range(4)]
