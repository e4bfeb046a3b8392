"""A folder of pictures as a data set, with the labels that its subfolders or a table say."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from relprop.errors import first_line, near_names
from relprop.evaluation.data.samples import DataError, Item
from relprop.models import PictureError, find_pictures

FILE_COLUMNS = ("file", "filename", "path", "image", "name")
CLASS_COLUMNS = ("class_index", "label", "class", "target", "index")
"""What a table of labels may call its columns, the first that is there is taken."""


@dataclass(frozen=True)
class Listing:
    """What was found in a folder of pictures, for machines that may not see it; made by `list_pictures`.

    Parameters
    ----------
    base : Path, optional
        The folder; None where several places were searched.
    paths : sequence of path
        Of the pictures.
    names : sequence of str
        Relative to the folder, or of the files alone.
    sizes : sequence of int
        Bytes of each file.
    """

    base: Path | None
    paths: Sequence[str | PathLike[str]]
    names: Sequence[str]
    sizes: Sequence[int]


def list_pictures(places: str | PathLike[str] | Sequence[str | PathLike[str]]) -> Listing:
    """Return the pictures of a folder, or of files and folders; raise `PictureError` where there are none."""
    given = [Path(places)] if isinstance(places, str | PathLike) else [Path(one) for one in places]
    paths = find_pictures(given)
    base = given[0] if len(given) == 1 and given[0].is_dir() else None
    names = [path.name if base is None else path.relative_to(base).as_posix() for path in paths]
    return Listing(base, paths, names, [_size(path) for path in paths])


class PictureFolder:
    """Pictures in a folder and its subfolders, sorted by path.

    Labels come from a table, or from subfolders that stand for classes: where each picture lies in one, their names are
    class names, ImageNet synsets (``n01440764``) or class numbers. Other names are an error where the names of the
    classes are known, and else say nothing.

    Parameters
    ----------
    folder : path, sequence of path or Listing
        Searched as by `relprop.models.find_pictures`; or files and folders, without labels by subfolder; or what was
        found before.
    labels : path, mapping or False, optional
        A table (CSV with a header): a column ``file``, relative to the folder or a name alone, and a column
        ``class_index``. See `FILE_COLUMNS` and `CLASS_COLUMNS` for other names. Or what `read_label_table` read of it.
        False: subfolders are no classes.
    class_names : sequence of str
        Of the model's classes, to understand the names of subfolders.

    Raises
    ------
    PictureError
        There is no such folder, or no picture in it.
    DataError
        The table can't be read, or has no line for some picture; or subfolders are called after no class.
    """

    def __init__(
        self,
        folder: str | PathLike[str] | Sequence[str | PathLike[str]] | Listing,
        *,
        labels: str | PathLike[str] | Mapping[str, int] | Literal[False] | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self.listing = folder if isinstance(folder, Listing) else list_pictures(folder)
        if labels is False:
            self.labels: list[int] | None = None
        elif isinstance(labels, Mapping):
            self.labels = _labels_of(self.names, labels, "the table of labels")
        elif labels is not None:
            self.labels = _labels_of(self.names, read_label_table(Path(labels)), labels)
        else:
            self.labels = _labels_by_folder(self.names, class_names)

    @property
    def paths(self) -> Sequence[str | PathLike[str]]:
        """Of all pictures."""
        return self.listing.paths

    @property
    def names(self) -> Sequence[str]:
        """Of all pictures, relative to the folder or of the files alone."""
        return self.listing.names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        label = None if self.labels is None else self.labels[index]
        return Item(self.paths[index], label, name=self.names[index])

    def fingerprint(self) -> str:
        """Return a hash of names, file sizes and labels: not of the folder's place."""
        digest = hashlib.sha256()
        for position, (name, size) in enumerate(zip(self.names, self.listing.sizes, strict=True)):
            label = None if self.labels is None else self.labels[position]
            digest.update(f"{name}\0{size}\0{label}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def read_label_table(path: Path) -> dict[str, int]:
    """Read a table of files and class indices.

    Raises
    ------
    DataError
        It can't be read, lacks a column, or has something else than a number for a class.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or ()
            file_column = next((name for name in FILE_COLUMNS if name in columns), None)
            class_column = next((name for name in CLASS_COLUMNS if name in columns), None)
            if file_column is None or class_column is None:
                raise DataError(
                    f"{path} is no table of labels: its first line must name the columns file and class_index, not "
                    f"{', '.join(columns) or 'nothing'}"
                )
            table = {}
            for row in rows:
                name, value = row[file_column], row[class_column]
                if not (value or "").strip().isdecimal():
                    raise DataError(f"{path}, line {rows.line_num}: {value!r} is no class index")
                table[name] = int(value)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise DataError(f"cannot read labels {path}: {reason}") from error
    return table


def _labels_of(names: Sequence[str], table: Mapping[str, int], path: str | PathLike[str]) -> list[int]:
    found = [table.get(name, table.get(name.rpartition("/")[2])) for name in names]
    missing = [name for name, label in zip(names, found, strict=True) if label is None]
    if missing:
        raise DataError(f"{path} has no label for {len(missing)} of {len(names)} pictures, {missing[0]} among them")
    return [label for label in found if label is not None]


def _labels_by_folder(names: Sequence[str], class_names: Sequence[str]) -> list[int] | None:
    if not all("/" in name for name in names):
        return None
    folders = [name.partition("/")[0] for name in names]
    present = sorted(set(folders))
    named: dict[str, list[int]] = {}
    for index, name in enumerate(class_names):
        named.setdefault(_spelled(name), []).append(index)
    if all(_spelled(folder) in named for folder in present):
        for folder in present:
            if len(several := named[_spelled(folder)]) > 1:
                raise DataError(
                    f"classes {' and '.join(map(str, several))} are both called {folder!r}: call the subfolders by "
                    "ImageNet's synsets, or by the numbers of the classes"
                )
        return [named[_spelled(folder)][0] for folder in folders]
    synsets = _synsets(len(class_names))
    if all(folder in synsets for folder in present):
        return [synsets[folder] for folder in folders]
    if all(folder.isdecimal() and str(int(folder)) == folder for folder in present):
        return [int(folder) for folder in folders]
    if not class_names:
        return None
    odd = [folder for folder in present if _spelled(folder) not in named and folder not in synsets] or present
    more = f" and {len(odd) - 1} more are" if len(odd) > 1 else " is"
    raise DataError(
        f"the subfolder {odd[0]!r}{more} called after no class of the model{near_names(odd[0], class_names)}. Call "
        "subfolders by the names of the classes, by ImageNet's synsets or by the numbers of the classes; or give a "
        "table of labels, or say that there are none: <labels>",
        labels='"labels.csv" or False',
    )


def _spelled(name: str) -> str:
    """Write a class name as one is compared with that of a folder: capitals and underscores make no difference."""
    return name.casefold().replace("_", " ")


def _synsets(classes: int) -> dict[str, int]:
    subset = infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return {}
    return {synset: index for index, synset in enumerate(ImageNetInfo(subset).label_names())}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise PictureError(f"cannot read picture {path}: {error.strerror}") from error
