"""Files are read by every version and other programs, and those that can't be say why."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from relprop.extras import MissingExtraError
from relprop.store import (
    EvaluationWriter,
    FormatError,
    Layout,
    MissingFileError,
    is_complete,
    method_names,
    open_evaluation,
    read_layout,
    read_method,
    survey,
    validate,
)
from tests.helpers.paths import ROOT
from tests.helpers.store_files import (
    ABSLRP,
    CLASSES,
    LAYOUT,
    SIDE,
    assert_same,
    config,
    method_rows,
    python,
    write_file,
)

GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize("version", [1, 2])
def test_the_golden_file_stays_readable(version: int) -> None:
    path = GOLDEN / f"evaluation-v{version}.h5"
    assert path.stat().st_size < 80_000
    assert survey(path).checked == (version > 1)
    with open_evaluation(path) as file:
        validate(file)
        assert file.attrs["format_version"] == version
        assert is_complete(file)
        assert method_names(file) == ("absLRP", "constant")
        assert list(file["class"].asstr()) == ["cat", "dög", "fish"]
        samples, group = file["samples"], file["methods/absLRP"]
        assert samples["state"][:].tolist() == [1, 1, 1, 2]
        assert samples["message"].asstr()[3] == "not a picture ✗"
        assert samples["name"].asstr()[1] == "pictures/001.png"
        assert samples["mosaic_members"][2].tolist() == [2, 3, 4, 5]
        assert samples["steps"][1, 0, 0].tolist() == [4, 3, 1, 10, 8, 7]
        assert samples["impact"][2, 5].tolist() == [1, 0, 0, -1, -1, 1]
        assert samples["logit"][0, 1, 9] == np.float32(0.35084242)
        assert samples["output"][2].tolist() == np.float32([54 / 1009, 910 / 1009, 757 / 1009]).tolist()
        assert group["gae"][:3].tolist() == np.float32([294 / 1009, 87 / 1009, 889 / 1009]).tolist()
        assert np.isnan(group["gae"][3])
        assert group["pointing"].attrs["direction"] == "higher is better"
        assert group["map_change"][1, 1, 8] == np.float32(0.13181368)
        assert group["maps/scale"][1] == np.float32(6.88107e-06)
        assert group["maps/relevance"][1, 2, 3] == np.float16(0.4282)
        assert read_method(file, "constant").config == {"control": "constant"}


def test_files_that_can_not_be_read_say_why(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    for name, content, words in (
        ("truncated.h5", data[: len(data) // 2], "truncated"),
        ("empty.h5", b"", "empty"),
        ("text.h5", b"not at all\n" * 100, "not an HDF5 file"),
    ):
        (tmp_path / name).write_bytes(content)
        for opening in (open_evaluation, lambda path: EvaluationWriter.resume(path, config(12), LAYOUT)):
            with pytest.raises(FormatError, match=words):
                opening(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    with pytest.raises(MissingFileError, match=r"there is no file .*nothing.h5"):
        open_evaluation(tmp_path / "nothing.h5")
    with pytest.raises(FormatError, match="folder"):
        open_evaluation(tmp_path)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["maps"] = np.arange(3)
    with pytest.raises(FormatError, match="not a file of an evaluation"):
        open_evaluation(foreign)
    newer = tmp_path / "newer.h5"
    newer.write_bytes(data)
    with h5py.File(newer, "r+") as file:
        file.attrs["format_version"] = 3
    with pytest.raises(FormatError, match="has format version 3, and this relprop reads up to 2"):
        open_evaluation(newer)


def test_zstd_needs_its_package_to_write_and_to_read(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(h5py.h5z, "filter_avail", lambda code: False)
        patch.setitem(sys.modules, "hdf5plugin", None)
        with pytest.raises(MissingExtraError, match=r"relprop\[zstd\]"):
            EvaluationWriter.create(tmp_path / "a.h5", config(12), Layout((4, 4), 2, compression="zstd"), range(12))
    assert not os.listdir(tmp_path)
    pytest.importorskip("hdf5plugin")
    layout = Layout((SIDE, SIDE), CLASSES, LAYOUT.class_names, compression="zstd", level=3)
    path = write_file(tmp_path / "zstd.h5", range(12), config(12), layout)
    assert_same(path, whole)
    with open_evaluation(path) as file:
        assert read_layout(file) == layout
    with monkeypatch.context() as patch:
        patch.setattr(h5py.h5z, "filter_avail", lambda code: False)
        patch.setitem(sys.modules, "hdf5plugin", None)
        with pytest.raises(MissingExtraError, match=r"zstd.h5, compressed with zstd, needs hdf5plugin"):
            open_evaluation(path)


XARRAY = """
import sys
import numpy as np, xarray
path, engine = sys.argv[1:]
with xarray.open_dataset(path, engine=engine) as root:
    assert root.attrs["complete"] == 1 and list(root["class"].values) == ["cat", "dög", "fish"]
with xarray.open_dataset(path, engine=engine, group="samples") as samples:
    samples.load()
    assert samples["logit"].dims == ("sample", "order", "masking_state")
    names = samples["name"] if engine == "netcdf4" else samples["name"].str.decode("utf-8")
    assert names.sel(sample=3) == "pictures/003.png"
with xarray.open_dataset(path, engine=engine, group="methods/absLRP") as method:
    method.load()
    assert dict(method.sizes) == {"sample": 12, "order": 2, "masked_state": 9}
    assert method["map_change"].sel(order="lerf", masked_state=9).dims == ("sample",)
    assert method["gae"].dtype == np.float32 and method["gae"].attrs["direction"] == "higher is better"
    assert method["sample"].values.tolist() == list(range(12))
    print(float(method["gae"].sel(sample=5)))
if engine == "h5netcdf":
    with xarray.open_dataset(path, engine=engine, group="methods/absLRP/maps") as maps:
        assert (maps["relevance"].astype("f4") * maps["scale"]).dims == ("sample", "y", "x")
"""


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize(("engine", "package"), [("h5netcdf", "h5netcdf"), ("netcdf4", "netCDF4")])
def test_xarray_opens_groups_with_coordinates(whole: Path, engine: str, package: str) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip(package)
    process = python(XARRAY, whole, engine)  # apart: both libraries bring an HDF5 of their own
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert float(out) == np.float32(method_rows([5], ABSLRP)["gae"][0])


def test_the_store_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import relprop.store; print(relprop.store.State.DONE)"
    assert python(code).communicate() == ("1\n", "")
