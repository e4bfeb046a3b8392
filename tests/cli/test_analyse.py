"""``relprop summary``, ``compare``, ``plot`` and ``export``, run as a user runs them."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

import relprop
from relprop.analysis.plots import draw_bars, draw_curves, draw_extremes, draw_scatter
from relprop.cli import app
from tests.helpers.evaluation_files import AUC, CLASSES, random_columns, score_columns, write_evaluation, write_pictures

run = CliRunner()
N = 12


def relprop_(*arguments):
    return run.invoke(app, [str(argument) for argument in arguments], prog_name="relprop")


def assert_one_line(result, words, code=1):
    assert result.exit_code == code, result.stderr
    assert re.fullmatch(rf"relprop: .*{words}.*\n", result.stderr), result.stderr
    assert result.stdout == ""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with an evaluation, its pictures, and one without maps."""
    folder = tmp_path_factory.mktemp("desk")
    names = [f"{k}.png" for k in range(N)]
    write_pictures(folder / "pictures", names, (24, 32))
    rng = np.random.default_rng(0)
    methods = {"absLRP": random_columns(N, 0.4, 1), "IG": random_columns(N, 0.2, 2), "random": random_columns(N, 0, 3)}
    write_evaluation(
        folder / "run.h5",
        methods,
        N,
        names=names,
        size=(24, 32),
        maps={"absLRP": rng.standard_normal((N, 24, 32))},
        failed={"IG": {2: "out of memory"}},
    )
    write_evaluation(folder / "bare.h5", methods, N)
    return folder


@pytest.fixture(autouse=True)
def here(desk, monkeypatch):
    monkeypatch.chdir(desk)


def test_summary():
    found = relprop_("summary", "run.h5")
    assert found.exit_code == 0
    with relprop.Results("run.h5") as results:
        assert found.stdout == f"{results.summary()}\n"
    machine = json.loads(relprop_("summary", "run.h5", "--method", "I*", "--method", "absLRP", "--json").stdout)
    assert [method["method"] for method in machine["methods"]] == ["absLRP", "IG"]
    assert (machine["methods"][1]["failed"], machine["samples"], machine["complete"]) == (1, N, True)
    wide, narrow = (
        json.loads(relprop_("summary", "run.h5", "--confidence", p, "--json").stdout) for p in ("0.99", "0.5")
    )
    low, high = (s["methods"][0]["scores"]["gae"]["estimate"]["low"] for s in (wide, narrow))
    assert low < high
    assert "out of memory" in relprop_("summary", "run.h5", "--failures").stdout
    failures = json.loads(relprop_("summary", "run.h5", "--failures", "--json").stdout)
    assert failures == {
        "failures": [{"sample": 20, "name": "2.png", "method": "IG", "message": "out of memory"}],
    }


def test_compare():
    found = json.loads(relprop_("compare", "run.h5", "absLRP", "IG", "--by", "faithfulness", "--json").stdout)
    a, b = (np.delete(random_columns(N, level, seed)["faithfulness"], 2) for level, seed in ((0.4, 1), (0.2, 2)))
    assert found["n"] == N - 1
    assert found["difference"]["mean"] == pytest.approx((a - b).mean())
    assert found["wins"] == (a > b).sum()
    every = relprop_("compare", "run.h5", "absLRP")
    assert every.exit_code == 0
    assert "p (Holm)" in every.stdout
    assert [row.split()[1] for row in every.stdout.splitlines()[1:3]] == ["IG", "random"]
    two = json.loads(relprop_("compare", "run.h5", "random", "IG", "absLRP", "--json").stdout)
    assert [pair["b"] for pair in two["pairs"]] == ["IG", "absLRP"]


def test_compare_takes_the_file_of_another_run():
    shutil.copy("run.h5", "again.h5")
    machine = json.loads(relprop_("compare", "run.h5", "again.h5", "-m", "IG", "--json").stdout)
    (pair,) = machine["pairs"]
    assert (pair["a"], pair["b"], pair["n"]) == ("IG, run.h5", "IG, again.h5", N - 1)
    every = relprop_("compare", "run.h5", "again.h5")
    assert every.exit_code == 0
    assert [row.split(",")[0] for row in every.stdout.splitlines()[1:4]] == ["IG", "absLRP", "random"]


