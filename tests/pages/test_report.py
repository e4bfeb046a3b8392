"""`relprop.report`: what the page says, that strangers' texts stay text, and that it keeps to its size."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import relprop
from relprop.analysis import AnalysisError, Results, UnknownMethodError
from relprop.analysis.plots import Plots
from relprop.analysis.tables import number
from relprop.cli import app
from relprop.files import OutputError
from relprop.pages import gallery, thumbnails
from relprop.store import EvaluationWriter, MergeError
from tests.helpers import store_files
from tests.helpers.evaluation_files import AUC, CLASSES, random_columns, write_evaluation, write_pictures
from tests.helpers.pages import HOSTILE, Page, assert_inert

N, SIZE = 6, (24, 32)
METHODS = {"absLRP": (0.4, 1), "IG": (0.2, 2), "random": (0.15, 3)}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with a run, its pictures, and the page of both."""
    folder = tmp_path_factory.mktemp("desk")
    names = [f"{k}.png" for k in range(N)]
    write_pictures(folder / "photos", names[:-1], SIZE)
    write_run(folder / "run.h5", names=names, failed={"IG": {2: "out of memory"}})
    found = relprop.report(folder / "run.h5", folder / "page.html", pictures=folder / "photos")
    return folder, found, Page(folder / "page.html")


@pytest.fixture
def no_plots(monkeypatch):
    """Plots have a test of their own, and take most of the time."""
    monkeypatch.setattr("relprop.pages.runs.plot", lambda *results, **options: Plots((), ()))


def write_run(path, methods=METHODS, **options):
    columns = {name: random_columns(N, level, seed) for name, (level, seed) in methods.items()}
    maps = {next(iter(methods)): np.random.default_rng(0).standard_normal((N, *SIZE))}
    return write_evaluation(path, columns, N, **{"size": SIZE, "maps": maps} | options)


def test_the_page_says_what_the_results_say(desk):
    folder, found, page = desk
    with relprop.Results(folder / "run.h5") as results:
        summary, pairs = results.summary(), results.compare_all("absLRP")
    for method in summary.methods:
        for score in ("gae", "local_consistency", "contrastiveness", "robustness"):
            estimate = method.scores[score].estimate
            assert f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" in page.words
    for pair in pairs.pairs:
        assert pair.verdict in page.words
    assert "out of memory" in page.words
    assert "6 samples, 4 plots" in str(found)
    plots = [image for image in page.found("img") if "src" in image]
    assert len([image for image in plots if str(image["src"]).startswith("data:image/webp;base64,")]) == 4
    assert all(str(image["alt"]).startswith("Plot: ") for image in plots)


def test_every_sample_comes_with_its_numbers_and_thumbnails(desk):
    folder, _, page = desk
    facts = page.data["facts"]
    titles = [score["name"] for score in facts["scores"]]
    assert titles[:3] == ["gae", "local_consistency", "contrastiveness"]
    with relprop.Results(folder / "run.h5") as results:
        for k, sample in enumerate(facts["samples"]):
            assert (sample["index"], sample["name"]) == (10 * k, f"{k}.png")
            assert sample["right"] == (results.samples.label[k] == results.samples.prediction[k])
            assert sample["target"] == CLASSES[results.samples.target[k]]
            for method, entry in zip(facts["methods"], sample["methods"], strict=True):
                values = results.score("gae", method["name"])
                expected = None if np.isnan(values[k]) else round(float(values[k]), 5)
                assert entry["scores"][titles.index("gae")] == expected
    assert facts["samples"][2]["methods"][0] == {
        "state": "failed",
        "message": "out of memory",
        "flags": [],
        "scores": [None] * len(titles),
    }
    for k in range(N):
        images = page.data[f"images-{k}"]
        kept = [name for name, one in zip(facts["methods"], images["map"], strict=True) if one]
        assert [method["name"] for method in kept] == ["absLRP"]
        assert (images["picture"] is None) == (images["overlay"][1] is None) == (k == N - 1)
        assert images["masks"].startswith("data:image/webp;base64,")


def test_what_strangers_wrote_is_text(tmp_path, no_plots):
    name = HOSTILE.replace("/", "|")  # a method is a group of the file
    path = write_run(
        tmp_path / "run.h5",
        {name: (0.4, 1), "__proto__": (0.2, 2), "constructor": (0.1, 3)},
        names=[HOSTILE, *(f"{k}" for k in range(1, N))],
        failed={name: {1: HOSTILE}},
    )
    relprop.report(path, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert_inert(page)
    assert page.words.count("<script>alert(1)<|script>") >= 2
    assert page.words.count("<script>alert(1)</script>") == 1
    facts = page.data["facts"]
    assert facts["samples"][0]["name"] == HOSTILE
    assert [method["name"] for method in facts["methods"]] == sorted([name, "__proto__", "constructor"])
    assert "\u2028" not in page.source.partition('id="facts"')[2]


def test_an_ordinary_page_is_inert_too(desk):
    assert_inert(desk[2])


def test_names_lead_nowhere_but_below_the_folder(tmp_path, no_plots):
    write_pictures(tmp_path, ["secret.png"], SIZE)
    (tmp_path / "photos").mkdir()
    path = write_run(tmp_path / "run.h5", names=["../secret.png", str(tmp_path / "secret.png"), *"abcd"])
    found = relprop.report(path, tmp_path / "page.html", pictures=tmp_path / "photos")
    page = Page(tmp_path / "page.html")
    assert all(page.data[f"images-{k}"]["picture"] is None for k in range(N))
    assert "6 samples have no picture of their names in the folder of pictures" in str(found)


def test_without_pictures_it_shows_maps_and_says_how_to_get_pictures(desk, tmp_path, no_plots):
    found = relprop.report(desk[0] / "run.h5", tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.data["images-0"]["map"][1].startswith("data:image/webp")
    assert "--pictures DIR" in page.words
    assert "--pictures DIR" in found.remark


def test_several_runs_stand_side_by_side(desk, tmp_path, no_plots):
    other = write_run(tmp_path / "other.h5", {"a": (0.3, 5), "b": (0.1, 6)}, metrics=(AUC,))
    relprop.report([desk[0] / "run.h5", other], tmp_path / "page.html", samples=7)
    page = Page(tmp_path / "page.html")
    facts = page.data["facts"]
    assert facts["runs"] == ["run.h5", "other.h5"]
    assert [sample["run"] for sample in facts["samples"]] == [0, 0, 0, 1, 1, 1, 1]
    assert [entry is None for entry in facts["samples"][0]["methods"]] == [False, True, False, True, False]
    assert "the page holds the first 7 of 12 samples" in page.words
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))

    assert "be compared: no method is in both files" in page.words


