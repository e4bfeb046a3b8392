"""What other libraries make of a model: captum LRP, zennit, autoLRP and LXT, a verdict each.

Each peer gets a copy of the model with random, settled weights, in float64, and explains it the way its own
documentation says, with its own canonizers or patches (`benchmarks.peers.adapters`):

- **captum**: `LRP` with default rules; epsilon also for `nn.Identity` and `nn.Flatten`, which it asks to be given one;
- **zennit**: `EpsilonPlusFlat` with `ResNetCanonizer`, which merges batch norms in any model;
- **autoLRP**: its default configuration;
- **LXT**: the efficient patches for vision transformers, and the same ones where timm spells these modules itself.

A model is explained (``ok``) if

1. nothing is raised. Otherwise ``error: ...`` with what was; a type of layer that a peer refuses is an error too,
   and better than a silent result;
2. the peer's own model still computes the outputs: the largest difference is below a hundredth of the largest output
   (merging batch norms the way zennit does costs 1e-4);
3. relevance has the shape of the input, is finite, and not zero everywhere;
4. no function gets autograd's plain gradient where the peer promises a rule. What its rules cover is the peer's own
   word (`benchmarks.peers.without_rules`); moves, rectifiers, maxima and added constants may get the gradient, which is
   what a rule would do there;
5. where the peer promises conservation (captum, zennit, autoLRP: the relevance of the input sums to the output in a
   model without biases), that holds to a tenth, on a copy with biases, running means and position embeddings at
   zero; a gate that such a copy leaves at sigmoid(0) is a constant, and may take some hundredths. The deviation, over
   the output, follows the ``ok``. It is not asked for where that copy still adds constants to activations (learnt
   tokens, computed position biases, masks), which may take a share like biases, nor of LXT, whose softmax rule keeps
   no such promise.

2 to 5 are silent failures: ``wrong: ...`` with what was found first.
"""

from __future__ import annotations

import copy
import gc
import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.adapters import INPUT_X_GRADIENT, PEERS, Peer, PeerError
from benchmarks.peers.subject import Plain, plain, without_biases
from benchmarks.zoo.entries import Subject

__all__ = ["INPUT_X_GRADIENT", "PEERS", "Peer", "PeerError", "judge", "measure_peers", "require_peers"]

OUTPUT_TOLERANCE = 1e-2
"""How far outputs may be off, over the largest."""

SUM_TOLERANCE = 1e-1
"""How far the sum of a sample's relevance may be off, over its output."""

_LONGEST = 120


def require_peers() -> None:
    """Import all peers, or raise `MissingExtraError`, which names the extra that brings them."""
    for peer in PEERS:
        peer.require()


def measure_peers(subject: Subject) -> dict[str, str]:
    """Let every peer explain a subject's model, and say how that went.

    Parameters
    ----------
    subject
        Its model stays as it is. The largest output is explained, or what its ``target`` is, where that is a function.

    Returns
    -------
    dict
        By the peer's name ``ok``, ``ok DEVIATION``, ``wrong: ...`` or ``error: ...``, one line each.

    Raises
    ------
    MissingExtraError
        If a peer is not installed.
    """
    require_peers()
    try:
        model, x = plain(subject)
        with torch.no_grad():
            expected = model(x)
        unbiased = without_biases(model, x)
    except Exception as error:  # whatever a model raises is what the row must say
        return dict.fromkeys((peer.name for peer in PEERS), f"error: in float64: {_line(error)}")
    verdicts = {}
    for peer in PEERS:
        verdicts[peer.name] = judge(peer, model, unbiased, x, expected)
        gc.collect()  # peers' hooks are in cycles with the copies they were given
    return verdicts


def judge(peer: Peer, model: Plain, unbiased: Plain | None, x: Tensor, expected: Tensor) -> str:
    """Say how one peer explains a model, by the criteria at the top of this module.

    Parameters
    ----------
    peer
        Who explains.
    model
        What, in float64; it stays as it is.
    unbiased
        The same without biases, or None where conservation is not checked.
    x, expected
        Its input, ``(B, ...)``, and what it makes of that, ``(B, classes)``.
    """
    target = expected.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            relevance, output = _explained(peer, model, x, target)
            silent = _silent(expected, output, x, relevance) or _plain_gradient(
                peer.without_rule(copy.deepcopy(model), x)
            )
            if silent:
                return f"wrong: {silent}"
            if unbiased is None or not peer.conserves:
                return "ok"
            with torch.no_grad():
                target = unbiased(x).abs().argmax(1)
            relevance, output = _explained(peer, unbiased, x, target)
        except Exception as error:  # the peer's, of any kind: it is the result
            return f"error: {_line(error)}"
    return _conservation(relevance.flatten(1), output.gather(1, target[:, None])[:, 0])


def _explained(peer: Peer, model: Plain, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the relevance, shaped like x, and the output ``(B, classes)`` that the peer's own model computed."""
    observed, outputs = copy.deepcopy(model), []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        outputs.append(output.detach().as_subclass(Tensor))

    observed.register_forward_hook(keep)
    relevance = peer.adapt(observed)(x, target)
    return relevance, outputs[-1]


def _silent(expected: Tensor, output: Tensor, x: Tensor, relevance: Tensor) -> str | None:
    """Say what is wrong without an error, of outputs ``(B, classes)`` or of the relevance of x, ``(B, ...)``."""
    off = float((output - expected).abs().max() / expected.abs().max())
    if not off <= OUTPUT_TOLERANCE:
        return f"its model computes other outputs, off by {off:.1e}"
    if relevance.shape != x.shape:
        return f"relevance of shape {tuple(relevance.shape)} for an input of {tuple(x.shape)}"
    if not bool(relevance.isfinite().all()):
        return "relevance is not finite"
    if not bool(relevance.flatten(1).any(1).all()):
        return "relevance is zero"
    return None


def _conservation(relevance: Tensor, wanted: Tensor) -> str:
    """Say how near relevance ``(B, entries)`` sums to the outputs ``(B,)``."""
    deviation = float(((relevance.sum(1) - wanted) / wanted).abs().max())
    if deviation <= SUM_TOLERANCE:
        return f"ok {deviation:.1e}"
    size = float((relevance.abs().sum(1) / wanted.abs()).max())
    return f"wrong: relevance sums to the output but for {deviation:.1e} of it (magnitudes to {size:.1e} of it)"


def _plain_gradient(found: Counter[str]) -> str | None:
    if not found:
        return None
    return "plain gradient at " + ", ".join(f"{name} ({count})" for name, count in found.most_common())


def _line(error: Exception) -> str:
    text = " ".join((str(error) if isinstance(error, PeerError) else f"{type(error).__name__}: {error}").split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
