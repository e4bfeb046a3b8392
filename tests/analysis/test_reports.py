"""What prints itself, two runs beside each other, and plots that are not files."""

import json
import re
from html import unescape

import numpy as np
import pytest

import relprop
from relprop.analysis import AnalysisError, UnknownMethodError
from relprop.analysis.reports.statistics import holm, signed_rank_p
from tests.helpers.evaluation_files import random_columns, write_evaluation

N = 12
NAMES = [f"{k}.png" for k in range(N)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the same pictures, the second one in another order and with one picture of its own."""
    folder = tmp_path_factory.mktemp("runs")
    first = {"abslrp": random_columns(N, 0.4, 1), "captum.IG:n_steps=8": random_columns(N, 0.3, 2)}
    second = {"abslrp": random_columns(N, 0.2, 3), "gradient": random_columns(N, 0.1, 4)}
    write_evaluation(folder / "a.h5", first, N, names=NAMES)
    write_evaluation(folder / "b.h5", second, N, names=[*NAMES[:0:-1], "other.png"])
    with relprop.Results(folder / "a.h5") as a, relprop.Results(folder / "b.h5") as b:
        yield a, b, first["abslrp"]["gae"][1:], second["abslrp"]["gae"][-2::-1]


def test_two_runs_are_compared_on_the_samples_of_both(runs):
    a, b, left, right = runs
    (pair,) = a.compare_runs(b).pairs
    assert (pair.a, pair.b, pair.n) == ("abslrp, a.h5", "abslrp, b.h5", N - 1), "the model is the same: files are named"
    assert pair.difference.mean == pytest.approx((left - right).mean())
    assert (pair.wins, pair.losses) == ((left > right).sum(), (left < right).sum())
    assert pair.p == pytest.approx(holm([signed_rank_p(left - right)])[0])


def test_runs_without_anything_in_common_are_refused(runs, tmp_path):
    a, b, *_ = runs
    with pytest.raises(AnalysisError, match=r"no method is in both files: .* has captum\.IG:n_steps=8"):
        a["captum.IG"].compare_runs(b["gradient"])
    write_evaluation(tmp_path / "c.h5", {"abslrp": random_columns(4, 0, 0)}, 4, names=list("wxyz"))
    with relprop.Results(tmp_path / "c.h5") as c, pytest.raises(AnalysisError, match="no sample in common"):
        a.compare_runs(c)


def test_a_method_is_named_as_it_was_evaluated_or_without_its_options(runs):
    a, *_ = runs
    for name in ("captum.IG:n_steps=8", "captum.IG", "captum.*"):
        assert a[name].methods == ("captum.IG:n_steps=8",)
    assert a.compare("abslrp", "captum.IG").b == "captum.IG:n_steps=8"
    with pytest.raises(UnknownMethodError, match=r"no method 'captum\.SG'; there are abslrp, captum"):
        a.compare("abslrp", "captum.SG")


def test_everything_prints_itself_and_html_holds_every_number_of_the_text(runs):
    a, b, *_ = runs
    shown = [
        a, a.summary(), a.compare("abslrp", "captum.IG"), a.compare_all("abslrp"), a.compare_runs(b),
        a.best(3, "abslrp"), a.worst(3, "abslrp"), a.failures(),
    ]  # fmt: skip
    for report in shown:
        text = str(report)
        assert repr(report) == text
        html = unescape(re.sub(r"<[^>]+>", " ", report._repr_html_()))
        number = re.compile(r"[-+]?[0-9][0-9.e%/+-]*")
        assert sorted(number.findall(html)) == sorted(number.findall(text))
        assert "<table>" in report._repr_html_() or report is shown[-1]


@pytest.mark.full
def test_plots_show_themselves_and_need_no_folder(runs):
    drawn = runs[0].plot()
    assert list(drawn.figures) == ["bars", "scatter", "curves"]
    assert drawn._repr_html_().count("data:image/png;base64,") == 3
    assert str(drawn).splitlines()[:3] == list(drawn.figures)
    assert drawn.files == ()
    assert json.dumps(drawn.as_dict())


def test_ties_of_the_best_are_told_too(tmp_path):
    same = {name: np.full(6, 0.25) for name in random_columns(6, 0, 0)}
    write_evaluation(tmp_path / "same.h5", {"flat": same}, 6)
    with relprop.Results(tmp_path / "same.h5") as results:
        found = results.best(2, "flat")
    assert found.samples == [0, 10]
    assert found.ties == 6
