"""Rules for torchvision's deformable convolution; imported where torchvision is.

It reads its input between pixels, at positions that are held: one sample for each entry of the kernel. These samples,
each times its modulation where there is one, laid out as windows that don't overlap, go into an ordinary convolution.
So relevance goes back through the rule that the rule set has for convolutions, then through those for products and for
samples at the positions of a grid, as in a model that spells the three apart.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from rule_registry.batch_axis import BatchAxis
from rule_registry.call import Call, Shares, Site, Slot
from rule_registry.definition import Definition
from rule_registry.factored import Factored, whole
from rule_registry.operations.layers import LayerArguments, declare_layer
from rule_registry.registry import defined
from rule_registry.rule import Rule

aten = torch.ops.aten
DEFORMABLE = torch.ops.torchvision.deform_conv2d.default
ROOTS = ("abslrp", "epsilon")
"""The rule sets whose rules for products and samples hold in those that are built on them."""
CONVOLUTION, PRODUCT, SAMPLER = aten.conv2d.default, aten.mul.Tensor, aten.grid_sampler_2d.default


@dataclass(frozen=True)
class Stages:
    """A call of a deformable convolution as three: samples, their product with the modulation, a convolution."""

    samples: Call
    product: Call | None
    convolution: Call


def deformable(convolution: Rule, product: Rule, sampler: Rule) -> Rule:
    """Return the rule for deformable convolutions that follows from those for convolutions, products and samples."""

    def deformed(call: Call, relevance: Tensor, **parameters: Any) -> Shares | list[Tensor]:
        """Hand relevance ``(S, *output)`` back through convolution, product and samples."""
        stages, modulation = _stages(call), []
        found = _apply(convolution, stages.convolution, relevance, parameters)
        (windows,) = found.values if isinstance(found, Shares) else found
        values = windows.unflatten(2, (call["offset_groups"], -1))
        if stages.product is not None:
            values, *modulation = _whole(stages.product, _apply(product, stages.product, values, parameters), values)
        values = values.flatten(1, 2)
        (pulled,) = _whole(stages.samples, _apply(sampler, stages.samples, values, parameters), values)
        parts = {"input": pulled.reshape(-1, *call["input"].shape)}
        if modulation:
            parts["mask"] = _by_tap(call, modulation[0].squeeze(3)).flatten(2, 3)
        every = [
            parts[slot.name] if slot.name in parts else pulled.new_zeros(len(pulled), *call.value(slot).shape)
            for slot in call.site.active
        ]
        if isinstance(found, Shares):
            return Shares(tuple(every), tuple(call.batch.sum(part) for part in every), found.total)
        return every

    rules = (convolution, product, sampler)
    deformed.__name__ = deformed.__qualname__ = f"deformable_{convolution}"
    deformed.__doc__ = f"Deformable convolution: `{convolution}` of what is sampled, the positions held."
    deformed.__signature__ = _signature(rules)  # type: ignore[attr-defined]
    return replace(convolution, name=deformed.__name__, function=deformed, overwrites=False, factored=False, picks=True)


def _signature(rules: tuple[Rule, ...]) -> inspect.Signature:
    """Return the signature of a rule with the parameters of several."""
    first = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("call", "relevance")]
    return inspect.Signature([*first, *{p.name: p for rule in rules for p in _parameters(rule)}.values()])


def _parameters(rule: Rule) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(rule.function).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _apply(rule: Rule, call: Call, relevance: Tensor, parameters: dict[str, Any]) -> Shares | tuple[Tensor, ...]:
    """Apply a rule to one of the three calls; its relevance is ``(S, *output)``."""
    accepted = {p.name for p in _parameters(rule)}
    found = rule.function(call, relevance, **{name: v for name, v in parameters.items() if name in accepted})
    if isinstance(found, Shares):
        return found
    values: tuple[Tensor, ...] = whole((found,) if isinstance(found, Tensor | Factored) else tuple(found))
    return values


def _whole(call: Call, found: Shares | tuple[Tensor, ...], relevance: Tensor) -> tuple[Tensor, ...]:
    """Return the relevance of each input, ``(S, *input)``; shares are rescaled to the mass that arrived."""
    if not isinstance(found, Shares):
        return found
    mass = torch.stack(found.masses).sum(0)
    factor = torch.where(mass == 0, 0.0, call.batch.sum(relevance) / mass)
    marks = call.site.input_batch
    return tuple(v * mark.spread(factor, v.ndim - 1) for v, mark in zip(found.values, marks, strict=True))


def _stages(call: Call) -> Stages:
    """Compute what is sampled, and describe the three operations.

    Raises
    ------
    NotImplementedError
        If the input is constant, or the kernel is computed.
    """
    if not call.is_active("input") or call.is_active("weight") or call.is_active("bias"):
        raise NotImplementedError(
            f"{call.site.op} at {call.site.path!r} reads {', '.join(map(str, call.site.active))} as activations: its "
            "rule holds positions, and is for a computed input and a constant kernel"
        )
    x, groups, modulated = call["input"], call["offset_groups"], call["use_mask"]
    positive, own = call.is_nonnegative("input"), BatchAxis(0)
    given: dict[str, Any] = {"input": x.reshape(-1, x.shape[1] // groups, *x.shape[2:]), "grid": _grid(call)}
    values = aten.grid_sampler_2d(**given, **_MODES)
    samples = _call(call, SAMPLER, given | _MODES, values, {"input": positive}, BatchAxis(0, groups))
    product, values = None, values.unflatten(0, (-1, groups))
    if modulated:
        factor = _as_windows(call["mask"].unflatten(1, (groups, -1)), call).unsqueeze(2)
        active = {"self": positive}
        if call.is_active("mask"):
            active["other"] = call.is_nonnegative("mask")
        arguments, values = {"self": values, "other": factor}, values * factor
        product = _call(call, PRODUCT, arguments, values, active, own)
        positive = positive and active.get("other", False)
    names = ("weight", "bias", "groups")
    arguments = {name: call[name] for name in names} | {"input": values.flatten(1, 2), "stride": _kernel(call)}
    convolution = _call(call, CONVOLUTION, arguments, call.output, {"input": positive}, own)
    described = replace(convolution.site, **{name: getattr(call.site, name) for name in _PLACE})
    return Stages(samples, product, replace(convolution, site=described, absolute=call.absolute))


_MODES = {"interpolation_mode": 0, "padding_mode": 0, "align_corners": False}
"""Of a grid sampler: linear in between, and zero outside."""
_PLACE = ("first", "last", "input", "evidence", "rectified", "before_rectifier")
"""What is known of the place of the whole, which is that of its convolution."""


def _call(
    call: Call, op: OpOverload, given: dict[str, Any], output: Tensor, active: dict[str, bool], mark: BatchAxis
) -> Call:
    """Describe one of the three operations: arguments, output ``(*output)``, and which inputs are never negative."""
    slots, site = tuple(map(Slot, active)), call.site
    defaults = {argument.name: argument.default_value for argument in op._schema.arguments}
    marks = (mark,) * len(slots)
    described = Site(op, site.path, site.module_type, slots, tuple(active.values()), marks, mark)
    return Call(described, defaults | given, output)


def _kernel(call: Call) -> list[int]:
    return list(call["weight"].shape[2:])


def _as_windows(values: Tensor, call: Call) -> Tensor:
    """Lay a value for each entry of the kernel and output, ``(..., kh kw, H, W)``, out as windows."""
    height, width = values.shape[-2:]
    kh, kw = _kernel(call)
    windows = values.unflatten(-3, (kh, kw)).movedim((-4, -3), (-3, -1))  # (..., H, kh, W, kw)
    laid_out: Tensor = windows.reshape(*values.shape[:-3], height * kh, width * kw)
    return laid_out


def _by_tap(call: Call, windows: Tensor) -> Tensor:
    """Undo `_as_windows`: ``(..., kh kw, H, W)``."""
    (kh, kw), (height, width) = _kernel(call), call.result.shape[-2:]
    apart = windows.unflatten(-1, (width, kw)).unflatten(-3, (height, kh))  # (..., H, kh, W, kw)
    values: Tensor = apart.movedim((-3, -1), (-4, -3)).flatten(-4, -3)
    return values


def _grid(call: Call) -> Tensor:
    """Return where the samples lie, ``(B groups, H kh, W kw, 2)``: from -1 at one edge of the input to 1 at the other.

    Offsets are ``(B, groups kh kw 2, H, W)``, of each pair the first along the height.
    """
    offset: Tensor = call["offset"]
    groups, (kh, kw) = call["offset_groups"], _kernel(call)
    pairs = offset.unflatten(1, (groups, kh * kw, 2)).flatten(0, 1)
    sides = []
    for axis, (name, taps) in enumerate(zip("hw", (kh, kw), strict=True)):
        starts = torch.arange(offset.shape[2 + axis], device=offset.device) * call[f"stride_{name}"]
        reach = torch.arange(taps, device=offset.device) * call[f"dilation_{name}"]
        places = (starts[:, None] + reach - call[f"pad_{name}"]).flatten().to(offset.dtype)
        position = places.reshape((-1, 1) if axis == 0 else (1, -1)) + _as_windows(pairs[:, :, axis], call)
        sides.append((2 * position + 1) / call["input"].shape[2 + axis] - 1)
    return torch.stack(sides[::-1], -1)


def _register() -> None:
    """Register what follows from the rules that each rule set has of its own for convolutions."""
    declare_layer(DEFORMABLE, LayerArguments(groups="groups", output_axis=1))
    definitions = defined()
    for definition in definitions.values():
        base: Definition | None = definition
        while base is not None and base.name not in ROOTS:
            base = definitions.get(base.base or "")
        if base is None:
            continue
        others = base.table[PRODUCT], base.table[SAMPLER]
        if CONVOLUTION in definition.table:
            definition.add(deformable(definition.table[CONVOLUTION], *others), (DEFORMABLE,))
        for selector, rule in tuple(definition.overrides):
            if selector.op == CONVOLUTION:
                definition.add(deformable(rule, *others), (replace(selector, op=DEFORMABLE),))


_register()
