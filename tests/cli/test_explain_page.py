"""``relprop explain --html``: one page of pictures, maps, cautions and probabilities."""

import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import cv2
import pytest
from typer.testing import CliRunner

from relprop.cli import app
from relprop.pages.explanations import ExplainedClass, ExplanationPage
from relprop.pages.rendering import require_extra
from relprop.pictures import SIGNED
from tests.helpers.pages import Page, assert_inert, opened

EVIL = "<img src=x onerror=alert(1)> & #1.jpg"


def explain(*arguments):
    result = CliRunner().invoke(app, ["explain", *arguments, "--model", "own:make", "-o", "out", "--html"])
    return result, Page(Path("out/index.html"))


@pytest.mark.full
def test_the_page_shows_what_the_index_lists(desk):
    Path("cat.jpg").rename(EVIL)
    Path("broken.jpg").write_bytes(b"no picture")
    Path("names.txt").write_text("<b>one</b>\ntwo\nthree\nfour\nfive\n")
    result, page = explain(EVIL, "broken.jpg", "holiday", "--target", "top2", "--class-names", "names.txt")
    assert result.exit_code == 1  # of the broken one
    assert_inert(page)
    rows = [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]
    explained = [row for row in rows if "error" not in row]
    assert len(explained) == 6
    for row in explained:
        assert f"{row['label']} {row['probability']:.1%}" in page.words
        difference = re.escape(f"{row['map_difference']:.1%}")
        assert re.search(f"the two maps, of this class and of the others, differ by {difference}", page.words)
    cautions = sum(row["map_difference"] < 0.01 for row in explained)
    assert page.words.count("Caution: the maps for") == cautions
    assert page.words.count(EVIL) >= 2
    assert "Not explained: cannot read picture broken.jpg" in page.words
    assert str(desk) not in page.source
    links = {unquote(str(link["href"])) for link in page.found("a") if str(link["href"]).startswith("./")}
    assert links == {"./index.jsonl", *(f"./{name}" for row in explained for name in row["paths"].values())}
    assert all(Path("out", link).is_file() for link in links)
    assert len([one for one in page.found("input") if one["type"] == "range"]) == 6
    bars = [float(str(bar["width"])) for bar in page.found("rect") if bar["class"] == "fill"]
    assert len(bars) == 3 * 5
    assert sum(bars) == pytest.approx(300, abs=0.1)  # all classes of the model, in per cent
    assert all(image["alt"] is not None and image["src"] for image in page.found("img"))


@pytest.mark.full
def test_a_single_answer_has_no_bars(desk):
    result = CliRunner().invoke(
        app, ["explain", "cat.jpg", "--model", "own:one", "--contrast", "none", "-o", "out", "--html"]
    )
    assert result.exit_code == 0, result.stderr
    page = Page(Path("out/index.html"))
    assert page.found("rect") == []
    assert "what makes it larger" in page.words


def test_without_jinja2_nothing_is_explained(desk, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    require_extra.cache_clear()
    result = CliRunner().invoke(app, ["explain", "cat.jpg", "--model", "own:make", "-o", "out", "--html"])
    assert result.exit_code == 1
    assert result.stderr == 'relprop: a page needs jinja2: pip install "relprop[report]"\n'
    assert not Path("out").exists()


def test_many_pictures_stay_within_the_budget(tmp_path):
    picture = cv2.resize(cv2.randu(cv2.UMat(60, 60, cv2.CV_8UC3), 0, 255).get(), (448, 448))
    heat = picture[..., 0] / 255.0
    sizes = []
    for count in (1, 1000):
        page = ExplanationPage(tmp_path / f"{count}.html", count)
        page.add("a", picture, [ExplainedClass("cat", heat, SIGNED, "", "")], [], {})
        page.write([])
        sizes.append(Page(tmp_path / f"{count}.html").found("img")[0]["src"])
    assert 1000 * 3 * len(sizes[1]) < 60e6 < 1000 * 3 * len(sizes[0])


@pytest.mark.full
def test_the_slider_fades_the_overlay(desk):
    explain("cat.jpg", "--target", "top2")
    with opened(Path("out/index.html"), viewport={"width": 400, "height": 800}, color_scheme="dark") as page:
        page.focus(".fading input >> nth=1")
        for _ in range(30):
            page.keyboard.press("ArrowLeft")
        opacity = "all => all.map(e => getComputedStyle(e).opacity)"
        page.wait_for_function("() => getComputedStyle(document.querySelectorAll('.over')[1]).opacity === '0.7'")
        assert page.eval_on_selector_all(".over", opacity) == ["1", "0.7"]
        assert page.locator(".fading output").all_text_contents() == ["100 %", "70 %"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
