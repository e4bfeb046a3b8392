"""Finding damage in a file by reading all of it: which samples, methods and data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.store.description import has_seal, is_complete, rows_in_use
from relprop.store.errors import DamageError, FormatError
from relprop.store.hdf5.seal import BLOCK, damaged_blocks
from relprop.store.reading import open_evaluation
from relprop.store.validation import validate

READ_AT_ONCE = 1 << 24
"""Most bytes of a data set in memory."""
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, UnicodeError)
"""What h5py raises where it can't decode; `DamageError` is one of them."""
_NAMED = 8
"""Samples that a message names."""


@dataclass(frozen=True)
class Damage:
    """Something that can't be read, or is not what was written.

    Parameters
    ----------
    where : str
        The data set, group or attribute, as ``methods/absLRP/gae``.
    samples : tuple of int, optional
        Indices of the samples that are concerned; None where it is not of samples.
    """

    where: str
    samples: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.samples is None:
            return self.where
        named = ", ".join(map(str, self.samples[:_NAMED]))
        more = f" and {len(self.samples) - _NAMED} more" if len(self.samples) > _NAMED else ""
        return f"{self.where} of sample{'s' * (len(self.samples) > 1)} {named}{more}"


@dataclass(frozen=True)
class Survey:
    """What a file is worth, see `survey`.

    Parameters
    ----------
    path : str
        Of the file.
    format_version : int
        Of the file.
    samples : int
        How many it has.
    complete : bool
        Whether the run has ended.
    checked : bool
        Whether every byte could be compared with its checksum.
    damage : tuple of Damage
        What is damaged.
    departures : str
        What else is not as the format says; empty if nothing.
    """

    path: str
    format_version: int
    samples: int
    complete: bool
    checked: bool
    damage: tuple[Damage, ...]
    departures: str

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong, as far as it could be checked."""
        return not self.damage and not self.departures

    def __str__(self) -> str:
        head = f"{self.path}: format {self.format_version}, {self.samples} samples"
        head += ", complete" if self.complete else ", not complete"
        if self.damage:
            lines = "".join(f"\n  {damage}" for damage in self.damage)
            return f"{head}, damaged; all else can be read:{lines}"
        if self.departures:
            return f"{head}\n  {self.departures}"
        if self.checked:
            return f"{head}, sound: every byte is as it was written"
        why = "its writer was killed, resume the run" if self.format_version > 1 else "format 1 has no checksums"
        return f"{head}, readable; values are unchecked: {why}"

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say."""
        found = [
            {"where": one.where, "samples": None if one.samples is None else [*one.samples]} for one in self.damage
        ]
        return {**vars(self), "damage": found, "sound": self.sound}


def survey(path: str | PathLike[str]) -> Survey:
    """Read all of a file, and say what of it is damaged.

    Raises
    ------
    StoreError
        As `open_evaluation`: nothing of it can be read.
    """
    path = Path(path)
    with open_evaluation(path) as file:
        blocks = damaged_blocks(path) if has_seal(file) else None
        damage = tuple(find_damage(file)) if blocks != [] else ()
        if blocks and not damage:
            places = ", ".join(f"{start} to {start + BLOCK - 1}" for start in blocks[:_NAMED])
            damage = (Damage(f"bytes {places}, which hold no values"),)
        departures = "" if damage else _departures(file)
        return Survey(
            str(path),
            int(file.attrs["format_version"]),
            len(file["sample"]) if damage else rows_in_use(file),
            is_complete(file),
            blocks is not None,
            damage,
            departures,
        )


def find_damage(file: h5py.File) -> Iterator[Damage]:
    """Read every attribute and value of an open file, and yield what can't be read."""
    try:
        index: NDArray[Any] | None = file["sample"][:]
    except UNREADABLE:
        index = None
    yield from _find(file, "", index, set())


def refuse_damaged(path: Path, file: h5py.File) -> None:
    """Refuse a file that is open to be read, if a byte of it is not what was written.

    Raises
    ------
    DamageError
        It says which samples and methods.
    """
    if damaged_blocks(path):
        raise _error(file, [*find_damage(file)] or [Damage("space that holds no values")])


def damage_error(data: h5py.Dataset, rows: Iterable[int]) -> DamageError:
    """Return the error for rows of a data set of which some can't be read."""
    wrong = [row for row in sorted({int(row) for row in rows}) if [*_unreadable(data, row, row + 1)]]
    try:
        samples = tuple(data.file["sample"][:][wrong].tolist())
    except UNREADABLE:
        samples = tuple(wrong)
    return _error(data.file, [Damage(data.name.lstrip("/"), samples)])


def _error(file: h5py.File, damage: list[Damage]) -> DamageError:
    words = "; ".join(map(str, damage[:_NAMED])) + (
        f"; and {len(damage) - _NAMED} more" if len(damage) > _NAMED else ""
    )
    return DamageError(
        f"{file.filename} is damaged in {words}. Other samples and methods can be read (--method, Results.select); "
        "relprop validate lists what is damaged"
    )


def _find(group: h5py.Group, where: str, index: NDArray[Any] | None, seen: set[int]) -> Iterator[Damage]:
    seen.add(h5py.h5o.get_info(group.id).addr)
    yield from _attributes(group, where or "the root")
    try:
        names = sorted(group, key=lambda name: name in ("methods", "samples"))  # which have the scales again
    except UNREADABLE:
        yield Damage(f"{where or 'the root'}, all of it")
        return
    for name in names:
        place = f"{where}/{name}".lstrip("/")
        try:
            if isinstance(group.get(name, getlink=True), h5py.SoftLink):
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
        except UNREADABLE:
            yield Damage(f"{place}, all of it")
            continue
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, h5py.Group):
            yield from _find(item, place, index, seen)
        elif isinstance(item, h5py.Dataset):
            yield from _attributes(item, place)
            yield from _values(item, place, index)


def _attributes(holder: h5py.Group | h5py.Dataset, where: str) -> Iterator[Damage]:
    try:
        names = list(holder.attrs)
    except UNREADABLE:
        yield Damage(f"the attributes of {where}")
        return
    for name in names:
        try:
            holder.attrs[name]
        except UNREADABLE:
            yield Damage(f"the attribute {name} of {where}")


def _values(data: h5py.Dataset, where: str, index: NDArray[Any] | None) -> Iterator[Damage]:
    each = max(1, READ_AT_ONCE // max(1, data.dtype.itemsize * int(np.prod(data.shape[1:]))))
    rows = [row for at in range(0, len(data), each) for row in _unreadable(data, at, min(at + each, len(data)))]
    if not rows:
        return
    if index is None or len(index) != len(data) or data.is_scale:
        yield Damage(where)
    else:
        yield Damage(where, tuple(index[rows].tolist()))


def _unreadable(data: h5py.Dataset, start: int, stop: int) -> Iterator[int]:
    try:
        data.asstr()[start:stop] if h5py.check_string_dtype(data.dtype) else data[start:stop]
    except UNREADABLE:
        if stop - start == 1:
            yield start
        else:
            middle = (start + stop) // 2
            yield from _unreadable(data, start, middle)
            yield from _unreadable(data, middle, stop)


def _departures(file: h5py.File) -> str:
    try:
        validate(file)
    except FormatError as error:
        return str(error)
    return ""
