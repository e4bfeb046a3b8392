"""`relprop.Results`: what is read back, summarised and compared, against SciPy, pandas and plain arrays."""

import itertools
import json
import math
import subprocess
import sys
import warnings
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import relprop
from relprop.analysis import AnalysisError, MissingMapsError, UnknownMethodError
from relprop.analysis.exports import export
from relprop.analysis.plots.data_pictures import as_seen
from relprop.analysis.reports.statistics import LARGE, estimate_mean, holm, signed_rank_p
from relprop.analysis.virelay import export_virelay
from relprop.files import OutputError
from relprop.store import MissingFileError, State
from tests.helpers.evaluation_files import AUC, CLASSES, random_columns, score_columns, write_evaluation, write_pictures

N = 30


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(5)
    auc = rng.random(N)
    return {
        "absLRP": random_columns(N, 0.4, 1) | {"deletion_auc": auc, "flags": np.where(np.arange(N) % 10 == 0, 3, 0)},
        "IG": random_columns(N, 0.2, 2),
        "random": random_columns(N, 0.0, 3),
    }


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(6)
    return {"absLRP": rng.standard_normal((N, 6, 8)), "IG": rng.standard_normal((N, 3, 6, 8))}


@pytest.fixture(scope="module")
def path(tmp_path_factory, columns, maps):
    return write_evaluation(
        tmp_path_factory.mktemp("results") / "run.h5",
        columns,
        N,
        maps=maps,
        metrics=(AUC,),
        failed={"IG": {4: "out of memory", 7: "NaN in the map"}, "": {9: "cannot decode"}},
        labels=[-1 if k == 3 else k % len(CLASSES) for k in range(N)],
    )


@pytest.fixture(scope="module")
def results(path):
    with relprop.Results(path) as found:
        yield found


def test_scores_are_read_back_where_the_sample_is_done(results, columns):
    np.testing.assert_array_equal(results.scores("absLRP")["gae"], columns["absLRP"]["gae"])
    expected = columns["IG"]["robustness"].copy()
    expected[[4, 7]] = np.nan
    np.testing.assert_array_equal(results["IG"].scores()["robustness"], expected)
    assert list(results.score_info)[-2:] == ["gae", "deletion_auc"]
    assert results.score_info["deletion_auc"].direction == "lower is better"
    assert "deletion_auc" not in results.scores("IG")


def test_selection_by_method_and_sample(results, columns):
    assert results.methods == ("IG", "absLRP", "random")
    assert (len(results), len(results[10:20]), len(results[-1]), len(results[[3, 1]])) == (N, 10, 1, 2)
    np.testing.assert_array_equal(results[[3, 1]].samples.index, [30, 10])
    np.testing.assert_array_equal(results[10:20][5].score("gae", "absLRP"), columns["absLRP"]["gae"][[15]])
    chosen = results.select(methods=["abs*", "random"], samples=[50, 20])
    assert chosen.methods == ("absLRP", "random")
    np.testing.assert_array_equal(chosen.score("gae", "absLRP"), columns["absLRP"]["gae"][[5, 2]])
    even = results[results.samples.index % 20 == 0]
    np.testing.assert_array_equal(even.samples.index, np.arange(0, 10 * N, 20))
    np.testing.assert_array_equal(results.select(state="failed").samples.index, [40, 70, 90])
    assert len(results.select(state="done")) == N - 3
    np.testing.assert_array_equal(results.select(methods="absLRP", state="failed").samples.index, [90])
    assert len(results.select(state="absent")) == 0
    assert [len(one) for one in results[:3]] == [1, 1, 1]
    assert results[["IG", "random"]].methods == ("IG", "random")


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda r: r["absLPR"], UnknownMethodError, "no method 'absLPR'; near names: absLRP"),
        (lambda r: r.select(methods=["x*"]), UnknownMethodError, "there are IG, absLRP, random"),
        (lambda r: r.scores(), AnalysisError, "say which method: IG, absLRP, random"),
        (lambda r: r.score("gea", "IG"), UnknownMethodError, "IG has no score 'gea'; near names: gae"),
        (lambda r: r.select(samples=[5]), AnalysisError, "no sample 5 among the 30"),
        (lambda r: r.select(state="ready"), AnalysisError, "done, failed or absent, not 'ready'"),
        (lambda r: r[[True, False]], AnalysisError, "truth values do not select from 30"),
        (lambda r: r[1.5], AnalysisError, "selected by integers"),
        (lambda r: r.relevance("random"), MissingMapsError, "no relevance maps of random: to keep them"),
        (lambda r: r.compare("IG", "IG"), AnalysisError, "can't be compared with itself"),
        (lambda r: r["IG"].compare_all("IG"), AnalysisError, "no other method"),
        (lambda r: r.best(0, "IG"), AnalysisError, "at least one"),
        (lambda r: r.summary(confidence=95), AnalysisError, "between 0 and 1"),
    ],
)
def test_bad_questions_are_answered_in_words(results, ask, error, words):
    with pytest.raises(error, match=words.replace("*", r"\*")):
        ask(results)


