"""What leads out of a file: links to other files, values kept in them. A file from a stranger must not name any."""

from __future__ import annotations

from typing import Any

import h5py

from relprop.store.errors import FormatError


def refuse_foreign(file: h5py.File) -> None:
    """Refuse a file that would have others read or written in its name, before anything of it is.

    Raises
    ------
    FormatError
        If it has a link to another file or of a kind of its own, a data set whose values another file keeps, or
        groups that can't be walked.
    """
    try:
        found = file.visititems_links(lambda name, link: _leads_out(file, name, link))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # all of them are h5py's
        raise FormatError(f"{file.filename} is damaged, its groups can't be walked: {error}") from error
    if found is not None:
        raise FormatError(f"{file.filename} is refused: {found}")


def _leads_out(file: h5py.File, name: str, link: Any) -> str | None:
    """Say how a link leads out of the file, or nothing."""
    if isinstance(link, h5py.SoftLink):
        return None  # within the file
    if isinstance(link, h5py.ExternalLink):
        return f"its {name} is a link to the file {link.filename}"
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        return None
    if item.is_virtual:
        return f"its {name} is a virtual data set, of values in other files"
    if item.id.get_create_plist().get_external_count():
        return f"the values of its {name} are in another file"
    return None
