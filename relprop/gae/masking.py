"""The masking run: on which pixels the model itself depends. Every method is scored against the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.gae.checks import Model, Target, check_model, check_output, check_pictures, check_target, wide
from relprop.gae.maps import quotient

STATES = 10
"""States of a run, the picture itself among them: 0, 10, ... 90 % of the pixels are masked."""
ORDERS = ("morf", "lerf")
"""Most relevant first, least relevant first: the axis of length two of everything a run holds."""
MORF, LERF = range(2)

Baseline = float | Sequence[float] | Tensor
"""One value, or one per channel ``(C,)``, in the model's normalised scale."""


@dataclass(frozen=True)
class MaskingRun:
    """What a model does while the pixels that matter most, or least, are taken away.

    Parameters
    ----------
    target : Tensor
        Class of each sample, ``(B,)``.
    output : Tensor
        Logits of the unmasked pictures, ``(B, classes)``.
    steps : Tensor
        uint8 ``(B, 2, H, W)``: the step at which a pixel is masked, 1 to 9, and 10 for a pixel that never is; so
        state t masks ``steps <= t``, see `masked`. One entry per element, ``(B, 2, C, H, W)``, in the released
        protocol.
    impact : Tensor
        int8 ``(B, H, W)``, or ``(B, C, H, W)`` in the released protocol: 1 where masking early takes the class
        away, -1 where it doesn't, 0 where neither.
    logit, probability : Tensor
        Output of the class at each state, ``(B, 2, 10)``; both orders begin with the unmasked picture.
    undefined : Tensor
        bool ``(B,)``: the gradient vanished in some state, so its share there is 0/0, taken as zero.

    Notes
    -----
    The axis of length two follows `ORDERS`.
    """

    target: Tensor
    output: Tensor
    steps: Tensor
    impact: Tensor
    logit: Tensor
    probability: Tensor
    undefined: Tensor


@dataclass(frozen=True)
class Sensitivity:
    """A model's output for pictures, and ``|x d|f_y|/dx|`` of each element.

    Parameters
    ----------
    output : Tensor
        Logits ``(B, classes)``.
    target : Tensor
        The class y of each, ``(B,)``.
    strength : Tensor
        ``|x d|f_y|/dx|``, ``(B, C, H, W)``.
    """

    output: Tensor
    target: Tensor
    strength: Tensor

    @property
    def logit(self) -> Tensor:
        """Output of the class, ``(B,)``."""
        return self.output.gather(1, self.target[:, None])[:, 0]

    @property
    def probability(self) -> Tensor:
        """Softmax probability of the class, ``(B,)``."""
        return self.output.softmax(1).gather(1, self.target[:, None])[:, 0]


class RunRecord:
    """What the class of each sample is worth, state by state.

    Parameters
    ----------
    first : Sensitivity
        Of the unmasked pictures, ``(B, ...)``: both orders begin with them.
    """

    def __init__(self, first: Sensitivity) -> None:
        self._first = first
        self._logits = [first.logit[:, None].expand(-1, len(ORDERS))]
        self._probabilities = [first.probability[:, None].expand(-1, len(ORDERS))]

    def add(self, seen: Sensitivity) -> None:
        """Add a state; its pictures are those of both orders, ``(2 B, ...)``, sample by sample."""
        self._logits.append(seen.logit.reshape(-1, len(ORDERS)))
        self._probabilities.append(seen.probability.reshape(-1, len(ORDERS)))

    def run(self, steps: Tensor, total: Tensor, undefined: Tensor) -> MaskingRun:
        """Return the run, with its step images and the shares summed over all states, both ``(B, 2, ...)``."""
        return MaskingRun(
            target=self._first.target,
            output=self._first.output,
            steps=steps,
            impact=impact_map(total[:, MORF], total[:, LERF]),
            logit=torch.stack(self._logits, -1),
            probability=torch.stack(self._probabilities, -1),
            undefined=undefined,
        )


def masking_run(model: Model, x: Tensor, target: Target = None, *, baseline: Baseline = 0.0) -> MaskingRun:
    """Mask a tenth of the pixels at a time, most or least important first, and watch the model.

    At each of ten states ``g = |x d|f_y|/dx|``, summed over channels and divided by its sum; then, of the pixels not
    yet masked, those with the largest g (MoRF) or the smallest (LeRF) get the baseline's colour, until
    ``round(t H W / 10)`` are masked at step t. Of equal ones the first in reading order goes first. The impact map
    is ``sign(n(sum_t g_LeRF) - n(sum_t g_MoRF))`` over all ten states, n being division by the sum.

    Parameters
    ----------
    model : callable
        From pictures to logits ``(B, classes)``, in evaluation mode and differentiable in its input. It is only
        called: its parameters and their gradients stay as they are.
    x : Tensor
        Pictures ``(B, C, H, W)``, normalised as the model expects.
    target : int, sequence of int or Tensor, optional
        Class of all samples, or of each. By default the model's prediction.
    baseline : float, sequence of float or Tensor
        Colour of masked pixels, one value or one per channel. The default, zero, is the data set's mean after
        normalisation.

    Returns
    -------
    MaskingRun

    Raises
    ------
    InputError, TargetError

    Examples
    --------
    >>> import torch
    >>> from relprop.gae import masking_run
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 5)).eval()
    >>> run = masking_run(model, torch.randn(2, 3, 10, 10))
    >>> (run.steps[:, 0] <= 3).sum((1, 2))
    tensor([30, 30])
    """
    check_model(model)
    x = check_pictures(x)
    colour = as_colour(baseline, x)
    first = measure_sensitivity(model, x, target)
    classes = first.target.repeat_interleave(len(ORDERS))
    steps = x.new_full((len(x), len(ORDERS), *x.shape[2:]), STATES, dtype=torch.uint8)
    share, vanished = _share(first.strength)
    share = share[:, None].expand(steps.shape)
    total, undefined = share, vanished
    record = RunRecord(first)
    for t in range(1, STATES):
        steps = _mask_next(steps, share, t)
        states = torch.stack([masked(x, steps[:, order], t, colour) for order in (MORF, LERF)], 1)
        seen = measure_sensitivity(model, states.flatten(0, 1), classes)
        share, vanished = _share(seen.strength)
        share = share.reshape(steps.shape)
        total, undefined = total + share, undefined | vanished.reshape(len(x), -1).any(1)
        record.add(seen)
    return record.run(steps, total, undefined)