def test_files_that_are_missing_or_closed(tmp_path, path):
    with pytest.raises(MissingFileError):
        relprop.Results(tmp_path / "none.h5")
    with relprop.Results(path) as results:
        pass
    assert repr(results).endswith("closed")
    with pytest.raises(AnalysisError, match="was closed"):
        results.scores("IG")


def test_maps_and_masks(results, maps):
    scale = np.abs(maps["absLRP"]).max((1, 2))
    found = results.relevance("absLRP")
    assert found.dtype == np.float32
    assert (np.abs(found - maps["absLRP"]).max((1, 2)) < 1e-3 * scale).all()
    np.testing.assert_array_equal(results[[8, 3]].relevance("absLRP"), found[[8, 3]])
    coloured = results.relevance("IG")
    assert coloured.shape == (N, 3, 6, 8)
    assert np.isnan(coloured[[4, 7]]).all()
    assert np.isfinite(np.delete(coloured, [4, 7], 0)).all()
    with h5py.File(results.path, "r") as file:
        np.testing.assert_array_equal(results[5:9].impact(), file["samples/impact"][5:9])
        steps = file["samples/steps"][2]
    # 48 pixels: states mask round(4.8 t) of them here, as the writer of this file cut a permutation.
    for state in range(10):
        np.testing.assert_array_equal(results[2].masked("lerf", state)[0], steps[1] <= state)
    assert not results.masked("morf", 0).any()
    assert results.probability().shape == (N, 2, 10)
    assert np.isnan(results.probability()[9]).all()
    assert results.map_change("IG").shape == (N, 2, 9)
    assert results.output().shape == (N, len(CLASSES))


def test_repr_tells_what_is_inside(results):
    lines = repr(results).splitlines()
    assert lines[0].endswith("30 samples, complete")
    assert lines[2].split() == ["IG", "28", "2", "0", "yes"]
    assert lines[4].split() == ["random", "30", "0", "0", "no"]


