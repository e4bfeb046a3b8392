"""The index of all pictures and classes: a part for each shard, joined into one Parquet file in the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from relprop.cli.explaining.sharded.storage import Sample
from relprop.files import written_whole
from relprop.store.writing.rows import spelled

SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("file", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("row", pa.int32()),
        ("target", pa.int32()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("predicted", pa.int32()),
        ("conservation_error", pa.float64()),
        ("lost", pa.float64()),
        ("map_difference", pa.float64()),
        ("caution", pa.string()),
        ("scale", pa.float64()),
        ("state", pa.string()),
        ("message", pa.string()),
    ]
)
"""A row for each picture and class, and for each picture that failed; what is not known is null, or -1.

``number`` is the place of the picture among all, ``row`` that of the map in an HDF5
shard, ``key`` its name in a tar. ``state`` is ``done`` or ``failed``.
"""
DONE, FAILED = "done", "failed"
UNKNOWN = -1
"""A whole number that is not known: as null it would make the others fractions in pandas."""
WHOLE_NUMBERS = ("row", "target", "predicted")


def write_part(path: Path, shard: str, samples: Iterable[Sample]) -> None:
    """Write the rows of a shard, whole or not at all."""
    rows, done = [], 0
    for sample in samples:
        entry = sample.entry
        if sample.content is None:
            known = {"number": entry["number"], "file": entry["file"], "key": sample.key}
            rows.append(known | {"state": FAILED, "message": entry["error"]})
            continue
        known = {name: entry.get(name) for name in SCHEMA.names}
        rows.append(known | {"shard": shard, "key": sample.key, "row": done, "state": DONE, "message": ""})
        done += 1
    with written_whole(path) as part:
        pq.write_table(pa.Table.from_pylist([_storable(row) for row in rows], SCHEMA), part)


def join_parts(parts: Sequence[Path], path: Path) -> None:
    """Join the rows of all shards, one shard in memory at a time."""
    with written_whole(path) as part, pq.ParquetWriter(part, SCHEMA) as writer:
        for rows in parts:
            writer.write_table(pq.read_table(rows, schema=SCHEMA))


def count_pictures(path: Path) -> tuple[int, int]:
    """Return how many pictures of an index are done, and how many failed."""
    counts = {DONE: 0, FAILED: 0}
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):  # a picture is in one of them, with all its classes
            rows = file.read_row_group(group, columns=["number", "state"])
            for state in counts:
                counts[state] += pc.count_distinct(rows.filter(pc.equal(rows["state"], state))["number"]).as_py()
    return counts[DONE], counts[FAILED]


def _storable(row: dict[str, Any]) -> dict[str, Any]:
    texts = {name: spelled(value).decode() for name, value in row.items() if isinstance(value, str)}
    return row | texts | {name: UNKNOWN for name in WHOLE_NUMBERS if row.get(name) is None}
