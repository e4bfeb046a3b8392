"""Shards that are merged equal the single run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from relprop.files import OutputError
from relprop.store import (
    EvaluationWriter,
    MergeError,
    Method,
    merge,
    open_evaluation,
    validate,
)
from tests.helpers.store_files import (
    CONSTANT,
    LAYOUT,
    assert_same,
    config,
    method_rows,
    write_file,
)


def shards(folder: Path, count: int = 12, parts: int = 3, **changes: Any) -> list[Path]:
    return [
        write_file(folder / f"shard{part}.h5", range(part, count, parts), config(count, (part, parts), **changes))
        for part in range(parts)
    ]


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("block", [1 << 24, 100])
def test_merged_shards_equal_the_single_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(sys.modules["relprop.store.writing.copying"], "READ_AT_ONCE", block)
    parts = shards(tmp_path)
    merge(parts[::-1], tmp_path / "merged.h5")
    assert_same(tmp_path / "merged.h5", whole)
    with open_evaluation(tmp_path / "merged.h5") as file:
        validate(file)
    with pytest.raises(OutputError, match="exists: pass overwrite=True or another name"):
        merge(parts, tmp_path / "merged.h5")


@pytest.mark.full
def test_files_that_are_not_the_shards_of_one_run_are_refused(whole: Path, tmp_path: Path) -> None:
    parts = shards(tmp_path)
    others = tmp_path / "others"
    others.mkdir()
    other_seed = shards(others, seed=1)[1]
    overlap = write_file(tmp_path / "overlap.h5", [0, 1, 4, 7, 10], config(12, (1, 3)))
    gap = write_file(tmp_path / "gap.h5", [1, 4, 7], config(12, (1, 3)))
    beyond = write_file(tmp_path / "beyond.h5", [1, 4, 7, 10, 13], config(12, (1, 3)))
    more = tmp_path / "more.h5"
    more.write_bytes(parts[1].read_bytes())
    EvaluationWriter.resume(more, config(12, (1, 3)), LAYOUT, methods=[Method("more", {})]).close()
    incomplete = tmp_path / "incomplete.h5"
    incomplete.write_bytes(more.read_bytes())
    with EvaluationWriter.resume(more, config(12, (1, 3)), LAYOUT) as writer:
        writer.write_method("more", slice(None), method_rows(writer.index.tolist(), CONSTANT))
        writer.finish()
    out = tmp_path / "out.h5"
    for chosen, words in (
        ([], "no shards"),
        ([parts[0], parts[2]], "missing: 1"),
        ([*parts, parts[0]], "both shard 0"),
        ([parts[0], other_seed, parts[2]], "seed is 0 in .* and 1 in"),
        ([parts[0], overlap, parts[2]], "1 samples are in two shards, the first with index 0"),
        ([parts[0], gap, parts[2]], "1 samples are in no shard, the first with index 10"),
        ([parts[0], beyond, parts[2]], "13 samples, and the data set 12"),
        ([parts[0], incomplete, parts[2]], "not complete"),
        ([parts[0], more, parts[2]], "do not both have the methods more"),
        ([whole, *parts], "shard is 1 in .* and 3 in"),
    ):
        with pytest.raises(MergeError, match=words):
            merge(chosen, out)
        assert not out.exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