def test_failures_best_and_worst(results, columns):
    failures = results.failures()
    assert [(f.sample, f.method, f.message) for f in failures.entries] == [
        (40, "IG", "out of memory"),
        (70, "IG", "NaN in the map"),
        (90, "", "cannot decode"),
    ]
    assert "masking run" in str(failures)
    gae = columns["absLRP"]["gae"]
    assert results.best(4, "absLRP").samples == [int(k) * 10 for k in np.argsort(-gae, kind="stable")[:4]]
    assert results.worst(4, "absLRP").samples == [int(k) * 10 for k in np.argsort(gae, kind="stable")[:4]]
    auc = columns["absLRP"]["deletion_auc"]
    best = results.best(1, "absLRP", by="deletion_auc").entries[0]
    assert (best.sample, best.value) == (10 * int(auc.argmin()), auc.min())
    ranked = results["IG"].best(100)
    assert len(ranked) == N - 2
    assert not {40, 70} & set(ranked.samples)
    chance = columns["random"]
    zeros = [k for k in range(N) if chance["gae"][k] == 0]
    zeros.sort(key=lambda k: (chance["unclipped"][k], chance["contrastiveness_raw"][k]))
    worst = results.worst(3, "random")
    assert worst.samples == [10 * k for k in zeros[:3]], "what is cut off at 0 is in the order before that"
    assert worst.ties == len(zeros) > 3
    assert str(worst).splitlines()[0] == f"worst 3 of random by gae; {len(zeros)} samples tie at 0.000"
    lines = str(worst).splitlines()
    assert lines[1].split() == ["sample", "name", "label", "target", "gae", "LC", "C"]
    assert lines[2].split()[-2:] == [
        f"{chance[name][zeros[0]]:.3f}" for name in ("local_consistency", "contrastiveness")
    ]
    assert json.loads(json.dumps(ranked.as_dict(), allow_nan=False))["entries"][0]["sample"] == ranked.samples[0]


def test_summary_against_scipy_on_the_plain_arrays(results, columns):
    summary = results.summary(seed=4)
    found = summary["absLRP"]
    for name in ("gae", "robustness", "contrastiveness_raw", "unclipped", "deletion_auc"):
        values = columns["absLRP"][name]
        oracle = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(4))
        score = found.scores[name]
        assert score.estimate.interval == "BCa"
        assert score.estimate.mean == pytest.approx(values.mean(), abs=1e-15)
        assert score.median == np.median(values)
        assert (score.estimate.low, score.estimate.high) == pytest.approx(oracle.confidence_interval, abs=1e-12)
    known = np.delete(columns["IG"]["gae"], [4, 7])
    assert summary["IG"].scores["gae"].estimate.mean == pytest.approx(known.mean(), abs=1e-15)
    assert (summary["IG"].done, summary["IG"].failed, summary["IG"].absent) == (28, 2, 0)
    assert found.flagged == {"faithfulness": 3, "robustness": 3}
    assert [m.control for m in summary.methods] == [m.method == "random" for m in summary.methods]
    assert [m.method for m in summary.methods] == ["absLRP", "IG", "random"]  # by falling GAE
    text = str(summary)
    assert "random (chance)" in text
    assert f"{known.mean():.3f} [" in text
    assert json.loads(json.dumps(summary.as_dict(), allow_nan=False))["methods"][0]["control"] is False
    assert str(results.summary(seed=4)) == text


def test_clipping_hides_what_is_below_chance(tmp_path):
    values = score_columns(np.full(8, -0.5), np.linspace(-0.4, 0.2, 8), np.linspace(-0.9, 0.1, 8))
    with relprop.Results(write_evaluation(tmp_path / "run.h5", {"bad": values}, 8)) as results:
        scores = results.summary()["bad"].scores
    assert scores["local_consistency"].estimate.mean == 0
    assert scores["unclipped"].estimate.high < 0
    assert scores["contrastiveness_raw"].estimate.mean == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("values", "mean", "interval"),
    [
        ([], math.nan, "no values"),
        ([np.nan, np.nan], math.nan, "no values"),
        ([0.5], 0.5, "too few values"),
        ([0.25, 0.75], 0.5, "too few values"),
        ([0.1] * 9, 0.1, "all values are equal"),
        ([0.0, 0.0, 1.0], 1 / 3, None),
        ([0.0] * 40 + [1e-300], 0.0, None),
    ],
)
def test_degenerate_values_give_honest_estimates(values, mean, interval):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate_mean(values)
    assert found.mean == pytest.approx(mean, nan_ok=True)
    if interval is None:
        assert found.interval in ("BCa", "percentile")
        assert found.low <= found.mean <= found.high
    else:
        assert found.interval == interval
        assert math.isnan(found.low)
        assert math.isnan(found.high)


