"""Picture files: finding them, and reading them as RGB."""

from __future__ import annotations

import importlib.util
import io
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from relprop.errors import RelpropError, first_line

OTHER_PACKAGES = {".heic": "pillow-heif", ".heif": "pillow-heif", ".dcm": "pydicom"}
"""Pictures that are found but can't be read here, and the package that reads each: they fail by name."""
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".ppm", ".pgm"}
    | OTHER_PACKAGES.keys()
)
"""What a file inside a folder must end with, in lower or upper case, to be taken for a picture."""
ARRAY = ".npy"
"""What arrays of pictures end with, which a folder without pictures is searched for."""
TIFF = (b"II*\0", b"MM\0*")
"""How a TIFF begins."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners have, of which up to 16 are stored in 16."""


MOST_PIXELS = 178_000_000
"""Of a picture: a small file can say that it has many more, and memory would be taken for all of them."""


class PictureError(RelpropError, ValueError):
    """A picture that cannot be found or read, or sample pictures that are not installed."""


def read_picture(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """Read a picture as RGB (H, W, 3), turned as its EXIF orientation says.

    Of 16 bits the upper 8 are taken of as many as its largest value needs: 12 bits may be stored in 16.

    Raises
    ------
    PictureError
        The file is missing, no regular one, not a picture, cut short, has more than `MOST_PIXELS`, or is of a format
        that another package reads, which is named.
    """
    try:
        data = regular_bytes(Path(path))
        if package := _other_package(data):
            raise PictureError(
                f"cannot read picture {path}: its format is one that {package} reads and relprop does not; convert it "
                "to PNG or TIFF, or give tensors"
            )
        width, height = _size(data)
        refuse_size(width, height)
        if data.startswith(b"\xff\xd8"):  # OpenCV silently fills what is missing of a JPEG with grey
            with Image.open(io.BytesIO(data)) as jpeg:
                jpeg.draft("RGB", (1, 1))
                jpeg.load()
        decoded = _decode(data) if width else None
    except PictureError:
        raise
    except (OSError, SyntaxError, ValueError, cv2.error, Image.DecompressionBombError) as error:
        raise PictureError(f"cannot read picture {path}: {first_line(error)}") from error
    if decoded is None:
        raise PictureError(f"cannot read picture {path}: empty, cut short, or in no known format")
    return decoded


def refuse_size(width: int, height: int) -> None:
    """Raise a `ValueError` for more than `MOST_PIXELS`."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {MOST_PIXELS:,}; shrink it")


def depth_of(pixels: NDArray[np.uint16]) -> int:
    """Return how many bits pixels ``(H, W, ...)`` stored in 16 have: as few of `DEPTHS` as the largest value needs."""
    largest = pixels.max(initial=0)
    return next(depth for depth in DEPTHS if largest < 2**depth)


def _decode(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a picture as RGB (H, W, 3); None where nothing can."""
    buffer = np.frombuffer(data, np.uint8)
    found = cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if data[:4] in TIFF:  # of numbers OpenCV would make zeros and ones
        numbers = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
        if numbers is not None and numbers.dtype.kind == "f":
            found = (
                numbers[..., :3] if numbers.ndim == 3 else cv2.cvtColor(numbers.astype(np.float32), cv2.COLOR_GRAY2BGR)
            )
    if found is None:  # formats that OpenCV may be built without
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"), np.uint8)
    return np.asarray(cv2.cvtColor(_eight_bits(found), cv2.COLOR_BGR2RGB), np.uint8)


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring pixels ``(H, W, ...)`` to eight bits, from as many as the largest needs, or from numbers in [0, 1].

    Raises
    ------
    ValueError
        If they are numbers beyond that.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> (depth_of(pixels) - 8)).astype(np.uint8)
    largest = pixels.max()
    if not (pixels.min() >= 0 and largest <= 1):
        raise ValueError(
            f"its pixels are {pixels.dtype} from {pixels.min():g} to {largest:g}: scale them to [0, 1], or give tensors"
        )
    return (pixels * 255).round().astype(np.uint8)


def _other_package(data: bytes) -> str:
    """Return the package that reads a format which is none of relprop's, by its first bytes; else nothing."""
    if data[128:132] == b"DICM":
        return OTHER_PACKAGES[".dcm"]
    brands = {data[start : start + 4] for start in (8, *range(16, min(int.from_bytes(data[:4], "big"), 80), 4))}
    heif = data[4:8] == b"ftyp" and not brands & {b"avif", b"avis"} and brands & {b"heic", b"heix", b"hevc", b"mif1"}
    return OTHER_PACKAGES[".heic"] if heif else ""


def _size(data: bytes) -> tuple[int, int]:
    """Return the size that a picture says it has, without decoding it: 0 where the format is not known."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            return header.size
    except UnidentifiedImageError:
        return 0, 0


def regular_bytes(path: Path) -> bytes:
    """Read a file, but no pipe or device, which may never end."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise PictureError(f"cannot read picture {path}: it is no regular file")
        return file.read()


def find_pictures(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]], *, skip: Iterable[str | PathLike[str]] = ()
) -> list[Path]:
    """Replace folders by the pictures in them and in their subfolders.

    Parameters
    ----------
    paths
        One or several: files, taken whatever they are called, and folders, of which the files with one of `SUFFIXES`
        are taken, sorted by path, or where there are none those with `ARRAY`. Hidden files and folders inside a folder
        are left out; linked folders are followed.
    skip
        Folders that are not searched: where results go, for example.

    Returns
    -------
    list of Path
        In the order of ``paths``, none twice.

    Raises
    ------
    PictureError
        A path does not exist, or a folder cannot be read or holds no picture.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    missing = [str(path) for path in given if not path.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise PictureError(f"no such file or folder: {', '.join(missing[:3])}{more}")
    skipped = {Path(folder).resolve() for folder in skip}
    found: dict[str, Path] = {}
    for path in given:
        inside = sorted(_search(path, skipped)) if path.is_dir() else [path]
        if not inside:  # arrays beside pictures may hold anything
            inside = sorted(_search(path, skipped, {ARRAY}))
        if not inside:
            sought = " ".join(sorted({*SUFFIXES, ARRAY}))
            raise PictureError(f"no pictures in {path} or its subfolders (looked for {sought})")
        for file in inside:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def sample_pictures() -> list[Path]:
    """Return the 20 labelled ImageNet pictures that foolbox carries (``imagenet_NN_CLASS.jpg``).

    Raises
    ------
    PictureError
        They are not installed.
    """
    pictures = package_files("foolbox", "data/imagenet_*.jpg")
    if not pictures:
        raise PictureError('the sample pictures are not installed: pip install "relprop[demo]"')
    return pictures


def package_files(package: str, pattern: str) -> list[Path]:
    """Return files inside an installed package, sorted, without importing it."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return sorted(file for folder in folders or () for file in Path(folder).glob(pattern))


def _search(folder: Path, skipped: Collection[Path], suffixes: Collection[str] = SUFFIXES) -> Iterator[Path]:
    """Yield the pictures under a folder, in no order."""

    def refuse(error: OSError) -> None:
        raise PictureError(f"cannot read folder {error.filename}: {error.strerror}") from error

    entered = set(skipped)  # a link to a folder above would lead round and round
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(parent).resolve()
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield Path(parent, name)
