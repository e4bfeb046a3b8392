"""Recurrent layers written out step by step, so that the rules of what they are made of hold for them.

The formulas are those in the documentation of `torch.nn`. A gate and what it gates share as the factors of any product
do, the input and the last hidden state as the terms of any sum. So a layer gets the relevance of the same model
written by hand, but for one difference: the inputs of all steps meet their weight in one product, whose relevance is
rescaled together. Shapes are ``(B, T, I)`` of a sequence, or ``(T, B, I)``, ``(B, I)`` of one step, ``(B, H)`` of a
state, and ``(gates H, I)`` and ``(gates H, H)`` of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from relprop.errors import CaptureError

aten = torch.ops.aten


class LayerWeights(NamedTuple):
    """The weights of one layer in one direction, of G gates: 4 of an LSTM, 3 of a GRU, else 1.

    Parameters
    ----------
    input : Tensor
        ``(G H, I)``.
    hidden : Tensor
        ``(G H, H)``; with a projection ``(G H, P)``.
    input_bias, hidden_bias : Tensor, optional
        ``(G H,)`` each.
    projection : Tensor, optional
        ``(P, H)``, of an LSTM alone.
    """

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None


State = tuple[Tensor, ...]
"""What one step hands to the next, ``(B, H)`` each; its output first."""
Cell = Callable[[Tensor, State, LayerWeights], State]
"""One step, given the projected input."""


def _lstm(given: Tensor, state: State, weights: LayerWeights) -> State:
    """``c' = f c + i g`` and ``h' = o tanh(c')``, ``(B, H)`` each, of a projected input ``(B, 4 H)``."""
    hidden, memory = state
    i, f, g, o = (given + F.linear(hidden, weights.hidden, weights.hidden_bias)).chunk(4, -1)
    memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
    hidden = o.sigmoid() * memory.tanh()
    if weights.projection is not None:
        hidden = F.linear(hidden, weights.projection)
    return hidden, memory


def _gru(given: Tensor, state: State, weights: LayerWeights) -> State:
    """``h' = (1 - z) n + z h``, ``(B, H)``, of a projected input ``(B, 3 H)``."""
    (hidden,) = state
    r, z, n = given.chunk(3, -1)
    r_hidden, z_hidden, n_hidden = F.linear(hidden, weights.hidden, weights.hidden_bias).chunk(3, -1)
    new = (n + (r + r_hidden).sigmoid() * n_hidden).tanh()
    keep = z + z_hidden
    # 1 - z is the sigmoid of the opposite: a gate like the other one. Of a difference z would receive nothing.
    return ((-keep).sigmoid() * new + keep.sigmoid() * hidden,)


def _simple(activation: Callable[[Tensor], Tensor], given: Tensor, state: State, weights: LayerWeights) -> State:
    """``h' = tanh(x + h)``, ``(B, H)``, or with ReLU."""
    return (activation(given + F.linear(state[0], weights.hidden, weights.hidden_bias)),)


def _one_step(cell: Cell, x: Tensor, state: Tensor | Sequence[Tensor], *tensors: Tensor | None) -> Any:
    """Write out ``aten.lstm_cell`` and its like, ``(B, I)`` to ``(B, H)``."""
    weights = LayerWeights(*tensors)  # type: ignore[arg-type]
    found = cell(F.linear(x, weights.input, weights.input_bias), _as_state(state), weights)
    return found[0] if isinstance(state, Tensor) else found


def _all_steps(
    cell: Cell,
    x: Tensor,
    state: Tensor | Sequence[Tensor],
    tensors: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Write out ``aten.lstm`` and its like.

    Returns
    -------
    tuple of Tensor
        The outputs of the last layer, ``(B, T, directions H)`` or ``(T, B, directions H)``, then the final states of
        all layers, ``(layers directions, B, H)`` each.
    """
    if train and dropout:
        raise CaptureError("a recurrent layer has dropout and was exported in training mode: call model.eval() first")
    time = 1 if batch_first else 0
    whole = _as_state(state)
    states = list(zip(*(part.unbind(0) for part in whole), strict=True))
    weights = list(_grouped(tensors, has_biases, projected=whole[0].shape[-1] != whole[-1].shape[-1]))
    directions = 2 if bidirectional else 1
    final = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            output, last = _one_way(cell, x, states[k], weights[k], time, backwards=direction == 1)
            outputs.append(output)
            final.append(last)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
    return x, *(torch.stack(part) for part in zip(*final, strict=True))


def _one_way(
    cell: Cell, x: Tensor, state: State, weights: LayerWeights, time: int, *, backwards: bool
) -> tuple[Tensor, State]:
    """Run a cell over ``(B, T, I)`` or ``(T, B, I)``; return outputs in the sequence's order, and the last state."""
    steps = F.linear(x, weights.input, weights.input_bias).unbind(time)
    hidden = []
    for given in reversed(steps) if backwards else steps:
        state = cell(given, state, weights)
        hidden.append(state[0])
    return torch.stack(hidden[::-1] if backwards else hidden, time), state


def _grouped(tensors: Sequence[Tensor], has_biases: bool, projected: bool) -> Iterator[LayerWeights]:
    """Yield the weights of each layer and direction, ``(gates H, I or H)``, from the list of all tensors."""
    size = 2 + 2 * has_biases + projected
    for k in range(0, len(tensors), size):
        given, hidden, *rest = tensors[k : k + size]
        input_bias, hidden_bias = rest[:2] if has_biases else (None, None)
        yield LayerWeights(given, hidden, input_bias, hidden_bias, rest[-1] if projected else None)


def _as_state(state: Tensor | Sequence[Tensor]) -> State:
    """Return a state of one or two ``(B, H)`` as a tuple."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


_TANH, _RELU = partial(_simple, torch.tanh), partial(_simple, torch.relu)

WRITTEN_OUT: Mapping[Any, Callable[..., Any]] = {
    aten.lstm.input: partial(_all_steps, _lstm),
    aten.gru.input: partial(_all_steps, _gru),
    aten.rnn_tanh.input: partial(_all_steps, _TANH),
    aten.rnn_relu.input: partial(_all_steps, _RELU),
    aten.lstm_cell.default: partial(_one_step, _lstm),
    aten.gru_cell.default: partial(_one_step, _gru),
    aten.rnn_tanh_cell.default: partial(_one_step, _TANH),
    aten.rnn_relu_cell.default: partial(_one_step, _RELU),
}
"""Recurrent layers and cells, as operations that there are rules for."""