def test_many_values_take_students_interval():
    values = np.random.default_rng(0).random(LARGE + 1)
    found = estimate_mean(values)
    oracle = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def wilcoxon_by_hand(differences):
    """All signs of the ranks are equally likely: count those at least as extreme as what was seen."""
    ranks = stats.rankdata(np.abs(differences))
    seen = abs((np.sign(differences) * ranks).sum())
    sums = [abs(np.dot(signs, ranks)) for signs in itertools.product((-1, 1), repeat=len(ranks))]
    return np.mean([value >= seen - 1e-9 for value in sums])


def test_comparison_against_pandas_and_by_hand(results, columns, tmp_path):
    found = results.compare("absLRP", "IG", seed=2)
    frame = pd.DataFrame({"a": columns["absLRP"]["gae"], "b": columns["IG"]["gae"]}).drop([4, 7])
    difference = frame.a - frame.b
    oracle = stats.bootstrap((difference.to_numpy(),), np.mean, method="BCa", rng=np.random.default_rng(2))
    assert (found.n, found.unpaired) == (28, 2)
    assert (found.mean_a, found.mean_b) == pytest.approx((frame.a.mean(), frame.b.mean()))
    assert found.median_difference == pytest.approx(difference.median())
    assert (found.difference.low, found.difference.high) == pytest.approx(oracle.confidence_interval, abs=1e-12)
    assert found.p == pytest.approx(stats.wilcoxon(frame.a, frame.b).pvalue)
    assert (found.wins, found.losses) == ((difference > 0).sum(), (difference < 0).sum())
    assert found.win_rate == pytest.approx((difference > 0).mean())
    assert found.verdict.startswith("absLRP is better than IG in gae, by ")
    back = results.compare("IG", "absLRP", seed=2)
    assert back.difference.mean == pytest.approx(-found.difference.mean)
    assert (back.wins, back.losses, back.p) == (found.losses, found.wins, pytest.approx(found.p))

    a = score_columns([0.5, 0.6, 0.7, 0.2, 0.9, 0.3, 0.8], [0.5] * 7, [0.8] * 7)
    b = score_columns([0.4, 0.65, 0.4, 0.1, 0.9, 0.05, 0.2], [0.5] * 7, [0.8] * 7)
    with relprop.Results(write_evaluation(tmp_path / "few.h5", {"a": a, "b": b}, 7)) as few:
        small = few.compare("a", "b", by="faithfulness")
    assert (small.wins, small.ties, small.losses, small.win_rate) == (5, 1, 1, 5.5 / 7)
    assert signed_rank_p([0.1, -0.05, 0.3, 0.12, 0.25, 0.6]) == pytest.approx(
        wilcoxon_by_hand([0.1, -0.05, 0.3, 0.12, 0.25, 0.6])
    )


def test_where_lower_is_better_the_lower_wins(tmp_path):
    low, high = {"deletion_auc": np.linspace(0.1, 0.3, 9)}, {"deletion_auc": np.linspace(0.5, 0.9, 9)}
    methods = {"low": random_columns(9, 0.2, 0) | low, "high": random_columns(9, 0.2, 1) | high}
    with relprop.Results(write_evaluation(tmp_path / "run.h5", methods, 9, metrics=(AUC,))) as results:
        found = results.compare("low", "high", by="deletion_auc")
    assert found.difference.mean < 0
    assert found.win_rate == 1
    assert found.verdict.startswith("low is better than high in deletion_auc")


def test_several_comparisons_are_adjusted_by_holm(results):
    found = results.compare_all("absLRP")
    single = {b: results.compare("absLRP", b).p for b in ("IG", "random")}
    first, second = sorted(single, key=single.__getitem__)
    assert found[first].p == pytest.approx(2 * single[first])
    assert found[second].p == pytest.approx(max(2 * single[first], single[second]))
    assert [pair.b for pair in found.pairs] == ["IG", "random"]
    assert "p (Holm)" in str(found)
    json.dumps(found.as_dict(), allow_nan=False)
    # Holm's own example: 0.01, 0.04, 0.03 and 0.005 of four tests.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, math.nan, 0.8]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)


