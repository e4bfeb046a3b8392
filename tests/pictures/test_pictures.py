"""Drawing: scales known by hand, colours all can tell apart, words that fit, files written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from relprop import pictures
from relprop.errors import RelpropError
from relprop.files import OutputError
from relprop.pictures import (
    CONTRAST,
    DrawingError,
    Legend,
    Tile,
    class_sheet,
    heat_colours,
    layer_sheet,
    overlay,
    panel,
    robust_scale,
    scale_note,
    scale_words,
    tile_sheet,
    write_png,
)
from relprop.pictures.colours import cell_overlay
from relprop.pictures.tiles import encode, scaled, sharp, tile_size

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


def test_weak_relevance_without_contrast_does_not_tint_the_picture() -> None:
    heat = np.full((20, 30), 0.1)
    heat[5, 5] = 1.0
    plain = overlay(GREY, heat, blur=0).astype(int)
    assert np.ptp(plain[15, 15]) < 10
    assert plain[5, 5, 0] - plain[5, 5, 2] > 80
    heat[6, 6] = -1.0
    assert np.ptp(overlay(GREY, heat, blur=0)[15, 15].astype(int)) > 15, "a contrast is told where it is weak, too"


def test_coarse_maps_are_drawn_cell_by_cell() -> None:
    heat = np.zeros((7, 7))
    heat[2, 3], heat[5, 0] = 1.0, -1.0
    drawn = cell_overlay(np.full((210, 210, 3), 128, np.uint8), heat).astype(int)
    redness = drawn[..., 0] - drawn[..., 2]
    assert (redness[61:89, 91:119] > 80).all()
    assert (redness[151:179, 1:29] < -80).all()
    redness[60:91, 90:121] = redness[150:181, 0:31] = 0
    assert not redness.any(), "relevance stays in its cell"
    assert (drawn[30, 1:29] != drawn[15, 15]).all(), "a line between cells"
    fine = cell_overlay(np.full((210, 210, 3), 128, np.uint8), np.zeros((70, 70)))
    assert (fine == fine[0, 0]).all(), "no lines where they would hide the cells"


# Linear RGB as it appears without one kind of cone (Machado, Oliveira, Fernandes 2009, severity 1).
DICHROMATS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def appearance(pixels: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """CIELAB of sRGB pixels (N, 3), seen by a dichromat."""
    linear = (pixels / 255.0) ** 2.2
    seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
    return cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]


@pytest.mark.parametrize("kind", DICHROMATS)
def test_colour_blind_people_tell_the_signs_apart(kind: str) -> None:
    strengths = np.linspace(0.25, 1, 16)[None]
    for name, (warm, cold) in {
        "heat map": (heat_colours(strengths)[0], heat_colours(-strengths)[0]),
        "overlay": tuple(overlay(np.full((1, 16, 3), 128, np.uint8), sign * strengths, blur=0)[0] for sign in (1, -1)),
    }.items():
        distance = np.linalg.norm(
            appearance(warm, DICHROMATS[kind])[:, 1:] - appearance(cold, DICHROMATS[kind])[:, 1:], axis=1
        )
        assert distance.min() > 12, f"{name}: {distance}"  # a difference of hue; 2.3 is just noticeable
    green, red = np.array([[90, 160, 60], [190, 110, 60]])  # what fails the same test: a green and a red
    confused = [appearance(colour[None], DICHROMATS["deuteranopia"])[0, 1:] for colour in (green, red)]
    assert np.linalg.norm(confused[0] - confused[1]) < 12


def pixels_of(figure: Figure) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(encode(figure), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def assert_words_are_readable(figure: Figure) -> None:
    """No word is cut off, and none lies over another."""
    boxes = [text.get_window_extent() for text in figure.texts]
    for text, box in zip(figure.texts, boxes, strict=True):
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
    for k, one in enumerate(figure.texts):
        for other, box in zip(figure.texts[:k], boxes, strict=False):
            assert not boxes[k].shrunk(0.98, 0.7).overlaps(box.shrunk(0.98, 0.7)), f"{one} {other}"


def find(image: np.ndarray, part: np.ndarray) -> tuple[int, int]:
    """Row and column at which a part lies in an image, pixel by pixel."""
    distance = cv2.matchTemplate(image, part, cv2.TM_SQDIFF)
    row, column = np.unravel_index(distance.argmin(), distance.shape)
    there = image[row : row + part.shape[0], column : column + part.shape[1]]
    assert (there == part).all(), "the part is not in the image as it is"
    return int(row), int(column)


NOISE = np.random.default_rng(7)


def noise(height: int, width: int) -> np.ndarray:
    return NOISE.integers(0, 256, (height, width, 3), np.uint8)


def test_tiles_are_shown_pixel_by_pixel_in_aligned_rows() -> None:
    images = [[noise(40, 60), noise(50, 200)], [None, noise(30, 180), noise(70, 20)]]
    rows = [[image if image is None else Tile(image, "name", "note") for image in row] for row in images]
    figure = tile_sheet(rows, "caption", "title", legend=None)
    drawn = pixels_of(figure)
    places = [[image if image is None else find(drawn, image) for image in row] for row in images]
    assert places[0][0][0] == places[0][1][0]
    assert places[1][1][0] == places[1][2][0] > places[0][1][0] + 50
    assert places[0][1][1] == places[1][1][1] > places[0][0][1] + 60
    assert words_of(figure).count("name") == 4
    assert {"caption", "title"} < set(words_of(figure))
    assert_words_are_readable(figure)


@pytest.mark.parametrize("scale", [0.5, 2])
def test_a_sheet_can_be_saved_at_another_resolution(scale: float) -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[:, :100] = 255, 0, 0
    figure = tile_sheet([[Tile(image, "name")]], legend=None)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=figure.dpi * scale, format="png")
    drawn = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    assert (drawn == (0, 0, 255)).all(2).sum() == pytest.approx(200 * 100 * scale**2, rel=0.05)


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize(
    "title",
    [
        "a class whose name goes on and on, so that it is wrapped, then shortened, however long it may be 93.1%",
        "w" * 300 + " 93.1%",
        "features.denseblock3.denselayer12.conv2.of.a.model.that.is.too.deep.for.its.own.good.93.1%",
        "cat $5_% \\alpha {",
    ],
)
def test_long_names_are_wrapped_or_shortened_but_keep_their_end(title: str) -> None:
    tiles = [Tile(noise(30, 200), title, title) for _ in range(4)]
    figure = tile_sheet([tiles, tiles], title, title)
    assert_words_are_readable(figure)
    ends = [text for text in words_of(figure) if text.endswith(title[-5:])]
    assert len(ends) == 18


@pytest.mark.parametrize("shape", [(224, 224), (20, 30), (900, 300), (300, 900), (1, 1), (2000, 60), (60, 2000)])
def test_panel_shows_picture_map_and_overlay_at_one_size(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 10, np.uint8)
    figure = panel(picture, np.full((7, 7), 0.5), "cat $5_% 93 %", "99.5 percentile")
    assert {"cat $5_% 93 %", "0 no relevance", "most relevance 1"} < set(words_of(figure))
    assert_words_are_readable(figure)
    drawn = pixels_of(figure)
    sizes = []
    for colour in (
        picture[0, 0],
        heat_colours(np.full((1, 1), 0.5))[0, 0],
        overlay(picture, np.full((7, 7), 0.5))[0, 0],
    ):
        area = (drawn == colour).all(2).astype(np.uint8)
        _, _, boxes, _ = cv2.connectedComponentsWithStats(area)
        _, _, width, height, _ = max(boxes[1:], key=lambda box: box[4])
        sizes.append((height, width))
    assert len(set(sizes)) == 1
    assert sizes[0][0] / sizes[0][1] == pytest.approx(shape[0] / shape[1], rel=0.05)
    assert max(drawn.shape[:2]) < 3000


def test_legend_names_a_contrast_only_where_there_is_one() -> None:
    heat = np.full((4, 4), 0.5)
    contrast = {"more for the others", "0", "more for the class"}
    assert contrast < set(words_of(panel(GREY, heat - 0.6, "t", "c", legend=CONTRAST)))
    assert not contrast & set(words_of(panel(GREY, heat, "t", "c")))
    assert {"-1 negative", "positive +1"} < set(words_of(panel(GREY, heat - 0.6, "t", "c")))
    assert "more for the class" not in words_of(tile_sheet([[Tile(GREY)]], legend=None))


def test_long_names_at_the_ends_of_the_legend_stay_apart() -> None:
    long = "Staffordshire bullterrier, Staffordshire bull terrier, and all that is bred from either of them"
    found = words_of(
        panel(GREY, np.full((4, 4), -0.5), "t", "c", legend=Legend(f"more for {long} one", f"more for {long} two"))
    )
    assert sum(word.startswith("more for Staff") for word in found) == 2
    assert found[-1] == "c"
    assert any(word.endswith("two") for word in found)
    assert not any(long in word for word in found)


def test_both_signs_stand_out_from_shadows_and_light_alike() -> None:
    for grey in (0, 128, 255):
        picture = np.full((8, 8, 3), grey, np.uint8)
        plain, cold, warm = (
            cv2.cvtColor(np.float32(overlay(picture, np.full((8, 8), heat))) / 255, cv2.COLOR_RGB2LAB)[4, 4]
            for heat in (1e-9, -1.0, 1.0)
        )
        away = [float(np.linalg.norm(colour - plain)) for colour in (cold, warm)]
        assert min(away) > 45
        assert max(away) < 1.3 * min(away)


@pytest.mark.parametrize("shape", [(300, 400), (900, 300), (300, 900), (100, 3000), (3000, 100)])
def test_original_shows_what_was_seen_and_veils_the_rest(shape: tuple[int, int]) -> None:
    height, width = shape
    side = min(shape)
    left, top = (width - side) // 2 + side // 8, (height - side) // 2 + side // 8
    box = (left, top, left + side * 3 // 4, top + side * 3 // 4)
    heat = np.zeros(shape)
    heat[top : box[3], left : box[2]] = 1.0
    picture = np.full((224, 224, 3), 10, np.uint8)
    plain = pixels_of(panel(picture, np.ones((7, 7)), "t", "c"))
    figure = panel(picture, np.ones((7, 7)), "t", "c", (np.full((*shape, 3), 10, np.uint8), heat, box))
    assert_words_are_readable(figure)
    drawn = pixels_of(figure)
    tile = drawn[:, plain.shape[1] - 10 :].astype(int)
    assert tile.shape[1] < 2.1 * 448
    grey = overlay(np.full((1, 1, 3), 10, np.uint8), np.zeros((1, 1)))[0, 0]
    veiled = (tile == grey // 3 + 165).all(2)
    assert veiled.any(), "lighter than what was seen"
    seen = tile[..., 0] - tile[..., 2] > 80
    rows, columns = np.nonzero(seen)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=4), "the box keeps its aspect ratio"
    area = (np.ptp(rows) + 5) ** 2  # with two pixels of outline on either side
    assert area / (veiled.sum() + area) == pytest.approx((side * 3 // 4) ** 2 / (height * width), rel=0.2)
    assert tile[~(seen | veiled)].min() < 40, "the box has a dark outline"


@pytest.mark.full
def test_class_sheet_shows_every_class_and_its_map() -> None:
    heats = np.random.default_rng(0).uniform(-1, 1, (7, 20, 30))
    names = [f"class number {k} {k}.0%" for k in range(7)]
    figure = class_sheet(GREY, heats, names, "caption", columns=3, notes=[scale_note(k) for k in range(7)])
    assert set(names) < set(words_of(figure))
    assert {"no relevance here", "full colour = 6", "-1 negative"} < set(words_of(figure))
    assert_words_are_readable(figure)
    drawn = pixels_of(figure)
    places = []
    for heat in heats:
        size = tile_size(heat.shape, 300)
        find(drawn, scaled(overlay(GREY, heat), size))
        places.append(find(drawn, heat_colours(sharp(heat, size))))
    assert [row for row, _ in places] == sorted(row for row, _ in places)
    assert len({column for _, column in places}) == 3


@pytest.mark.parametrize("with_picture", [True, False])
def test_layer_sheet_wraps_many_layers_and_keeps_coarse_cells(with_picture: bool) -> None:
    random = np.random.default_rng(0)
    layers = {"input": (224, 224)} | {f"blocks.{k}.attn.proj": (14, 14) for k in range(11)} | {"stages.3": (7, 7)}
    rows = [{name: random.uniform(-1, 1, size) for name, size in layers.items()} for _ in range(2)]
    pictures = noise(2 * 224, 224).reshape(2, 224, 224, 3) if with_picture else None
    figure = layer_sheet(pictures, ["cat 93%", "dog 2%"], rows, "caption")
    words = words_of(figure)
    assert words.count("stages.3") == words.count("blocks.10.attn.proj") == words.count("input") == 2
    assert {"cat 93%", "dog 2%"} < set(words)
    assert_words_are_readable(figure)
    drawn = pixels_of(figure)
    assert drawn.shape[1] < 1700
    for k, maps in enumerate(rows):
        heat = maps["stages.3"]
        if pictures is None:
            find(drawn, heat_colours(sharp(heat, (208, 208))))
        else:
            find(drawn, cell_overlay(scaled(pictures[k], (208, 208)), heat))


def test_drawing_leaves_pyplot_alone() -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    encode(panel(GREY, np.zeros((20, 30)), "title", "caption"))
    assert pyplot.get_fignums() == before


def test_saved_panel_is_a_png_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(panel(GREY, np.zeros((20, 30)), "title", "caption"), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert cv2.imread(str(path)).shape[1] > 1000


def test_interrupted_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def half(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        write_png(panel(GREY, np.zeros((20, 30)), "title", "caption"), path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.png": b"old"}


def test_unwritable_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent" / "a.png", tmp_path / "file" / "a.png"):
        with pytest.raises(OutputError, match=r"cannot write .*a\.png: "):
            write_png(panel(GREY, np.zeros((20, 30)), "title", "caption"), path)


def test_default_percentile_is_the_documented_one() -> None:
    relevance = np.random.default_rng(0).standard_normal((100, 100))
    assert robust_scale(relevance)[1] == pytest.approx(np.percentile(np.abs(relevance), pictures.PERCENTILE))


def test_caption_tells_percentile_and_magnitude() -> None:
    _, scale = robust_scale(np.full((4, 4), 0.00012))
    assert scale_words(float(scale)) == "colours saturate at the 99.5th percentile of |relevance|, 0.00012"
