"""The samples of a report: their numbers, and thumbnails of picture, maps, overlays and masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relprop.analysis import Results
from relprop.analysis.plots.data_pictures import as_seen, drawn_heat, find_picture
from relprop.analysis.reports.summaries import HEADLINE, PARTS
from relprop.analysis.tables import plain
from relprop.pages.thumbnails import SIDES, choose_side, data_uri, mean_letters, shrunk
from relprop.pictures import Pixels, heat_colours, overlay, step_colours
from relprop.pictures.tiles import scaled, sharp, tile_size
from relprop.store import State
from relprop.store.schema import FLAGS, STATES

LARGEST = 224
"""Side of a thumbnail in pixels, where the page has room."""
PROBES = 6
"""Samples from which the size of thumbnails is estimated."""
MARGIN = 0.93
"""Of the room for thumbnails: those of the probes may be smaller than the others."""
_GAP = 6  # pixels between the two orders of masking


@dataclass
class Gallery:
    """What the page holds of samples.

    Parameters
    ----------
    facts : dict
        All but the pictures, as JSON can say it: the scripts read it.
    pictures : list of dict
        For each sample its thumbnails, as addresses of images that the page holds.
    total : int
        How many samples the runs have, without those that are absent yet.
    absent : int
        How many samples are still to be evaluated.
    without : int
        How many samples of the page have no picture.
    whole : int
        How many pictures are shown whole, as the part of them that the model saw is unknown.
    side : int
        Of thumbnails, in pixels.
    """

    facts: dict[str, Any]
    pictures: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    absent: int = 0
    without: int = 0
    whole: int = 0
    side: int = LARGEST

    @property
    def view(self) -> str:
        """What is shown first: the richest there is."""
        for view in ("overlay", "map"):
            if any(any(images[view]) for images in self.pictures):
                return view
        return "picture" if self.without < len(self.pictures) else "masks"


def make_gallery(runs: Sequence[Results], folder: Path | None, by: str, most: int, budget: int) -> Gallery:
    """Gather the samples of runs, the first ones of each where there are more than fit.

    Parameters
    ----------
    runs : sequence of Results
        Open files.
    folder : path, optional
        Of the pictures: no others are read.
    by : str
        The score that is chosen first.
    most : int
        Samples at most.
    budget : int
        Bytes of the page for thumbnails.
    """
    absent = sum(int((run.samples.state == State.ABSENT).sum()) for run in runs)
    runs = [run[run.samples.state != State.ABSENT] for run in runs]
    total = sum(map(len, runs))
    counts = _shares([len(run) for run in runs], most)
    side, fitting = _fit([run[:count] for run, count in zip(runs, counts, strict=True)], folder, sum(counts), budget)
    chosen = [run[:count] for run, count in zip(runs, _shares(counts, fitting), strict=True)]
    names = sorted({name for run in chosen for name in run.methods})
    gallery = Gallery(_facts(chosen, names, by), total=total, absent=absent, side=side)
    for run in chosen:
        for views in _views(run, folder, range(len(run))):
            gallery.without += views.picture is None
            gallery.whole += views.picture is not None and not views.aligned
            gallery.pictures.append(views.addresses(side, names))
    return gallery


@dataclass
class _Views:
    """The pictures of one sample, full size."""

    picture: Pixels | None
    aligned: bool
    maps: dict[str, Pixels]
    overlays: dict[str, Pixels]
    masks: Pixels | None

    def all(self) -> list[Pixels]:
        """Return all pictures of the sample, ``(H, W, 3)`` each."""
        found = [*self.maps.values(), *self.overlays.values()]
        return found + [image for image in (self.picture, self.masks) if image is not None]

    def addresses(self, side: int, methods: Sequence[str]) -> dict[str, Any]:
        """Return them as addresses of images, by view; of maps and overlays one for each method, or None."""

        def small(image: Pixels | None) -> str | None:
            return None if image is None else data_uri(shrunk(image, side))

        return {
            "picture": small(self.picture),
            "masks": small(self.masks),
            "map": [small(self.maps.get(name)) for name in methods],
            "overlay": [small(self.overlays.get(name)) for name in methods],
            "aligned": self.aligned,
        }


def _views(run: Results, folder: Path | None, places: Sequence[int]) -> Iterator[_Views]:
    """Draw what there is of some samples, one after the other."""
    preparation = (run.config.get("data") or {}).get("preparation")
    names, states = run.samples.name, run.samples.state
    kept = {name: run.state(name) for name in run.methods if run.has_maps(name)}
    for place in places:
        picture = find_picture(str(names[place]), folder)
        steps = run[place].steps()[0] if states[place] == State.DONE else None
        shape = None if steps is None else steps.shape[-2:]
        seen = None if picture is None or shape is None else as_seen(picture, preparation, shape)
        views = _Views(picture if seen is None else seen, seen is not None, {}, {}, None)
        if views.picture is not None:
            size = tile_size(views.picture.shape[:2], LARGEST)
            views.picture = scaled(views.picture, size)
        if steps is not None:
            views.masks = _draw_masks(steps)
        for name, state in kept.items():
            if state[place] != State.DONE:
                continue
            heat = drawn_heat(run[place].relevance(name)[0])
            size = tile_size(heat.shape, LARGEST)
            views.maps[name] = heat_colours(sharp(heat, size))
            if seen is not None:
                views.overlays[name] = scaled(overlay(seen, heat), size)
        yield views


def _draw_masks(steps: Any) -> Pixels:
    """Draw when each pixel is masked, ``(2, H, W)`` or ``(2, C, H, W)``, in both orders side by side."""
    orders = steps.mean(1) if steps.ndim == 4 else steps  # of elements: the mean over the channels
    size = tile_size(orders.shape[1:], LARGEST)
    images = [scaled(step_colours(order, STATES), size) for order in orders]
    gap = np.full((size[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([images[0], gap, images[1]], 1)


def _fit(runs: Sequence[Results], folder: Path | None, count: int, budget: int) -> tuple[int, int]:
    """Return the side of thumbnails, and how many samples fit into the page."""
    probe: list[Pixels] = []
    probed = 0
    for run in runs:
        places: list[int] = np.unique(np.linspace(0, len(run) - 1, PROBES).astype(int)).tolist() if len(run) else []
        for views in _views(run, folder, places):
            probe += views.all()
            probed += 1
    if not probed:
        return LARGEST, count
    images = len(probe) / probed
    room = int(budget * MARGIN)
    side = choose_side(probe, round(count * images), room, LARGEST)
    if side > SIDES[-1]:
        return side, count
    return side, min(count, int(room / max(1.0, images * mean_letters(probe, side))))


def _shares(counts: Sequence[int], most: int) -> list[int]:
    """Cut counts down, so that together they are no more than the most: the larger ones first."""
    left, found = most, list(counts)
    for rank, place in enumerate(sorted(range(len(counts)), key=lambda k: counts[k])):
        found[place] = min(counts[place], left // (len(counts) - rank))
        left -= found[place]
    return found


def _facts(runs: Sequence[Results], names: Sequence[str], by: str) -> dict[str, Any]:
    """Return the data of each sample, without its pictures."""
    scores: dict[str, Any] = {}
    for run in runs:
        scores |= {name: info for name, info in run.score_info.items() if name not in scores}
    # What people look for first, then further metrics, then what comes before clipping.
    metrics = [name for name in scores if name not in {*HEADLINE, *PARTS}]
    scores = {name: scores[name] for name in (*HEADLINE, *metrics, *PARTS) if name in scores}
    controls = {name for run in runs for name in run.methods if run.is_control(name)}
    kept = {name for run in runs for name in run.methods if run.has_maps(name)}
    methods = [{"name": name, "control": name in controls, "maps": name in kept} for name in names]
    return {
        "by": by,
        "scores": [
            {"name": i.name, "title": (HEADLINE | PARTS).get(i.name, i.name), "words": i.long_name, "sign": i.sign}
            for i in scores.values()
        ],
        "methods": methods,
        "runs": [run.path.name for run in runs],
        "samples": [one for number, run in enumerate(runs) for one in _samples(run, number, list(scores), names)],
    }


def _samples(run: Results, number: int, scores: Sequence[str], methods: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    samples, classes = run.samples, run.class_names
    probability = run.probability()[:, 0, 0]
    columns = {name: (run.state(name), run.messages(name), run.flags(name), run.scores(name)) for name in run.methods}

    def named(index: int) -> str:
        return "" if index < 0 else classes[index] if index < len(classes) else str(index)

    for k in range(len(samples)):
        label, prediction, target = (int(c[k]) for c in (samples.label, samples.prediction, samples.target))
        done = samples.state[k] == State.DONE
        yield {
            "run": number,
            "index": int(samples.index[k]),
            "name": str(samples.name[k]),
            "label": named(label),
            "prediction": named(prediction),
            "target": named(target),
            "right": None if label < 0 or not done else label == prediction,
            "probability": plain(round(float(probability[k]), 5)),
            "state": State(int(samples.state[k])).name.lower(),
            "message": str(samples.message[k]),
            "members": [int(member) for member in samples.mosaic_members[k]],
            "methods": [_method(columns[name], k, scores) if name in columns else None for name in methods],
        }


def _method(columns: tuple[Any, ...], k: int, scores: Sequence[str]) -> dict[str, Any]:
    """Return the state, scores and message of a method on one sample."""
    states, messages, flags, found = columns
    return {
        "state": State(int(states[k])).name.lower(),
        "message": str(messages[k]),
        "flags": [word for word, bit in FLAGS.items() if flags[k] & bit],
        "scores": [plain(round(float(found[s][k]), 5)) if s in found else None for s in scores],
    }