def masked(x: Tensor, steps: Tensor, t: int, baseline: Baseline = 0.0) -> Tensor:
    """Make a state of a masking run again from the picture and one of its step images.

    Parameters
    ----------
    x : Tensor
        The pictures ``(B, C, H, W)``.
    steps : Tensor
        ``run.steps[:, order]``: ``(B, H, W)``, or ``(B, C, H, W)`` in the released protocol.
    t : int
        The state, 0 (nothing masked) to 9.
    baseline : float, sequence of float or Tensor
        As given to `masking_run`.

    Returns
    -------
    Tensor
        ``(B, C, H, W)``, the same bits that the run saw.
    """
    if not 0 <= t < STATES:
        raise ValueError(f"there are states 0 to {STATES - 1}, not {t}")
    pixels = (x.shape[0], *x.shape[2:])
    if steps.shape not in (pixels, x.shape):
        raise InputError(f"the step image has shape {tuple(steps.shape)}, the pictures {tuple(x.shape)}")
    hidden = (steps.unsqueeze(1) if steps.shape == pixels else steps) <= t
    return torch.where(hidden.to(x.device), as_colour(baseline, x), x)


def masked_count(t: int, pixels: int) -> int:
    """Return how many pixels are masked at step t."""
    return round(t * pixels / STATES)


def impact_map(morf: Tensor, lerf: Tensor) -> Tensor:
    """Return ``sign(n(lerf) - n(morf))`` of summed shares, n being division by the sum of a sample.

    Parameters
    ----------
    morf, lerf : Tensor
        Non-negative, ``(B, ...)``: ``g`` summed over the states of each order.

    Returns
    -------
    Tensor
        int8 of the same shape, -1, 0 or 1. 1 is what the class depends on: it keeps its share as long as it is
        there, and is there longest under LeRF.
    """
    return (_share_of_all(lerf)[0] - _share_of_all(morf)[0]).sign().to(torch.int8)


def measure_sensitivity(model: Model, x: Tensor, target: Target) -> Sensitivity:
    """Run a model and take the gradient of its output's magnitude, by autograd and for the input alone.

    The strength is ``|x d|f_y|/dx|``, shaped like the input.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        raw = model(leaf.clone())  # a leaf can't be changed in place
        output = check_output(raw, len(x))
        classes = check_target(target, output).clone()  # a tensor of inference mode can't be part of the tape
        if not output.requires_grad:
            raise InputError("the model's output has no gradient: it must not run under torch.no_grad or detach it")
        chosen = output.gather(1, classes[:, None]).abs().sum()
        (gradient,) = torch.autograd.grad(chosen, leaf, allow_unused=True)
    strength = torch.zeros_like(x) if gradient is None else x * gradient
    if not strength.isfinite().all():
        raise InputError("the model's gradient is NaN or infinite for some of the pictures")
    return Sensitivity(output.detach(), classes, wide(strength).abs())


def as_colour(baseline: Baseline, x: Tensor) -> Tensor:
    """Return the baseline as ``(1, 1 or C, 1, 1)``, which broadcasts over pictures."""
    colour = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    if colour.numel() not in (1, x.shape[1]):
        raise InputError(f"the baseline has {colour.numel()} values, not one, or one for each of {x.shape[1]} channels")
    if not colour.isfinite().all():
        raise InputError("the baseline is NaN or infinite")
    return colour.reshape(1, -1, 1, 1)


def _share(strength: Tensor) -> tuple[Tensor, Tensor]:
    """Divide ``(B, C, H, W)``, summed over channels, by its sum: ``(B, H, W)``, and ``(B,)`` where that is 0/0."""
    return _share_of_all(strength.sum(1))


def _share_of_all(values: Tensor) -> tuple[Tensor, Tensor]:
    """Divide ``(B, ...)`` by the sum of each sample; return that, and ``(B,)`` where it is 0/0."""
    total = values.flatten(1).sum(1)
    share, undefined = quotient(values, total.reshape(-1, *[1] * (values.ndim - 1)))
    return share, undefined.flatten()


def sort_keys(morf: Tensor, lerf: Tensor) -> Tensor:
    """Return keys ``(B, 2, entries)``: sorted upwards, ``morf`` of ``(B, ...)`` falls and ``lerf`` rises."""
    # Subtracted from zero: a negated zero is -0.0, which a sort by bits may take for less than zero.
    return torch.stack([0.0 - morf, lerf + 0.0], 1).flatten(2)


def _mask_next(steps: Tensor, share: Tensor, t: int) -> Tensor:
    """Mask the next pixels of both orders in step images ``(B, 2, H, W)``, with one sort for all."""
    flat, pixels = steps.flatten(2), steps[0, 0].numel()
    keys = sort_keys(share[:, MORF], share[:, LERF]).masked_fill(flat < STATES, torch.inf)
    # Stable, so that equal pixels keep the order of their index.
    order = keys.sort(dim=-1, stable=True).indices[..., : masked_count(t, pixels) - masked_count(t - 1, pixels)]
    return flat.scatter(-1, order, t).reshape(steps.shape)
