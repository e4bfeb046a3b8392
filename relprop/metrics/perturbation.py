"""The model's output while pixels are removed by relevance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from relprop.errors import InputError
from relprop.gae.checks import Model, Target, check_map, check_model, check_output, check_pictures, check_target
from relprop.gae.masking import LERF, MORF, Baseline, as_colour, sort_keys


@dataclass(frozen=True)
class PerturbationCurves:
    """The target's output while a picture is taken away, most or least relevant regions first.

    Parameters
    ----------
    target : Tensor
        Class of each sample, ``(B,)``.
    fraction : Tensor
        Share of the regions that is removed at each point of the curves, ``(steps + 1,)`` from 0 to 1.
    logit, probability : Tensor
        Output of the class and its softmax, ``(B, 2, steps + 1)``. The axis of length two follows
        `relprop.gae.ORDERS`: MoRF, LeRF. Both begin with the whole picture and end with the bare baseline.
    """

    target: Tensor
    fraction: Tensor
    logit: Tensor
    probability: Tensor

    @property
    def deletion(self) -> Tensor:
        """Area under the probability while the most relevant goes first, ``(B,)`` in [0, 1]; lower is better.

        Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018.
        """
        return area_under(self.probability[:, MORF], self.fraction)

    @property
    def insertion(self) -> Tensor:
        """Area under the probability while the most relevant is put first on the baseline, ``(B,)`` in [0, 1].

        Higher is better. Petsiuk et al. 2018, who put it on the blurred picture, not on a colour. It is the LeRF curve
        read from its end: what is removed last is put there first.
        """
        return area_under(self.probability[:, LERF], self.fraction)

    @property
    def relevance_gain(self) -> Tensor:
        """Symmetric relevance gain SRG, area LeRF less area MoRF of the probability, ``(B,)`` in [-1, 1].

        Higher is better; a map that knows nothing gains nothing. The baseline weighs less in it than in either area:
        Blücher, Vielhaben, Strodthoff, Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks,
        TMLR 2024.
        """
        return self.insertion - self.deletion


def perturbation_curves(
    model: Model,
    x: Tensor,
    relevance: Tensor,
    target: Target = None,
    *,
    steps: int = 10,
    baseline: Baseline = 0.0,
    region: int = 1,
) -> PerturbationCurves:
    """Remove regions in descending (MoRF) and in ascending order of relevance (LeRF), and watch the model.

    Samek et al., Evaluating the Visualization of What a Deep Neural Network Has Learned, IEEE TNNLS 28(11),
    2017. At step t ``round(t N / steps)`` of the N regions are removed; of equally relevant ones the first in
    reading order goes first, in both orders.

    Parameters
    ----------
    model : callable
        From pictures to logits ``(B, classes)``, in evaluation mode. It is called ``steps + 1`` times, on up to twice
        as many pictures as are given.
    x : Tensor
        Pictures ``(B, C, H, W)``, normalised as the model expects.
    relevance : Tensor
        Maps of them, ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``; channels are summed, signs count.
    target : int, sequence of int or Tensor, optional
        Class of all samples, or of each. By default the model's prediction.
    steps : int
        How often something is removed, from one to the number of regions.
    baseline : float, sequence of float or Tensor
        What takes the place of a removed pixel: one value, one per channel, or whole pictures ``(B, C, H, W)``, for
        example blurred ones. The default, zero, is the data set's mean after normalisation.
    region : int
        Side of the square regions, in pixels, which are removed as a whole by their mean relevance. At the right and
        bottom edge they are smaller where it doesn't divide the picture.

    Returns
    -------
    PerturbationCurves

    Raises
    ------
    InputError, TargetError, MapError

    Examples
    --------
    >>> import torch
    >>> from relprop.metrics import perturbation_curves
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 5)).eval()
    >>> x = torch.randn(2, 3, 10, 10)
    >>> relevance = x * model[1].weight[0].reshape(3, 10, 10)
    >>> curves = perturbation_curves(model, x, relevance, target=0)
    >>> curves.relevance_gain > 0
    tensor([True, True])
    """
    check_model(model)
    x = check_pictures(x)
    values = check_map(relevance, x.shape[:1], x.shape[2:]).sum(1).to(x.device)
    ranks = _ranks(_regions(values, region))
    count = ranks[0, MORF].numel()
    if not 1 <= steps <= count:
        raise InputError(f"there are {count} regions to remove, which can't be done in {steps} steps")
    substitute = _substitute(baseline, x)
    output = _watch(model, x.clone())  # the model may normalise it in place
    classes = check_target(target, output)
    points = [_read(output.unsqueeze(1), classes)]
    for t in range(1, steps + 1):
        removed = _pixels(ranks < _removed(t, steps, count), region, x.shape[2:])
        if t == steps:
            removed = removed[:, :1]  # nothing is left, in either order
        states = torch.where(removed.unsqueeze(2), substitute.unsqueeze(1), x.unsqueeze(1))
        points.append(_read(_watch(model, states.flatten(0, 1)).unflatten(0, (len(x), -1)), classes))
    logit, probability = (torch.stack(values, -1) for values in zip(*points, strict=True))
    fraction = logit.new_tensor([_removed(t, steps, count) / count for t in range(steps + 1)])
    return PerturbationCurves(classes, fraction, logit, probability)


def area_under(curve: Tensor, fraction: Tensor | None = None) -> Tensor:
    """Integrate curves by the trapezoidal rule.

    Parameters
    ----------
    curve : Tensor
        ``(..., points)``, two at least.
    fraction : Tensor, optional
        Where the points lie, ``(points,)``; by default evenly from 0 to 1.

    Returns
    -------
    Tensor
        ``(...)``, within the range of the curve where the points reach from 0 to 1.
    """
    points = curve.shape[-1] if curve.ndim else 0
    if points < 2 or (fraction is not None and fraction.shape != (points,)):
        given = "" if fraction is None else f" at {tuple(fraction.shape)}"
        raise InputError(f"a curve needs two points or more, each with its place, not {tuple(curve.shape)}{given}")
    if fraction is None:
        return torch.trapezoid(curve, dx=1 / (points - 1))
    return torch.trapezoid(curve, fraction.to(curve))


def _regions(values: Tensor, region: int) -> Tensor:
    """Average maps ``(B, H, W)`` over square regions, ``(B, h, w)``."""
    if not 1 <= region <= max(values.shape[1:]):
        raise InputError(f"a region of {region} x {region} pixels doesn't fit into {tuple(values.shape[1:])}")
    if region == 1:
        return values
    return F.avg_pool2d(values.unsqueeze(1), region, ceil_mode=True, count_include_pad=False).squeeze(1)


def _ranks(values: Tensor) -> Tensor:
    """Return when each region, ``(B, h, w)``, is removed in both orders, ``(B, 2, h, w)`` from 0 on."""
    order = sort_keys(values, values).argsort(dim=-1, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places).reshape(len(values), 2, *values.shape[1:])


def _pixels(regions: Tensor, region: int, size: torch.Size) -> Tensor:
    """Return for each pixel, ``(..., H, W)``, the value of its region, ``(..., h, w)``."""
    spread = regions.repeat_interleave(region, -2).repeat_interleave(region, -1)
    return spread[..., : size[0], : size[1]]


def _substitute(baseline: Baseline, x: Tensor) -> Tensor:
    """Return what takes the place of removed pixels: pictures ``(B, C, H, W)`` or one colour."""
    if isinstance(baseline, Tensor) and baseline.shape == x.shape:
        return check_pictures(baseline).to(x)
    return as_colour(baseline, x)


def _removed(t: int, steps: int, count: int) -> int:
    return round(t * count / steps)


def _read(output: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return logit and probability of the classes in both orders, ``(B, 2)``, of outputs ``(B, 1 or 2, classes)``."""
    output = output.expand(-1, 2, -1)
    index = classes.reshape(-1, 1, 1).expand(-1, 2, 1)
    return output.gather(2, index).squeeze(2), output.softmax(2).gather(2, index).squeeze(2)


def _watch(model: Model, x: Tensor) -> Tensor:
    """Return the logits ``(B, classes)`` of pictures, without a tape."""
    with torch.no_grad():
        return check_output(model(x), len(x)).detach()
