"""Picture files: what is found in folders, what is read, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from relprop.models import PictureError, find_pictures, read_picture, sample_pictures
from relprop.pictures.reading import package_files

needs_foolbox = pytest.mark.skipif(
    not package_files("foolbox", "data/imagenet_*.jpg"), reason="relprop[demo]: no foolbox"
)


# --- reading ---


def _jpeg(path: Path, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 4).astype(np.uint8)).save(path, **options)
    return path


def test_colours_come_as_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (200, 100, 50)).save(tmp_path / "p.png")
    picture = read_picture(tmp_path / "p.png")
    assert picture.dtype == np.uint8
    assert picture.shape == (4, 5, 3)
    assert (picture == (200, 100, 50)).all()


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    upright = np.full((40, 60, 3), 255, np.uint8)
    upright[:, :30] = 0  # the left half is black
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show a quarter turn clockwise
    Image.fromarray(upright).save(tmp_path / "p.jpg", exif=exif, quality=95)
    picture = read_picture(tmp_path / "p.jpg")
    assert picture.shape == (60, 40, 3)
    assert picture[:28].mean() < 5
    assert picture[32:].mean() > 250


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1", "P", "RGBA"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    Image.new("L", (6, 5), 128).convert(mode).save(tmp_path / "p.png")
    picture = read_picture(tmp_path / "p.png")
    assert picture.shape == (5, 6, 3)
    assert (picture[..., 0] == picture[..., 1]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_picture_is_refused(suffix: str, progressive: bool, tmp_path: Path) -> None:
    path = _jpeg(tmp_path / f"p{suffix}", **({"progressive": progressive} if suffix == ".jpg" else {}))
    read_picture(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(PictureError, match=f"cannot read picture .*p{suffix}"):
        read_picture(path)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "magic.jpg").write_bytes(b"\xff\xd8\xff\xe0 and nothing more")
    for name in ("empty.jpg", "text.jpg", "magic.jpg", "absent.jpg", "."):
        with pytest.raises(PictureError, match="cannot read picture"):
            read_picture(tmp_path / name)


@needs_foolbox
@pytest.mark.full
def test_sample_pictures_are_found_without_importing_foolbox() -> None:
    code = (
        "import sys; from relprop.models import read_picture, sample_pictures; s = sample_pictures();"
        "assert len(s) == 20 and read_picture(s[0]).ndim == 3 and 'foolbox' not in sys.modules"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=50)
    assert [p.name for p in sample_pictures()][:2] == ["imagenet_00_243.jpg", "imagenet_01_559.jpg"]


def test_absent_sample_pictures_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PictureError, match=r'pip install "relprop\[demo\]"'):
        sample_pictures()


def test_a_picture_too_large_to_be_true_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PictureError, match="exceeds limit"):
        read_picture(_jpeg(tmp_path / "p.jpg"))


# --- finding ---


def _touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_folders_are_searched_through_and_through(tmp_path: Path) -> None:
    wanted = _touch(tmp_path, "a.JPG", "b/z/deep.webp", "b/10.png", "c/1.tif", "c/2.TIFF", "c/3.jpeg", "c/4.bmp")
    _touch(tmp_path, "labels.csv", ".hidden.jpg", ".thumbnails/a.jpg", "c/jpg")
    assert find_pictures([tmp_path]) == sorted(wanted)


def test_files_are_taken_as_they_are_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b, a, odd = _touch(tmp_path, "b.jpg", "a.jpg", "scan.dat")
    assert find_pictures([odd, b, tmp_path]) == [odd, b, a]
    monkeypatch.chdir(tmp_path)
    assert find_pictures([Path("b.jpg"), b, Path("../") / tmp_path.name / "b.jpg", a]) == [Path("b.jpg"), a]


class Somewhere:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("kind", [str, Somewhere])
def test_paths_may_be_words_or_of_another_library(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for file in (tmp_path / "a.png", tmp_path / "out" / "b.png"):
        cv2.imwrite(str(file), np.full((4, 5, 3), 7, np.uint8))
    assert read_picture(kind(tmp_path / "a.png")).shape == (4, 5, 3)
    assert find_pictures([kind(tmp_path)], skip=[kind(tmp_path / "out")]) == [tmp_path / "a.png"]
    assert find_pictures(kind(tmp_path)) == [tmp_path / "a.png", tmp_path / "out" / "b.png"]
    with pytest.raises(PictureError, match=r"cannot read picture .*none\.png: .*No such file"):
        read_picture(str(tmp_path / "none.png"))


def test_skipped_folders_are_not_entered(tmp_path: Path) -> None:
    (a, _) = _touch(tmp_path, "in/a.jpg", "in/out/a.png")
    assert find_pictures([tmp_path / "in"], skip=[tmp_path / "in" / "out"]) == [a]


def test_links_are_followed_but_not_round_and_round(tmp_path: Path) -> None:
    (a,) = _touch(tmp_path, "data/a.jpg")
    _touch(tmp_path, "elsewhere/b.jpg")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    assert find_pictures([tmp_path / "data"]) == [a, tmp_path / "data" / "more" / "b.jpg"]


def test_what_is_missing_or_empty_is_told_before_anything_else(tmp_path: Path) -> None:
    (a,) = _touch(tmp_path, "a.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match=r"no pictures in .*empty or its subfolders \(looked for .*\.jpg"):
        find_pictures([a, tmp_path / "empty"])
    with pytest.raises(PictureError, match=r"no such file or folder: .*1, .*2, .*3 and 2 more$"):
        find_pictures([a, *(tmp_path / str(i) for i in range(1, 6))])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg", "shut/b.jpg")
    (tmp_path / "shut").chmod(0)
    try:
        with pytest.raises(PictureError, match=r"cannot read folder .*shut"):
            find_pictures([tmp_path])
    finally:
        (tmp_path / "shut").chmod(0o700)