def test_export(tmp_path):
    assert relprop_("export", "run.h5", "-o", tmp_path / "a.csv").exit_code == 0
    assert len(pd.read_csv(tmp_path / "a.csv")) == 3 * N
    found = json.loads(relprop_("export", "run.h5", "-o", tmp_path / "a.parquet", "--method", "IG", "--json").stdout)
    assert found["path"] == str(tmp_path / "a.parquet")
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table["method"].unique().tolist() == ["IG"]
    assert relprop_("export", "run.h5", "-o", tmp_path / "a.nc", "--maps").exit_code == 0
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as arrays:
        assert arrays.relevance.shape == (3, N, 24, 32)
    assert relprop_("export", "run.h5", "--virelay", tmp_path / "v.h5").exit_code == 0
    with h5py.File(tmp_path / "v.h5", "r") as file:
        assert file["attribution"].shape == (N, 1, 24, 32)


def test_plot(tmp_path):
    found = relprop_("plot", "run.h5", "-o", tmp_path / "plots", "--pictures", "pictures", "--count", "3")
    assert found.exit_code == 0, found.stderr
    names = ["bars", "scatter", "curves", "best-worst.absLRP"]
    assert found.stdout.split() == [str(tmp_path / "plots" / f"{name}.png") for name in names]
    for name in names:
        drawn = cv2.imread(str(tmp_path / "plots" / f"{name}.png"))
        assert min(drawn.shape[:2]) > 150
        assert drawn.std() > 10
    bare = json.loads(relprop_("plot", "bare.h5", "-o", tmp_path / "bare", "--json").stdout)
    assert len(bare["files"]) == 3
    assert "bare.h5 holds no relevance maps" in bare["remarks"][0]


def test_plot_says_how_to_get_pictures(tmp_path):
    found = relprop_("plot", "run.h5", "-o", tmp_path, "--count", "2")
    assert found.exit_code == 0
    assert found.stdout.splitlines()[-1] == (
        "4 of the best and worst samples are drawn without their pictures, which were not found: "
        'pass pictures="DIR" (--pictures DIR)'
    )


@pytest.mark.full
def test_bars_show_the_score_that_was_asked_for(tmp_path):
    auc = {"a": np.linspace(0.2, 0.4, 5), "random": np.linspace(0.7, 0.9, 5), "centre": np.linspace(0.5, 0.7, 5)}
    methods = {name: random_columns(5, 0.3, 0) | {"deletion_auc": values} for name, values in auc.items()}
    methods["without"] = random_columns(5, -0.3, 1)
    path = write_evaluation(tmp_path / "run.h5", methods, 5, metrics=(AUC,))
    with relprop.Results(path) as results:
        summary, info = results.summary(), results.score_info
        figures = [draw_bars(summary, info[by]) for by in ("deletion_auc", "unclipped", "gae")]
    further, negative, headline = figures
    assert [len(figure.axes) for figure in figures] == [4, 4, 3]
    assert [bar.get_width() for bar in further.axes[3].patches] == pytest.approx(
        [summary[method.method].mean("deletion_auc") for method in summary.methods if method.method != "without"]
    )
    dashed = [line.get_xdata()[0] for line in further.axes[3].lines if line.get_linestyle() == "--"]
    assert dashed == [pytest.approx(0.6)]  # the best control, where lower is better
    assert {"deletion_auc", "no score"} <= set(words_of(further))
    assert any("area under the curve of deletion; lower is better" in words for words in words_of(further))
    assert negative.axes[3].get_xlim()[0] < summary["without"].scores["unclipped"].estimate.low < 0
    for figure in figures:
        assert_no_overlaps(figure)
    assert relprop_("plot", path, "-o", tmp_path / "out", "--by", "deletion_auc").exit_code == 0
    drawn = [cv2.imread(str(tmp_path / "out" / "bars.png")).shape[1], headline.get_figwidth() * headline.dpi]
    assert drawn[0] > 1.2 * drawn[1]


