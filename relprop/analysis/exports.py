"""Writing results as CSV, Parquet or netCDF."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relprop.analysis.records import AnalysisError
from relprop.analysis.tables import plain
from relprop.extras import extra
from relprop.files import OutputError, written_whole

if TYPE_CHECKING:
    from relprop.analysis.results import Results

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How text begins that a spreadsheet carries out."""
SUFFIXES = {".csv": "CSV", ".parquet": "Parquet", ".nc": "netCDF"}


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Parameters
    ----------
    path : str
        Of the file.
    holds : str
        What is in it.
    remark : str
        What one should know of it; empty if nothing.
    """

    path: str
    holds: str
    remark: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.holds}" + (f"\n{self.remark}" if self.remark else "")

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return dict(plain(self))


def export(results: Results, path: str | PathLike[str], maps: bool = False) -> Written:
    """Write the samples and methods selected as CSV, Parquet or netCDF, by the suffix: the whole file or none.

    Parameters
    ----------
    results : Results
        A file of an evaluation, or a selection from it.
    path : path
        ``.csv`` or ``.parquet``: one row for each sample and method, as `Results.to_pandas`. ``.nc``: labelled arrays,
        as `Results.to_xarray`. In a ``.csv`` an apostrophe comes before text that a spreadsheet would take
        for a formula.
    maps : bool
        Of netCDF: also relevance maps, masks and outputs.

    Raises
    ------
    AnalysisError
        If the suffix is another one, or a table shall hold maps.
    OutputError
        If the file can't be written, or is the one that is read.
    MissingExtraError
        If a package of the extra ``analysis`` is missing.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        suffixes = ", ".join(f"{suffix} ({name})" for suffix, name in SUFFIXES.items())
        raise AnalysisError(f"cannot tell the format of {path} by its name: give it one of the suffixes {suffixes}")
    if maps and suffix != ".nc":
        raise AnalysisError(f"{SUFFIXES[suffix]} holds a table, no maps: write them as netCDF (.nc)")
    check_place(results, path)
    if suffix == ".nc":
        with extra("analysis", "netCDF"):
            import h5netcdf  # noqa: F401 - xarray would say in its own words that it is missing
        arrays = results.to_xarray(maps=maps)
        content = arrays.to_netcdf(None, engine="h5netcdf")  # in memory first: HDF5 crashes on a disk that gets full
        with written_whole(path) as part:
            part.write_bytes(content)
        held = f"{len(results.methods)} methods x {len(results)} samples, {len(arrays.data_vars)} variables"
        return Written(str(path), held)
    if suffix == ".parquet":
        with extra("analysis", "Parquet"):
            import pyarrow  # noqa: F401 - likewise
    table = results.to_pandas()
    with written_whole(path) as part:
        if suffix == ".csv":
            _without_formulas(table).to_csv(part, index=False)
        else:
            table.to_parquet(part, index=False, engine="pyarrow")
    return Written(str(path), f"{len(table)} rows, one for each sample and method")


def _without_formulas(table: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would take for a formula and carry out."""

    def safe(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value

    text = table.select_dtypes(exclude=["number", "bool"])
    return table.assign(**{name: column.map(safe) for name, column in text.items()}).rename(columns=safe)


def check_place(results: Results, path: Path) -> None:
    """Refuse a folder that is not there, and the file that is read: libraries say the first in words of their own."""
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    if path.exists() and path.resolve() == results.path.resolve():
        raise OutputError(f"cannot write {path}: that is the file the results are read from; name another one")
