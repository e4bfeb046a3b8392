"""The metric of the authors' code: GAE by its released protocol, over a data set."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from relprop.compat.abslrp_gae.relevancy_methods import RelevancyMethod
from relprop.errors import InputError, RelpropError
from relprop.evaluation import evaluate
from relprop.explanation.screen import show_figure
from relprop.gae import STATES
from relprop.store import State

PROPERTIES = ("local_consistency", "contrastiveness", "gae")
RunResults = dict[str, dict[str, Tensor]]
"""From a method's name and a property to the scores of the samples, ``(N,)``."""


class GlobalEvaluationMetric:
    """Score relevancy methods by GAE.

    Parameters
    ----------
    num_masking_steps : int
        Ten, as in the paper.
    device : str, optional
        Where to compute; by default where the model is.

    Attributes
    ----------
    results : dict
        Of the last run.
    """

    def __init__(self, num_masking_steps: int = STATES, device: str | None = None) -> None:
        if num_masking_steps != STATES:
            raise InputError(f"the metric has {STATES} masking steps, not {num_masking_steps}")
        self.device = device
        self.results: RunResults = {}

    def run(
        self,
        relevancy_methods: Mapping[str, RelevancyMethod],
        model: nn.Module,
        dataset: Any,
        batch_size: int,
        *,
        seed: int = 0,
    ) -> RunResults:
        """Score methods on pictures with labels.

        Parameters
        ----------
        relevancy_methods : mapping
            By name.
        model : nn.Module
            What the methods explain.
        dataset
            Of ``(picture, label)``, as `relprop.evaluate` takes.
        batch_size : int
            Pictures worked on at once, a multiple of four.
        seed : int
            The mosaics follow from it.

        Returns
        -------
        dict
            For each method the scores ``"local_consistency"``, ``"contrastiveness"`` and ``"gae"`` of all samples, each
            ``(N,)`` in the order of the data set.

        Raises
        ------
        RelpropError
            A method failed on a sample, or a sample could not be read.
        """
        if batch_size < 4 or batch_size % 4:
            raise InputError(f"batch_size is a multiple of four, the pictures of a mosaic, not {batch_size}")
        methods = {name: _maps(method) for name, method in relevancy_methods.items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.h5"
            found = evaluate(
                model,
                dataset,
                methods,
                path,
                protocol="released",
                unit=batch_size // 4,
                batch_size=batch_size,
                seed=seed,
                device=self.device,
                fail_fast=True,
            )
            with h5py.File(path) as file:
                good = file["samples/state"][:] == State.DONE
                if not good.all():
                    raise RelpropError(f"{int((~good).sum())} samples could not be scored: {found.failure}")
                self.results = {
                    name: {key: torch.from_numpy(file[f"methods/{name}/{key}"][:]) for key in PROPERTIES}
                    for name in methods
                }
        return self.results

    def plot(self, results: RunResults | None = None) -> Figure:
        """Show the means of the properties as bars, of the last run or of given results.

        Returns
        -------
        matplotlib.figure.Figure
            What is shown; its ``savefig`` writes it.

        Raises
        ------
        RelpropError
            If nothing was run.
        """
        results = results or self.results
        if not results:
            raise RelpropError("there are no results to plot: call run first, or pass results")
        figure = Figure(figsize=(max(5.0, 2.5 * len(results)), 4), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(PROPERTIES)
        for k, key in enumerate(PROPERTIES):
            means = [float(values[key].mean()) for values in results.values()]
            places = [place + k * width for place in range(len(results))]
            axes.bar_label(axes.bar(places, means, width, label=key.replace("_", " ")), fmt="%.2f")
        axes.set_xticks([place + width for place in range(len(results))], list(results))
        axes.margins(y=0.1)  # room for the numbers
        axes.set_ylabel("mean over the samples")
        axes.set_title("Global Attribution Evaluation, released protocol")
        figure.legend(loc="outside lower center", ncols=len(PROPERTIES))
        show_figure(figure)
        return figure


def _maps(method: RelevancyMethod) -> Any:
    return lambda x, target: method.relevancy(x, target)
