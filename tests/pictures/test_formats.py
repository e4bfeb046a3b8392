"""Formats of picture files: those that are read, in any depth, and those that another package reads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from relprop.pictures.reading import PictureError, find_pictures, read_picture


def _ramp() -> np.ndarray:
    """A smooth picture, uint8 RGB (32, 48, 3)."""
    rows, columns = np.mgrid[:32, :48]
    return np.stack([rows * 6 + 20, columns * 4 + 30, 200 - rows * 3], 2).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jp2", ".ppm", ".JPG"])
def test_a_folder_s_pictures_of_every_format_are_read(suffix: str, tmp_path: Path) -> None:
    if suffix == ".avif":
        assert features.check("avif"), "Pillow is built with it on the platforms that relprop is for"
    path, kind = tmp_path / f"a{suffix}", {".jfif": "JPEG", ".jp2": "JPEG2000", ".JPG": "JPEG"}.get(suffix)
    Image.fromarray(_ramp()).save(path, kind, quality=95)
    assert find_pictures(tmp_path) == [path]
    assert np.abs(read_picture(path).astype(int) - _ramp()).mean() <= 4


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_few_bits_stored_in_sixteen_are_as_bright_as_in_eight(bits: int, suffix: str, tmp_path: Path) -> None:
    full = np.arange(2**bits, dtype=np.uint16)[:: max(1, 2**bits // 256)][:256].reshape(16, 16)
    full[-1, -1] = 2**bits - 1
    cv2.imwrite(str(tmp_path / f"a{suffix}"), full)
    found = read_picture(tmp_path / f"a{suffix}")
    assert found.shape == (16, 16, 3)
    assert np.array_equal(found[..., 0].ravel(), np.arange(256))
    assert np.array_equal(found[..., 0], found[..., 2])


def test_sixteen_bits_in_colour_keep_their_order(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), _ramp()[..., ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read_picture(tmp_path / "a.png"), _ramp())


def test_numbers_in_a_tiff_are_grey_from_zero_to_one(tmp_path: Path) -> None:
    grey = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    cv2.imwrite(str(tmp_path / "a.tif"), grey)
    assert np.array_equal(read_picture(tmp_path / "a.tif")[..., 1].ravel(), np.arange(256))
    cv2.imwrite(str(tmp_path / "b.tif"), grey * 900)
    with pytest.raises(PictureError, match=r"pixels are float32 from 0 to 900: scale them to \[0, 1\]"):
        read_picture(tmp_path / "b.tif")


@pytest.mark.parametrize(
    ("name", "data", "package"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        ("b.jpg", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "pillow-heif"),
        ("c.dcm", bytes(128) + b"DICM", "pydicom"),
        ("d.png", bytes(128) + b"DICM", "pydicom"),
    ],
)
def test_formats_of_others_are_named_with_what_reads_them(name: str, data: bytes, package: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data + bytes(64))
    (path,) = find_pictures(tmp_path)
    with pytest.raises(PictureError, match=f"its format is one that {package} reads"):
        read_picture(path)


def test_a_bomb_of_any_format_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relprop.pictures.reading.MOST_PIXELS", 1000)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("decoded"))
    for kind in ("png", "jp2", "avif", "ppm"):
        Image.fromarray(_ramp()).save(tmp_path / f"a.{kind}")
        with pytest.raises(PictureError, match="48 x 32 pixels are more than 1,000"):
            read_picture(tmp_path / f"a.{kind}")