def words_of(figure):
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        if axes.get_visible():
            texts += [text.get_text() for text in [*axes.texts, *axes.get_yticklabels()]]
            texts.append(axes.get_title(loc="left"))
    return texts


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("count", [1, 12])
def test_plots_of_one_and_of_many_methods(tmp_path, count):
    names = ["random", *(f"a-method-of-a-rather-long-name:option={k}" for k in range(1, count))]
    columns = {name: random_columns(5, 0.05 * k, k) for k, name in enumerate(names)}
    with relprop.Results(write_evaluation(tmp_path / "run.h5", columns, 5)) as results:
        summary = results.summary()
        bars, scatter, curves = draw_bars(summary), draw_scatter(results, summary), draw_curves(results, summary)
    assert f"{summary['random'].mean('gae'):.3f}" in words_of(bars)
    assert "random (chance)" in words_of(bars)
    widths = [bar.get_width() for bar in bars.axes[2].patches]
    assert widths == [pytest.approx(method.mean("gae")) for method in summary.methods]
    assert sum(axes.get_visible() for axes in scatter.axes) == count
    assert sum(axes.get_visible() for axes in curves.axes) == count + 1
    model = curves.axes[0].get_lines()
    np.testing.assert_allclose(model[0].get_ydata(), results_mean(5)[0])
    np.testing.assert_allclose(model[1].get_ydata(), results_mean(5)[1])
    for figure in (bars, scatter, curves):
        assert max(figure.get_size_inches()) < 20
        assert_no_overlaps(figure)


def results_mean(n):
    falling = np.linspace(0.9, 0.1, 10)
    return np.stack([falling**2, np.sqrt(falling)]) * np.linspace(0.5, 1, n).mean()


def assert_no_overlaps(figure):
    """Neither names of panels nor of rows run into each other or out of the figure."""
    figure.canvas.draw()
    whole = figure.bbox
    boxes = [text.get_window_extent() for text in figure.texts]
    for axes in figure.axes:
        if axes.get_visible():
            ticks = [
                label
                for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim())))
                for place, label in zip(
                    axis.get_ticklocs(), axis.get_ticklabels(), strict=False
                )  # shared axes have none
                if low <= place <= high  # others are not drawn
            ]
            labels = [axes._left_title, axes.xaxis.label, axes.yaxis.label, *ticks]
            boxes += [text.get_window_extent() for text in labels if text.get_visible() and text.get_text()]
    boxes = [box.padded(-1) for box in boxes if box.width > 3]
    for k, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= whole.x1 and box.y0 >= 0 and box.y1 <= whole.y1  # noqa: PT018
        assert not [other for other in boxes[k + 1 :] if box.overlaps(other)]


