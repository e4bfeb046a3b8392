"""Files of strangers: they lead nowhere, hang nothing, fill no memory and steer no terminal or spreadsheet."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from relprop.cli.terminal import printable
from relprop.pictures.lettering import Style, fit, measure
from relprop.pictures.reading import PictureError, read_picture
from relprop.store import EvaluationWriter, FormatError, merge, open_evaluation
from tests.helpers.store_files import LAYOUT, config, write_file

SECRET = b"secret " * 64


def link(file: h5py.File, victim: Path) -> None:
    del file["samples/label"]
    file["samples/label"] = h5py.ExternalLink(str(victim), "/label")


def raw_values(file: h5py.File, victim: Path) -> None:
    del file["samples/label"]
    file["samples"].create_dataset("label", (4,), "i4", external=[(str(victim), 0, 16)])


def virtual(file: h5py.File, victim: Path) -> None:
    del file["samples/label"]
    layout = h5py.VirtualLayout((4,), "i4")
    layout[:] = h5py.VirtualSource(str(victim), "label", (4,))
    file["samples"].create_virtual_dataset("label", layout)


def elsewhere(file: h5py.File, victim: Path) -> None:
    file["methods/mine"] = h5py.ExternalLink(str(victim), "/")


@pytest.mark.parametrize("make", [link, raw_values, virtual, elsewhere])
def test_what_leads_out_of_a_file_is_refused(tmp_path: Path, make: Callable[[h5py.File, Path], None]) -> None:
    path, victim = write_file(tmp_path / "run.h5", range(4), config(4)), tmp_path / "victim"
    victim.write_bytes(SECRET)
    with h5py.File(path, "r+") as file:
        make(file, victim)
    before = path.read_bytes()
    for use in (
        lambda: open_evaluation(path),
        lambda: EvaluationWriter.resume(path, config(4), LAYOUT),
        lambda: merge([path], tmp_path / "out.h5"),
    ):
        with pytest.raises(FormatError, match="is refused"):
            use()
    assert victim.read_bytes() == SECRET
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["run.h5", "victim"]


def test_maps_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    from relprop.evaluation.methods import MethodError
    from relprop.evaluation.methods.precomputed import Precomputed

    (tmp_path / "victim").write_bytes(SECRET)
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file.create_dataset("maps", (4, 2, 2), "f4", external=[(str(tmp_path / "victim"), 0, 64)])
    with pytest.raises(MethodError, match="is refused"):
        Precomputed(tmp_path / "maps.h5")


def test_soft_links_and_circles_within_a_file_do_no_harm(tmp_path: Path) -> None:
    path = write_file(tmp_path / "run.h5", range(4), config(4))
    with h5py.File(path, "r+") as file:
        file["again"] = h5py.SoftLink("/samples")
        file["nowhere"] = h5py.SoftLink("/nowhere/at/all")
        file["samples/all"] = file["/"]
    with open_evaluation(path) as file:
        assert len(file["again/label"]) == 4


def test_configurations_without_end_are_told(tmp_path: Path) -> None:
    path = write_file(tmp_path / "run.h5", range(4), config(4))
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = "[" * 20_000
    with pytest.raises(FormatError, match="is no JSON"):
        EvaluationWriter.resume(path, config(4), LAYOUT)


def huge_png(path: Path, side: int) -> None:
    """Write a PNG that says it has so many rows, of which it holds a few."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(3 * side + 1))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_pictures_that_never_end_or_fill_the_memory_are_refused(tmp_path: Path) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "zero.png").symlink_to("/dev/zero")
        for name in ("pipe.png", "zero.png"):
            with pytest.raises(PictureError, match="no regular file"):
                read_picture(tmp_path / name)
    huge_png(tmp_path / "huge.png", 30_000)
    with pytest.raises(PictureError, match="pixels"):
        read_picture(tmp_path / "huge.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(PictureError, match="in no known format"):
        read_picture(tmp_path / "text.png")


def test_long_words_are_wrapped_in_time_and_as_before() -> None:
    style = Style(9, "black")
    start = time.process_time()
    lines = fit("x" * 100_000, 300, style, 3)
    assert time.process_time() - start < 5
    assert len(lines) <= 3
    assert all(measure(line, style) <= 300 for line in lines)
    word = "W" * 40
    broken = fit(word, 120, style, 40)
    assert "".join(broken) == word
    for line in broken[:-1]:  # one letter more would not fit
        assert measure(line, style) <= 120 < measure(line + "W", style)


def test_nothing_steers_a_terminal() -> None:
    name = "cat\x1b]0;owned\x07\x9b2J\u202egnp.exe\r\x00 ä 猫\n\tend"
    shown = printable(name)
    assert not set(shown) & set("\x1b\x07\x9b\u202e\r\x00")
    assert "ä 猫\n\tend" in shown


def test_text_that_a_spreadsheet_would_carry_out_is_quoted() -> None:
    pandas = pytest.importorskip("pandas")
    from relprop.analysis.exports import _without_formulas

    table = pandas.DataFrame({"name": ["=cmd|' /C calc'!A0", "cat", "-1+1", "@x", ""], "gae": np.array([-1.0] * 5)})
    safe = _without_formulas(table.assign(**{"=evil": 1}))
    assert safe["name"].tolist() == ["'=cmd|' /C calc'!A0", "cat", "'-1+1", "'@x", ""]
    assert safe["gae"].tolist() == [-1.0] * 5
    assert list(safe.columns) == ["name", "gae", "'=evil"]