def test_a_method_is_better_only_where_the_adjusted_test_says_so_too(tmp_path):
    base = np.full(7, 0.5)
    small = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07])
    gae = {"a": base + small, "b": base, "c": base + 0.5 * small, "d": base + 0.2 * small, "e": base - small}
    methods = {name: random_columns(7, 0.3, 0) | {"gae": values} for name, values in gae.items()}
    with relprop.Results(write_evaluation(tmp_path / "run.h5", methods, 7)) as results:
        single, several = results.compare("a", "b"), results.compare_all("a")["b"]
        outlier = np.array([-1.0, 0.1, 0.11, 0.12, 0.13, 0.14, 0.15])
        other = replace(single, difference=estimate_mean(outlier), p=0.01)
    assert (single.p, several.p) == (pytest.approx(2 / 2**7), pytest.approx(8 / 2**7))
    assert single.verdict.startswith("a is better than b in gae")
    assert several.verdict == (
        "whether a and b differ in gae is not settled on 7 samples: the interval of the difference leaves zero out, "
        "but the signed-rank test with Holm's correction finds none (p = 0.062)"
    )
    assert other.verdict.endswith(
        "the signed-rank test finds a difference (p = 0.010), but its interval does not leave zero out"
    )


@pytest.mark.parametrize(
    ("n", "difference", "words"),
    [
        (5, 0.0, "have the same gae on 5 samples"),
        (6, 0.1, "a is better than b in gae"),
        (5, 0.1, "is not settled on 5 samples: the difference is the same on all of them, but the signed-rank test"),
        (1, 0.1, "on 1 sample nothing can be told"),
        (2, 0.1, "on 2 samples nothing can be told"),
        (5, math.nan, "no sample has gae of both"),
    ],
)
def test_degenerate_comparisons(tmp_path, n, difference, words):
    base = random_columns(n, 0.3, 0)
    other = base | {"gae": base["gae"] * 0 + 0.5}
    one = base | {"gae": base["gae"] * 0 + 0.5 + difference}
    path = write_evaluation(tmp_path / "run.h5", {"a": one, "b": other}, n)
    with relprop.Results(path) as results, warnings.catch_warnings():
        warnings.simplefilter("error")
        found, summary = results.compare("a", "b"), results.summary()
    assert words in found.verdict
    assert "nan" not in str(found) + str(summary)
    json.dumps([found.as_dict(), summary.as_dict()], allow_nan=False)


def test_a_file_without_scores_or_samples(tmp_path):
    nothing = {name: np.full(4, np.nan) for name in score_columns(0, 0, 0)}
    with relprop.Results(write_evaluation(tmp_path / "run.h5", {"a": nothing}, 4, finish=False)) as results:
        assert not results.complete
        summary = results.summary()
        assert math.isnan(summary["a"].scores["gae"].estimate.mean)
        assert summary["a"].scores["gae"].undefined == 4
        assert len(results.best(3, "a")) == 0
        assert results[:0].summary()["a"].done == 0
        assert results[:0].to_pandas().empty
        assert len(results.select(methods=[]).to_pandas()) == 0


def test_a_table_has_one_row_for_each_sample_and_method(results, columns):
    table = results.to_pandas()
    assert len(table) == 3 * N
    wide = table.pivot(index="sample", columns="method", values="gae")
    np.testing.assert_array_equal(wide["absLRP"], columns["absLRP"]["gae"])
    row = table[(table["method"] == "IG") & (table["sample"] == 40)].iloc[0]
    assert (row["state"], row["message"], row["name"]) == ("failed", "out of memory", "picture-4.png")
    assert np.isnan(row["gae"])
    assert not row["control"]
    assert table.label.isna().sum() == 3
    assert set(table.target_name) <= set(CLASSES)
    assert results[2:4]["IG"].to_pandas()["sample"].tolist() == [20, 30]