def test_plots_of_what_has_no_scores(tmp_path):
    nothing = {name: np.full(4, np.nan) for name in score_columns(0, 0, 0)}
    maps = {"a": np.zeros((4, 6, 8))}
    with relprop.Results(write_evaluation(tmp_path / "run.h5", {"a": nothing}, 4, maps=maps)) as results:
        summary = results.summary()
        assert "no score" in words_of(draw_bars(summary))
        assert "no scores" in words_of(draw_scatter(results, summary))
        draw_curves(results, summary)
        assert draw_extremes(results, "a") is None
    done = relprop_("plot", tmp_path / "run.h5", "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert "none has gae" in done.stdout


def test_the_sheet_shows_the_best_and_the_worst(desk):
    gae = random_columns(N, 0.4, 1)["gae"]
    with relprop.Results("run.h5") as results:
        whole = draw_extremes(results, "absLRP", k=2, pictures=desk / "pictures")
        targets = results.samples.target
        bare = draw_extremes(results[:3], "absLRP", k=5)
    sheet, alone = words_of(whole.figure), words_of(bare.figure)
    assert (whole.without, bare.without) == (frozenset(), {0, 10, 20})
    falling = np.argsort(-gae)
    for word in (f"best by GAE: {gae.max():.3f}", f"{gae[falling[1]]:.3f}", f"worst by GAE: {gae.min():.3f}"):
        assert word in sheet
    assert any(word.startswith(CLASSES[targets[falling[0]]]) for word in sheet)
    assert not any("not found" in word for word in sheet)
    assert any("3 pictures were not found by their names" in word for word in alone)
    assert not any("worst" in word for word in alone)


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ("summary none.h5", "there is no file none.h5", 1),
        ("summary pictures/0.png", "is not an HDF5 file", 1),
        ("summary run.h5 --method absLPR", "no method 'absLPR'; near names: absLRP", 1),
        ("summary run.h5 --confidence 2", "between 0 and 1", 1),
        ("summary", "Missing argument 'FILE'.*See relprop summary --help", 2),
        ("compare run.h5 absLRP absLRP", "can't be compared with itself", 1),
        ("compare run.h5 absLRP IG --by gea", "no score 'gea'; near names: gae", 1),
        ("export run.h5 -o a.xls", "one of the suffixes", 1),
        ("export run.h5 -o none/a.csv", "there is no folder none", 1),
        ("export run.h5 -o run.h5", "one of the suffixes", 1),
        ("export run.h5", "say what to write", 1),
        ("export bare.h5 --virelay v.h5", "holds no relevance maps: to keep them, evaluate with", 1),
        ("export run.h5 --virelay run.h5", "the file the results are read from", 1),
        ("plot run.h5", "--output.*See relprop plot --help", 2),
        ("plot run.h5 -o plots --by gea", "no score 'gea'; near names: gae", 1),
        ("plot run.h5 -o run.h5", "cannot write to run.h5", 1),
    ],
)
def test_misuse_is_told_in_one_line(arguments, words, code, desk):
    before = sorted(desk.rglob("*"))
    assert_one_line(relprop_(*shlex.split(arguments)), words, code)
    assert sorted(desk.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        ("summary run.h5", "scipy"),
        ("export run.h5 -o a.csv", "pandas"),
        ("export run.h5 -o a.parquet", "pyarrow"),
        ("export run.h5 -o a.nc", "xarray"),
        ("export run.h5 -o a.nc", "h5netcdf"),
    ],
)
def test_a_missing_package_is_told_with_its_extra(arguments, package, monkeypatch, desk):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)

    class Blocked:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Blocked, *sys.meta_path])
    before = sorted(desk.rglob("*"))
    assert_one_line(relprop_(*shlex.split(arguments)), rf'needs {package}: pip install "relprop\[analysis\]"')
    assert sorted(desk.rglob("*")) == before


@pytest.mark.sweep(every=9)
@pytest.mark.parametrize("command", ["summary", "compare", "plot", "report", "export"])
def test_help_has_an_example_that_runs(command, tmp_path):
    text = relprop_(command, "--help").stdout
    example = shlex.split(re.search(r"Example: relprop (.*)$", " ".join(text.split()))[1])
    names = {
        "abslrp": "absLRP",
        "captum.IntegratedGradients": "IG",
        "holiday/": "pictures",
        "plots": tmp_path,
        "scores.csv": tmp_path / "a.csv",
        "report.html": tmp_path / "report.html",
    }
    result = relprop_(*(names.get(word, word) for word in example))
    assert result.exit_code == 0, result.stderr


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from relprop.cli import app
app(sys.argv[1:])
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
@pytest.mark.parametrize("arguments", ["-o a.nc --maps", "--virelay v.h5"])
def test_a_full_disk_leaves_nothing_behind(arguments, desk):
    before = sorted(desk.rglob("*"))
    command = [sys.executable, "-c", FULL, "export", "run.h5", *shlex.split(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"relprop: cannot write (a.nc|v.h5): File too large\n", done.stderr)
    assert sorted(desk.rglob("*")) == before