def test_runs_of_two_models_are_compared(desk, tmp_path, no_plots):
    names = [f"{k}.png" for k in range(N)]
    other = write_run(tmp_path / "other.h5", {"absLRP": (0.3, 5), "IG": (0.1, 6), "b": (0.1, 7)}, names=names)
    relprop.report([desk[0] / "run.h5", other], tmp_path / "page.html")
    words = Page(tmp_path / "page.html").words
    with Results(desk[0] / "run.h5") as first, Results(other) as second:
        expected = first.compare_runs(second).pairs
    assert sorted(pair.a.partition(",")[0] for pair in expected) == ["IG", "absLRP"]
    section = words.partition("Each method of both runs")[2].partition("Samples")[0]
    for pair in expected:
        assert pair.a in section
        assert pair.verdict in section
        assert number(pair.difference.mean) in section


@pytest.mark.full
def test_shards_are_one_run(tmp_path, no_plots):
    def shard(part):
        path = tmp_path / f"{part}.h5"
        return store_files.write_file(path, range(part, 8, 2), store_files.config(8, (part, 2)))

    paths = [shard(0), shard(1)]
    relprop.report(paths, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert [sample["index"] for sample in page.data["facts"]["samples"]] == list(range(8))
    assert "joined from 2 shards: 0.h5, 1.h5" in page.words
    alone = relprop.report(paths[:1], tmp_path / "alone.html")
    assert "4 samples" in alone.holds
    with EvaluationWriter.create(
        tmp_path / "cut.h5",
        store_files.config(8, (1, 2)),
        store_files.LAYOUT,
        range(1, 8, 2),
        methods=store_files.METHODS,
    ) as writer:
        writer.commit()
    with pytest.raises(MergeError, match=r"cut\.h5 is not complete: resume it first"):
        relprop.report([paths[0], tmp_path / "cut.h5"], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"methods": ["absLPR"]}, UnknownMethodError, "no method 'absLPR'.*absLRP"),
        ({"by": "gea"}, UnknownMethodError, "no score 'gea'.*gae"),
        ({"reference": "centre"}, UnknownMethodError, "no method 'centre'"),
        ({"pictures": "nowhere"}, AnalysisError, "no folder of pictures nowhere"),
        ({"output": "nowhere/page.html"}, OutputError, "no folder nowhere"),
        ({"output": "run.h5"}, OutputError, "the file the results are read from"),
        ({"files": []}, AnalysisError, "no file to report on"),
        ({"samples": -1}, AnalysisError, "-1 samples"),
        ({"confidence": 95}, AnalysisError, "between 0 and 1, not 95"),
    ],
)
def test_what_can_not_be_done_is_said_and_leaves_nothing(desk, monkeypatch, options, error, words):
    monkeypatch.chdir(desk[0])
    before = sorted(desk[0].rglob("*"))
    with pytest.raises(error, match=words):
        relprop.report(**{"files": "run.h5", "output": "new.html"} | options)
    assert sorted(desk[0].rglob("*")) == before


def test_thumbnails_shrink_until_they_fit():
    noise = [np.random.default_rng(k).integers(0, 256, (448, 300, 3), np.uint8) for k in range(2)]
    sides = [thumbnails.choose_side(noise, 1000, budget) for budget in (10**6, 10**7, 3 * 10**7, 10**9)]
    assert sides == sorted(sides)
    assert (sides[0], sides[-1]) == (64, 448)
    for side, budget in zip(sides[1:], (10**7, 3 * 10**7, 10**9), strict=True):
        assert 1000 * thumbnails.mean_letters(noise, side) <= budget


def test_a_page_that_is_too_small_for_all_samples_holds_the_first_ones(desk, monkeypatch):
    with relprop.Results(desk[0] / "run.h5") as results:
        whole = gallery.make_gallery([results], desk[0] / "photos", "gae", 1000, 10**9)
        monkeypatch.setattr(thumbnails, "SIDES", (224, 64))
        monkeypatch.setattr(gallery, "SIDES", (224, 64))
        letters = [sum(len(text) for text in json.dumps(images)) for images in whole.pictures]
        budget = sum(letters) // 20
        small = gallery.make_gallery([results], desk[0] / "photos", "gae", 1000, budget)
    assert small.side == 64
    assert 0 < len(small.pictures) < N
    assert len(small.facts["samples"]) == len(small.pictures)


def test_on_the_command_line(desk, monkeypatch, no_plots):
    monkeypatch.chdir(desk[0])
    result = CliRunner().invoke(app, ["report", "run.h5", "-o", "b.html", "--method", "absLRP", "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["path"] == "b.html"
    page = Page(Path("b.html"))
    assert [method["name"] for method in page.data["facts"]["methods"]] == ["absLRP"]
    assert "Paired differences" not in page.words
    Path("b.html").unlink()
