"""ViRelAy projects, opened by ViRelAy's own loader where it is installed."""

import json

import cv2
import h5py
import numpy as np
import pytest
import torch

import relprop
from relprop.analysis.records import AnalysisError
from relprop.analysis.virelay import export_virelay
from tests.helpers.evaluations import gradient_of
from tests.helpers.models import kept

SIZE, COUNT = (8, 8), 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of the size that the model takes, each of a colour of its own."""
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(COUNT):
        picture = np.full((*SIZE, 3), (40 * k, 255 - 40 * k, 10), np.uint8)
        assert cv2.imwrite(str(folder / f"{k}.png"), picture[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.h5"
    methods = {"gradient": gradient_of, "constant": "constant"}
    relprop.evaluate(kept("plain"), folder, methods, path, relevance="channels", transform=_prepare)
    with relprop.Results(path) as results:
        yield results


def _prepare(picture):
    return torch.from_numpy(np.asarray(picture, np.float32)).permute(2, 0, 1) / 255


def test_virelay_opens_a_project(results, folder, tmp_path):
    virelay = pytest.importorskip("virelay.model", reason="pip install virelay, which wants an older pillow")
    written = export_virelay(results, tmp_path / "p.yaml", "gradient", folder)
    assert str(written).startswith(f"{tmp_path / 'p.yaml'}: ViRelAy project of gradient: {COUNT} x 3 x 8 x 8 maps")
    project = virelay.Project(str(tmp_path / "p.yaml"))
    assert (project.attribution_method, project.attribution_strategy) == ("gradient", "predicted_label")
    assert len(project.dataset) == COUNT
    maps = results["gradient"].relevance()
    for k, target in enumerate(results.samples.target.tolist()):
        sample, attribution = project.get_sample(k), project.get_attribution(k)
        assert sample.data[3, 3].tolist() == [40 * k, 255 - 40 * k, 10]
        assert attribution.labels[0].index == target
        assert attribution.labels[0].name == results.class_names[target]
        assert sample.labels[0].index == target
        np.testing.assert_allclose(np.moveaxis(attribution.data, -1, 0), maps[k], atol=1e-6)
        assert attribution.render_heatmap("black-fire-red").shape == (*SIZE, 3)
    project.close()


def test_the_files_of_a_project(results, folder, tmp_path):
    """What ViRelAy's documentation asks of them, without ViRelAy."""
    export_virelay(results[2:], tmp_path / "p.yaml", "gradient", folder)
    project = json.loads((tmp_path / "p.yaml").read_text())["project"]
    assert project.keys() == {"name", "model", "label_map", "dataset", "attributions"}
    named = [project["label_map"], project["dataset"]["path"], *project["attributions"]["sources"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*named, "p.yaml"])
    labels = json.loads((tmp_path / project["label_map"]).read_text())
    assert [(label["index"], label["name"]) for label in labels] == list(enumerate(results.class_names))
    with h5py.File(tmp_path / project["dataset"]["path"]) as data, h5py.File(tmp_path / named[2]) as maps:
        assert (data["data"].shape, data["data"].dtype) == ((COUNT - 2, *SIZE, 3), np.uint8)
        assert data["data"][0, 0, 0].tolist() == [80, 175, 10]
        assert maps["index"][:].tolist() == [0, 1, 2, 3], "ViRelAy finds samples by their place in the data set"
        assert np.array_equal(maps["label"], data["label"])


def test_pictures_may_be_an_array(results, tmp_path):
    pictures = np.arange(COUNT, dtype=np.uint8)[:, None, None, None] * np.ones((1, *SIZE, 3), np.uint8)
    export_virelay(results[1:], tmp_path / "p.yml", "gradient", pictures)
    with h5py.File(tmp_path / "p.dataset.h5") as data:
        assert data["data"][:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_a_project_needs_all_its_pictures(results, folder, tmp_path):
    with pytest.raises(AnalysisError, match=r"shows the pictures.*pictures="):
        export_virelay(results, tmp_path / "p.yaml", "gradient")
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(AnalysisError, match=r"the picture of sample 0 is not in .*empty, as '0.png'"):
        export_virelay(results, tmp_path / "p.yaml", "gradient", empty)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_picture_whose_crop_is_not_told_is_shown_whole(results, tmp_path):
    written = export_virelay(results, tmp_path / "p.yaml", "gradient", np.zeros((COUNT, 9, 12, 3), np.uint8))
    assert "6 pictures are shown whole" in written.remark
