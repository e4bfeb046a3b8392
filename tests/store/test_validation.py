"""What a file is: its specification, and what validation finds wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from relprop import gae
from relprop.store import (
    FLAGS,
    FormatError,
    is_complete,
    method_names,
    open_evaluation,
    read_layout,
    read_method,
    schema,
    validate,
)
from tests.helpers.store_files import (
    ABSLRP,
    LAYOUT,
    METHODS,
    method_rows,
    sample_rows,
)


def test_the_specification_agrees_with_the_metric() -> None:
    assert {flag.name.lower(): flag.value for flag in gae.Flag if flag.name} == FLAGS
    assert schema.ORDERS == gae.ORDERS
    assert schema.STATES == gae.STATES


def test_a_complete_file_is_valid_and_holds_what_was_written(whole: Path) -> None:
    rows, scores = sample_rows(range(12)), method_rows(range(12), ABSLRP)
    with open_evaluation(whole) as file:
        validate(file)
        assert is_complete(file)
        assert read_layout(file) == LAYOUT
        assert [read_method(file, name) for name in method_names(file)] == list(METHODS)
        np.testing.assert_array_equal(file["sample"][:], np.arange(12))
        assert list(file["samples/name"].asstr()) == rows.pop("name")
        for name, values in rows.items():
            np.testing.assert_array_equal(file["samples"][name][:], values, err_msg=name)
        maps = np.array(scores.pop("relevance"))
        group = file["methods/absLRP"]
        for name, values in scores.items():
            np.testing.assert_array_equal(group[name][:], np.asarray(values, "f4"), err_msg=name)
        np.testing.assert_array_equal(group["maps/scale"][:], np.abs(maps).max((1, 2)))
        kept = group["maps/relevance"][:].astype("f8") * group["maps/scale"][:][:, None, None]
        assert np.abs(kept - maps).max() <= 2**-11 * np.abs(maps).max()
        assert np.isnan(group["seconds"][:]).all()
        assert "maps" not in file["methods/constant"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.attrs.pop("versions"), "no attribute versions"),
        (lambda file: file.attrs.modify("config", '{"seed":1}'), "config_sha256 of the root"),
        (lambda file: file.pop("methods/absLRP/gae"), "no data set methods/absLRP/gae"),
        (lambda file: file["samples/state"].write_direct(np.full(12, 9, "u1")), "codes that stand for nothing"),
        (lambda file: file["samples/state"].write_direct(np.zeros(12, "u1")), "complete is 1 and 12 rows are absent"),
        (lambda file: file["sample"].write_direct(np.zeros(12, "i8")), "ascending"),
        (lambda file: file["samples/logit"].attrs.pop("units"), "samples/logit has no attribute units"),
        (lambda file: file["samples/logit"].attrs.pop("DIMENSION_LIST"), "samples/logit has no scale order at axis 1"),
        (lambda file: file.pop("methods/constant/sample"), "has no sample beside it"),
    ],
)
def test_validate_says_what_is_wrong(whole: Path, tmp_path: Path, change: Any, words: str) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(whole.read_bytes())
    with h5py.File(copy, "r+") as file:
        change(file)
    with h5py.File(copy) as file, pytest.raises(FormatError, match=words):
        validate(file)
