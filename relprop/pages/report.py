"""The page of evaluations: one file to send, which needs no network and no relprop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

from relprop.analysis import AnalysisError, Results
from relprop.analysis.exports import Written, check_place
from relprop.analysis.reports.statistics import CONFIDENCE
from relprop.analysis.tables import number, p_value
from relprop.pages.gallery import Gallery, make_gallery
from relprop.pages.rendering import write_page
from relprop.pages.runs import compare_pairs, describe_run
from relprop.store import merge
from relprop.store.config import canonical_json

MOST_SAMPLES = 1000
LARGEST_PAGE = 60_000_000
"""Bytes. Thumbnails are as small as that takes."""


def report(
    files: str | PathLike[str] | Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    pictures: str | PathLike[str] | None = None,
    methods: Iterable[str] | None = None,
    by: str = "gae",
    reference: str | None = None,
    samples: int = MOST_SAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Written:
    """Write what evaluations say as a page: summary, paired differences, plots, configuration, and every sample.

    The page is one file of at most 60 MB that any browser opens from disk: it asks for nothing from a network.

    Parameters
    ----------
    files : path or sequence of path
        What `relprop.evaluate` wrote, or is writing. Shards of one run are joined, those in a folder as they are.
    output : path
        The page, ``.html``.
    pictures : path, optional
        Folder of the data set's pictures: names in the files lead to those below it, and nowhere else. Without it the
        page shows maps alone.
    methods : iterable of str, optional
        Only these, names or patterns such as ``"absLRP*"``.
    by : str
        The score by which methods are compared and samples are sorted first.
    reference : str, optional
        The method that all others are compared with; by default the best one that is no control.
    samples : int
        How many samples the page holds at most. The summary is always of all.
    confidence : float
        Of the intervals, in (0, 1).
    seed : int
        Of the bootstrap.

    Returns
    -------
    Written
        Path and content of the page, and a remark on what is missing.

    Raises
    ------
    AnalysisError, UnknownMethodError
        If there is nothing to show, or no such method or score.
    StoreError
        If a file can't be read, or shards do not make one run.
    OutputError
        If the page can't be written, or would replace a file it is made from.
    MissingExtraError
        If a package of the extra ``report`` is missing.
    """
    paths = [Path(files)] if isinstance(files, str | PathLike) else [Path(file) for file in files]
    output = Path(output)
    if not paths:
        raise AnalysisError("there is no file to report on: name what relprop evaluate wrote")
    if samples < 0:
        raise AnalysisError(f"a page can't hold {samples} samples")
    folder = None if pictures is None else Path(pictures)
    if folder is not None and not folder.is_dir():
        raise AnalysisError(f"there is no folder of pictures {folder}")
    with ExitStack() as stack:
        runs = [
            (stack.enter_context(run), remark)
            for run, remark in _open_runs(paths, Path(stack.enter_context(TemporaryDirectory(prefix="relprop-"))))
        ]
        for run, _ in runs:
            check_place(run, output)
        if output.exists() and any(path.exists() and output.samefile(path) for path in paths):
            raise AnalysisError(f"{output} is one of the files the page is made from: name another one")
        chosen = [(run.select(methods=methods), remark) for run, remark in runs]
        sections = [
            describe_run(run, remark, pictures=folder, by=by, reference=reference, confidence=confidence, seed=seed)
            for run, remark in chosen
        ]
        pairs = tuple(compare_pairs([run for run, _ in chosen], by, confidence, seed))
        used = sum(len(plot.address) for section in sections for plot in section.plots)
        gallery = make_gallery([run for run, _ in chosen], folder, by, samples, LARGEST_PAGE - used - 500_000)
        remarks = _gallery_remarks(gallery, folder)
        context = {
            "title": "Evaluation of " + ", ".join(section.name for section in sections),
            "sections": sections,
            "pairs": pairs,
            "gallery": gallery,
            "remarks": remarks,
            "by": by,
            "number": number,
            "p_value": p_value,
        }
        write_page(output, "report.html", ("viewer.js", "gallery.js"), context)
    held = f"{len(gallery.pictures):,} samples, {sum(len(s.plots) for s in sections)} plots"
    size = f"{output.stat().st_size / 1e6:.1f} MB"
    return Written(str(output), f"{held}, {size}", "\n".join([*remarks, *(r for s in sections for r in s.remarks)]))


def _open_runs(paths: Sequence[Path], folder: Path) -> list[tuple[Results, str]]:
    """Open each run, shards of one joined, with a remark on what it is."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        with Results(path) as found:
            config = found.config
        shard = config.pop("shard", [0, 1])
        key = canonical_json(config) if shard != [0, 1] else str(path.resolve())
        groups.setdefault(key, []).append(path)
    runs = []
    for place, group in enumerate(groups.values()):
        if len(group) == 1:
            runs.append((Results(group[0]), ""))
            continue
        joined = folder / f"{place}.h5"
        merge(group, joined)
        run = Results(joined)
        run.path = group[0]
        runs.append((run, f"joined from {len(group)} shards: {', '.join(path.name for path in group)}"))
    return runs


def _gallery_remarks(gallery: Gallery, folder: Path | None) -> list[str]:
    shown = len(gallery.pictures)
    found = []
    if shown < gallery.total:
        found.append(
            f"the page holds the first {shown:,} of {gallery.total:,} samples; the summary and the plots are of all"
        )
    if gallery.absent:
        found.append(f"{gallery.absent:,} samples are not evaluated yet, so not shown")
    if gallery.without and folder is None:
        found.append(
            'no pictures are shown, as results files hold none: pass pictures="DIR" (--pictures DIR), the folder '
            "that was evaluated"
        )
    elif gallery.without:
        found.append(f"{gallery.without:,} samples have no picture of their names in the folder of pictures")
    if gallery.whole:
        found.append(
            f"{gallery.whole:,} pictures are shown whole, without overlays: which part of them the model saw can't be "
            "told"
        )
    return found
