"""Drawing: scales known by hand, colours symmetric about zero, files written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from relprop import pictures
from relprop.errors import RelpropError
from relprop.files import OutputError
from relprop.pictures import DrawingError, heat_colours, overlay, panel, robust_scale, save_panel

GREY = np.full((20, 30, 3), 128, np.uint8)


def test_scale_is_the_percentile_of_the_magnitudes() -> None:
    relevance = np.arange(-50, 51, dtype=np.float32)[1:].reshape(10, 10)  # magnitudes 0, 1, 1, .., 49, 49, 50
    scaled, scale = robust_scale(relevance, percentile=100)
    assert scale == 50
    np.testing.assert_allclose(scaled, relevance / 50)
    scaled, scale = robust_scale(np.linspace(0, 100, 101).reshape(1, 101), percentile=90)
    assert scale == pytest.approx(90)
    assert scaled[0, 45] == pytest.approx(0.5)
    assert (scaled[0, 90:] == 1).all()


def test_signs_survive_clipping() -> None:
    relevance = np.ones((40, 40))
    relevance[0, 0], relevance[0, 1] = -1e6, 1e6
    scaled, scale = robust_scale(relevance)
    assert scale == 1
    assert scaled[0, 0] == -1
    assert (scaled.ravel()[1:] == 1).all()


def test_each_map_of_a_batch_has_its_own_scale() -> None:
    one = np.random.default_rng(0).standard_normal((8, 8))
    scaled, scale = robust_scale(np.stack([one, 100 * one, 0 * one]))
    np.testing.assert_allclose(scaled[0], scaled[1])
    np.testing.assert_allclose(scale[1], 100 * scale[0])
    np.testing.assert_array_equal(scaled[2], 0)
    assert scale[2] == 0
    np.testing.assert_allclose(scaled[0], robust_scale(one)[0])


def test_sparse_map_falls_back_on_its_largest_magnitude() -> None:
    relevance = np.zeros((40, 40))
    relevance[3, 4], relevance[5, 6] = -4.0, 2.0
    scaled, scale = robust_scale(relevance)
    assert scale == 4
    assert (scaled[3, 4], scaled[5, 6]) == (-1, 0.5)


@pytest.mark.parametrize("relevance", [np.full((4, 4), np.nan), np.full((4, 4), np.inf), np.zeros((1, 3, 4, 4))])
def test_what_cannot_be_drawn_is_refused(relevance: np.ndarray) -> None:
    with pytest.raises(DrawingError, match="cannot draw") as caught:
        robust_scale(relevance)
    assert isinstance(caught.value, RelpropError)


def test_colours_diverge_symmetrically_from_white() -> None:
    steps = np.linspace(0, 1, 33)[None]
    zero, warm, cold = (heat_colours(h).astype(int) for h in (np.zeros((1, 1)), steps, -steps))
    assert zero.shape == (1, 1, 3)
    assert np.ptp(zero) <= 1
    assert zero.min() > 240
    for colours, strong in ((warm, 0), (cold, 2)):
        lightness = cv2.cvtColor(colours.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, :, 0]
        assert (np.diff(lightness) < 0).all()
        assert (colours[0, 4:, strong] > colours[0, 4:, 2 - strong]).all()
    light = [cv2.cvtColor(c.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, :, 0] for c in (warm, cold)]
    np.testing.assert_allclose(light[0], light[1], atol=10)  # neither sign looks stronger than the other
    np.testing.assert_array_equal(heat_colours(np.array([[-5.0, 5.0]])), heat_colours(np.array([[-1.0, 1.0]])))


def test_zero_map_leaves_the_greyed_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    drawn = overlay(picture, np.zeros((20, 30)))
    assert drawn.dtype == np.uint8
    assert (drawn == drawn[..., :1]).all()
    assert np.corrcoef(drawn[..., 0].ravel(), cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).ravel())[0, 1] > 0.99


def test_overlay_shows_sign_as_colour_where_relevance_is() -> None:
    heat = np.zeros((20, 30))
    heat[2:6, 2:6], heat[12:16, 20:24] = 1.0, -1.0
    drawn = overlay(GREY, heat, blur=0).astype(int)
    assert (drawn[2:6, 2:6, 0] > drawn[2:6, 2:6, 2] + 80).all()
    assert (drawn[12:16, 20:24, 2] > drawn[12:16, 20:24, 0] + 80).all()
    elsewhere = drawn[heat == 0]
    assert (elsewhere == elsewhere[0]).all()
    assert np.ptp(elsewhere[0]) == 0


def test_blur_keeps_the_peak_and_does_not_amplify_noise() -> None:
    heat = np.zeros((101, 101))
    heat[50, 50] = 1.0
    picture = np.full((101, 101, 3), 128, np.uint8)
    plain, smooth = overlay(picture, heat, blur=0), overlay(picture, heat, blur=0.02)
    np.testing.assert_allclose(plain[50, 50].astype(int), smooth[50, 50], atol=1)
    assert (smooth[50, 53] != smooth[0, 0]).any()
    checkerboard = np.indices((101, 101)).sum(0) % 2 * 2.0 - 1
    assert np.ptp(overlay(picture, checkerboard, blur=0.02)[40:60, 40:60].astype(int), axis=2).max() < 30


def test_small_maps_are_resized_bilinearly() -> None:
    heat = np.array([[-1.0, 1.0]])
    drawn = overlay(GREY, heat, blur=0).astype(int)
    assert drawn.shape == GREY.shape
    redness = drawn[10, :, 0] - drawn[10, :, 2]
    assert redness[0] < 0 < redness[-1]
    assert (np.diff(redness) >= 0).sum() > 20


@pytest.mark.parametrize("shape", [(20, 30), (90, 30), (30, 90), (1, 1)])
def test_panel_has_three_columns_and_a_centred_colour_bar(shape: tuple[int, int]) -> None:
    picture = np.zeros((*shape, 3), np.uint8)
    figure = panel(picture, np.zeros((7, 7)), "cat $5_% 93 %", "99.5 percentile")
    assert isinstance(figure, Figure)
    tiles, bar = figure.axes[:3], figure.axes[3]
    assert [len(tile.images) for tile in tiles] == [1, 1, 1]
    assert bar.get_xlim() == (-1, 1)
    assert {"cat $5_% 93 %", "99.5 percentile"} <= {text.get_text() for text in figure.texts}
    for tile in tiles:
        box = tile.get_window_extent()
        ratio = box.height / box.width
        assert ratio == pytest.approx(shape[0] / shape[1], rel=0.02)


def test_panel_leaves_pyplot_alone() -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    panel(GREY, np.zeros((20, 30)), "title", "caption")
    assert pyplot.get_fignums() == before


def test_saved_panel_is_a_png_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_panel(path, GREY, np.zeros((20, 30)), "title", "caption")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert cv2.imread(str(path)).shape[1] > 1000


def test_interrupted_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def half(self: Figure, file: Path, **_: object) -> None:
        file.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(KeyboardInterrupt):
        save_panel(path, GREY, np.zeros((20, 30)), "title", "caption")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.png": b"old"}


def test_unwritable_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent" / "a.png", tmp_path / "file" / "a.png"):
        with pytest.raises(OutputError, match=r"cannot write .*a\.png: "):
            save_panel(path, GREY, np.zeros((20, 30)), "title", "caption")


def test_default_percentile_is_the_documented_one() -> None:
    relevance = np.random.default_rng(0).standard_normal((100, 100))
    assert robust_scale(relevance)[1] == pytest.approx(np.percentile(np.abs(relevance), pictures.PERCENTILE))
