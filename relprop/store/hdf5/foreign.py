"""Refusing files that lead elsewhere, by links or values kept in other files, as a stranger's file may."""

from __future__ import annotations

import os

import h5py

from relprop.store.errors import DamageError, FormatError


def refuse_foreign(file: h5py.File) -> None:
    """Refuse a file that would have others read or written in its name, before anything of it is.

    Raises
    ------
    FormatError
        If it has a link to another file or of a kind of its own, a data set whose values another file keeps, or
        groups that can't be walked.
    """
    try:
        found = _find(h5py.h5g.open(file.id, b"/"), "", set())
    except DamageError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # all of them are h5py's
        raise FormatError(f"{file.filename} is damaged, its groups can't be walked: {error}") from error
    if found is not None:
        raise FormatError(f"{file.filename} is refused: {found}")


def _find(group: h5py.h5g.GroupID, where: str, seen: set[int]) -> str | None:
    """Say how a group, or one below it, leads out of the file; what is damaged can't be followed, by nobody.

    Every file is walked when it is opened, by identifiers of HDF5: h5py's objects take three times as long.
    """
    seen.add(h5py.h5o.get_info(group).addr)
    try:
        names = list(group)
    except DamageError:
        return None
    for name in names:
        place = f"{where}/{name.decode(errors='replace')}".lstrip("/")
        try:
            link = group.links.get_info(name)
            if link.type == h5py.h5l.TYPE_HARD and link.u in seen:
                continue  # as scales, which every group has
            if link.type == h5py.h5l.TYPE_SOFT:
                continue  # within the file
            if link.type == h5py.h5l.TYPE_EXTERNAL:
                return f"its {place} is a link to the file {os.fsdecode(group.links.get_val(name)[0])}"
            item = h5py.h5o.open(group, name)
        except DamageError:
            continue
        seen.add(h5py.h5o.get_info(item).addr)
        if isinstance(item, h5py.h5d.DatasetID) and (found := _kept_outside(item, place)) is not None:
            return found
        if isinstance(item, h5py.h5g.GroupID):
            found = _find(item, place, seen)
            if found is not None:
                return found
    return None


def _kept_outside(data: h5py.h5d.DatasetID, place: str) -> str | None:
    """Say how the values of a data set are kept out of the file, or nothing."""
    properties = data.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        return f"its {place} is a virtual data set, of values in other files"
    if properties.get_external_count():
        return f"the values of its {place} are in another file"
    return None