def test_labelled_arrays(results, columns, maps):
    arrays = results.to_xarray(maps=True)
    assert dict(arrays.sizes) | {"attribution": 3, "sample": N} == dict(arrays.sizes)
    np.testing.assert_array_equal(arrays.gae.sel(attribution="absLRP"), columns["absLRP"]["gae"])
    assert arrays.gae.attrs["direction"] == "higher is better"
    assert arrays.relevance.dims == ("attribution", "sample", "y", "x")
    np.testing.assert_allclose(arrays.relevance.sel(attribution="IG")[0], maps["IG"][0].sum(0), atol=0.01)
    assert np.isnan(arrays.relevance.sel(attribution="random")).all()
    assert int(arrays.state.sel(attribution="IG", sample=40)) == State.FAILED
    assert arrays.probability.sel(order="lerf", masking_state=0).shape == (N,)
    assert np.isnan(arrays.deletion_auc.sel(attribution="random")).all()
    with pytest.raises(MissingMapsError):
        results["random"].to_xarray(maps=True)


@pytest.mark.full
def test_exports_are_read_back_by_others(results, columns, tmp_path):
    expected = results.to_pandas()
    assert export(results, tmp_path / "a.csv").holds.startswith("90 rows")
    csv = pd.read_csv(tmp_path / "a.csv")
    assert list(csv.columns) == list(expected.columns)
    np.testing.assert_array_equal(csv.gae, expected.gae)
    export(results, tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), expected, check_dtype=False)
    export(results, tmp_path / "a.nc", maps=True)
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as arrays:
        np.testing.assert_array_equal(arrays.gae.sel(attribution="IG"), results.score("gae", "IG"))
        np.testing.assert_array_equal(arrays.steps, results.steps())
        assert json.loads(arrays.attrs["config"]) == results.config
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a.csv", "a.nc", "a.parquet"]


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("a.xls", {}, AnalysisError, "one of the suffixes .csv"),
        ("a.csv", {"maps": True}, AnalysisError, "no maps: write them as netCDF"),
        ("none/a.csv", {}, OutputError, "there is no folder"),
    ],
)
def test_exports_that_can_not_be(results, tmp_path, name, options, error, words):
    with pytest.raises(error, match=words):
        export(results, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_a_virelay_database_has_its_layout(results, maps, tmp_path):
    written = export_virelay(results, tmp_path / "v.h5", "absLRP")
    rows = np.delete(np.arange(N), 9)  # its masking run failed
    samples = results.samples
    with h5py.File(tmp_path / "v.h5", "r") as file:
        kinds = {name: (data.dtype.name, data.shape) for name, data in file.items()}
        assert kinds == {
            "attribution": ("float32", (N - 1, 1, 6, 8)),
            "prediction": ("float32", (N - 1, len(CLASSES))),
            "label": ("uint16", (N - 1,)),
            "index": ("uint32", (N - 1,)),
        }
        np.testing.assert_array_equal(file["index"], samples.index[rows])
        labels = np.where(samples.label < 0, samples.target, samples.label)
        np.testing.assert_array_equal(file["label"], labels[rows])
        np.testing.assert_allclose(file["attribution"][:, 0], maps["absLRP"][rows], atol=0.005)
        np.testing.assert_array_equal(file["prediction"], results.output()[rows].astype(np.float32))
    assert written.remark.startswith("1 samples have no label")
    export_virelay(results["IG"], tmp_path / "i.h5")
    with h5py.File(tmp_path / "i.h5", "r") as file:
        assert file["attribution"].shape == (N - 3, 3, 6, 8)
    with pytest.raises(AnalysisError, match="say which: IG, absLRP"):
        export_virelay(results, tmp_path / "x.h5")
    with pytest.raises(MissingMapsError):
        export_virelay(results["random"], tmp_path / "x.h5")
    with pytest.raises(OutputError, match="the file the results are read from"):
        export_virelay(results, results.path, "IG")
    assert not (tmp_path / "x.h5").exists()


def test_where_the_model_looked_is_read_from_its_transform():
    ramp = np.zeros((128, 256, 3), np.uint8)
    ramp[..., 0] = np.arange(256)
    # The short side becomes 256, so the picture 256 x 512, of which the middle 224 x 224 is seen.
    timm = "Compose(\n    Resize(size=256, interpolation=bicubic)\n    CenterCrop(size=(224, 224))\n)"
    preset = "ImageClassification(\n    crop_size=[224]\n    resize_size=[256]\n)"
    for words in (timm, preset):
        seen = as_seen(ramp, words, (224, 224))
        assert seen.shape == (112, 112, 3)
        assert (seen[0, 0, 0], seen[0, -1, 0]) == (72, 183)
    assert as_seen(ramp, "Resize(size=(224, 224))", (224, 224)) is ramp
    assert as_seen(ramp, None, (224, 224)) is None
    assert as_seen(ramp, timm + "RandomRotation(degrees=3)", (224, 224)) is None
    assert as_seen(ramp, None, (128, 256)) is ramp


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
import relprop
from relprop.analysis.exports import export
from relprop.analysis.plots import plot
with relprop.Results(sys.argv[1]) as results:
    print(results.summary(), results.compare("absLRP", "IG"), sep="\\n")
    export(results, sys.argv[2] + "/a.csv")
    export(results, sys.argv[2] + "/a.nc")
    plot(results["absLRP"], sys.argv[2])
from relprop.cli import app
for name in ("explain", "capture"):
    try:
        getattr(relprop, name)
    except ImportError as error:
        print(error)
try:
    app(["summary", sys.argv[1], "--method", "random"])
except SystemExit as left:
    assert not left.code
try:
    app(["check"])
except SystemExit as left:
    print(left.code)
"""


@pytest.mark.full
def test_results_are_read_where_torch_is_not_installed(path, results, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(path), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(results.summary()))
    assert "relprop.explain needs PyTorch, which is not installed: pip install torch" in done.stdout
    assert "relprop.capture needs PyTorch" in done.stdout
    assert done.stdout.endswith("\n1\n")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("relprop: this command needs PyTorch, which is not installed")
    assert {"a.csv", "a.nc", "bars.png", "curves.png", "scatter.png", "best-worst.absLRP.png"} == {
        file.name for file in tmp_path.iterdir()
    }


@pytest.mark.full
def test_public_names_are_lazy_and_ordinary():
    script = (
        "import sys, relprop, relprop.cli\n"
        "assert not {'torch', 'cv2', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules), sorted(sys.modules)\n"
        "assert set(relprop.__all__) <= set(dir(relprop))\n"
        "assert relprop.__version__ and relprop.gae.score and relprop.models.load_classifier and relprop.store\n"
        "import relprop.tracing.capture, relprop.verification.check\n"
        "assert callable(relprop.capture) and callable(relprop.check)\n"
        "assert all(getattr(relprop, name) is not None for name in relprop.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="module 'relprop' has no attribute 'explian'"):
        _ = relprop.explian


def test_pictures_of_the_sheet_are_found(tmp_path):
    from relprop.analysis.plots.data_pictures import find_picture

    (written,) = write_pictures(tmp_path / "data", ["a.png"], (6, 8))
    assert find_picture(written, tmp_path / "data").shape == (6, 8, 3)
    assert find_picture(written, tmp_path).shape == (6, 8, 3)
    for name in (written, "../data/a.png", "..", "a" * 5000, "a\0b", "", "/"):
        assert find_picture(name, tmp_path / "other") is None
        assert find_picture(name, None) is None
    assert find_picture("a.png", tmp_path / "data") is not None
    assert find_picture("elsewhere/a.png", tmp_path / "data") is not None
    assert find_picture("a.png", None) is None
    (tmp_path / "data" / "b.png").write_bytes(b"no picture")
    assert find_picture("b.png", tmp_path / "data") is None
