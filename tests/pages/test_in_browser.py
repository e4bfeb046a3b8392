"""Pages in a real Chromium: filtered, sorted and opened by mouse and keyboard; quiet, and without a network."""

import numpy as np
import pytest

import relprop
from tests.helpers.evaluation_files import random_columns, write_evaluation, write_pictures
from tests.helpers.pages import HOSTILE, opened

pytestmark = pytest.mark.full
N, SIZE = 8, (24, 32)
HOSTILE_METHOD = HOSTILE.replace("/", "|")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a run, and its samples best first by the GAE of absLRP."""
    folder = tmp_path_factory.mktemp("report")
    write_pictures(folder / "photos", [f"{k}.png" for k in range(1, N)], SIZE)
    maps = np.random.default_rng(0).standard_normal((2, N, *SIZE))
    path = write_evaluation(
        folder / "run.h5",
        {"absLRP": random_columns(N, 0.5, 1), HOSTILE_METHOD: random_columns(N, 0.3, 2)},
        N,
        names=[HOSTILE, *(f"{k}.png" for k in range(1, N))],
        failed={HOSTILE_METHOD: {1: HOSTILE}},
        size=SIZE,
        maps={"absLRP": maps[0], HOSTILE_METHOD: maps[1]},
    )
    relprop.report(path, folder / "page.html", pictures=folder / "photos")
    with relprop.Results(path) as results:
        yield folder / "page.html", results


def shown(page):
    return [int(number) for number in page.eval_on_selector_all("#cards li", "all => all.map(e => e.dataset.sample)")]


def wait_for_text(page, selector, text):
    found = "([where, text]) => document.querySelector(where).textContent === text"
    page.wait_for_function(found, arg=[selector, text])


def wait_for_focus(page, sample):
    found = "(sample) => document.activeElement.closest('li')?.dataset.sample === sample"
    page.wait_for_function(found, arg=sample)


def test_sorted_and_filtered(report):
    path, results = report
    gae, samples = results.score("gae", "absLRP"), results.samples
    with opened(path) as page:
        assert shown(page) == list(np.argsort(-gae, kind="stable"))
        page.select_option("#by-sort", "worst")
        assert shown(page) == list(np.argsort(gae, kind="stable"))
        page.select_option("#by-sort", "index")
        page.fill("#by-low", str(float(np.median(gae))))
        assert shown(page) == np.flatnonzero(gae.round(5) >= np.median(gae)).tolist()
        assert page.text_content("#count") == f"{N // 2} of {N} samples"
        page.fill("#by-low", "")
        for choice, kept in (
            ("right", samples.label == samples.prediction),
            ("wrong", samples.label != samples.prediction),
        ):
            page.select_option("#by-right", choice)
            assert shown(page) == np.flatnonzero(kept).tolist()
        page.select_option("#by-right", "")
        page.select_option("#by-class", label="cup")
        assert shown(page) == np.flatnonzero((samples.label == 0) | (samples.target == 0)).tolist()
        page.click("text=Clear")
        page.wait_for_function(f"() => document.querySelectorAll('#cards li').length === {N}")
        page.fill("#by-search", "3.PNG")
        assert shown(page) == [3]
        page.click("text=Clear")
        page.wait_for_function(f"() => document.querySelectorAll('#cards li').length === {N}")
        page.select_option("#by-method", label=HOSTILE_METHOD)
        other = results.score("gae", HOSTILE_METHOD)
        assert shown(page) == list(np.argsort(-np.where(np.isnan(other), -1, other), kind="stable"))


def test_opened_by_mouse(report):
    path, results = report
    with opened(path) as page:
        page.select_option("#by-sort", "index")
        page.click("#cards li >> nth=4")
        wait_for_text(page, "#large-title", "4.png")
        layers = "#frame img"
        assert page.locator(layers).count() == 2
        page.fill("#slider", "25")
        assert page.eval_on_selector("#frame .over", "e => getComputedStyle(e).opacity") == "0.25"
        seen = {}
        for view in ("picture", "map", "masks", "mosaic"):
            page.click(f"#large-views input[value={view}]")
            page.wait_for_selector(f"#frame[data-view={view}]")
            seen[view] = page.eval_on_selector_all(layers, "all => all.map(e => [e.src, e.alt, e.naturalWidth > 0])")
            assert all(alt and whole for _, alt, whole in seen[view]), view
        members = results.samples.mosaic_members[4]
        assert len(seen["mosaic"]) == len([member for member in members if member > 0])  # the first has no picture
        assert len({seen[view][0][0] for view in ("picture", "map", "masks")}) == 3
        page.click("#next")
        wait_for_text(page, "#large-title", "5.png")
        page.click("#close")
        wait_for_focus(page, "5")
        page.click("a.zoom >> nth=0")
        page.wait_for_selector("#plot-image")


def test_opened_by_keyboard(report):
    path, _ = report
    with opened(path) as page:
        page.select_option("#by-sort", "index")
        page.focus("#cards li >> nth=0 >> button")
        page.keyboard.press("/")
        page.wait_for_selector("#by-search:focus")
        page.focus("#cards li >> nth=0 >> button")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        wait_for_text(page, "#large-title", "2.png")
        page.keyboard.press("2")
        page.wait_for_selector("#frame[data-view=map]")
        page.keyboard.press("ArrowRight")
        wait_for_text(page, "#large-title", "3.png")
        page.keyboard.press("Escape")
        page.wait_for_selector("#large", state="hidden")
        wait_for_focus(page, "3")
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        wait_for_text(page, "#large-title", f"{N - 1}.png")


def test_hostile_texts_are_shown_as_they_are(report):
    path, _ = report
    with opened(path, viewport={"width": 400, "height": 800}) as page:
        page.select_option("#by-sort", "index")
        page.select_option("#by-method", label=HOSTILE_METHOD)
        page.click("#cards li >> nth=0")
        wait_for_text(page, "#large-title", HOSTILE)
        page.click("#next")
        wait_for_text(page, "#large-title", "1.png")
        assert f"failed: {HOSTILE}" in page.text_content("#about")
        assert page.locator("#about button", has_text="alert(1)").count() == 1
        assert page.evaluate("document.images.length") == page.evaluate(
            "[...document.images].filter(i => !i.src || i.src.startsWith('data:image/webp')).length"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
