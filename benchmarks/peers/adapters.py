"""Peers as functions: each explains a model the way its own documentation says.

A peer may change the model it is given (canonizers, patches, hooks), so `Peer.method` hands it a copy. Inputs x and
their relevance are ``(B, ...)``, targets ``(B,)``, and outputs ``(B, classes)``.
"""

from __future__ import annotations

import copy
import importlib
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType, ModuleType
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.peers.without_rules import passes_gradient, passes_relevance, without_rules
from relprop.errors import RelpropError
from relprop.extras import extra

Method = Callable[[Tensor, Tensor], Tensor]
"""From inputs, samples first, and class indices ``(B,)`` to relevance, shaped like the inputs."""


class PeerError(RelpropError):
    """A peer can't explain this kind of model."""


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes
    ----------
    name
        What results call it.
    package
        What Python imports.
    adapt
        From a model of its own to a method.
    without_rule
        From a model of its own and an input ``(B, ...)`` to the functions, and how many of each, that get the plain
        gradient where the peer promises a rule.
    conserves
        Whether it promises that the relevance of the input sums to the output in a model without biases.
    """

    name: str
    package: str
    adapt: Callable[[nn.Module], Method]
    without_rule: Callable[[nn.Module, Tensor], Counter[str]]
    conserves: bool

    def method(self, model: nn.Module) -> Method:
        """Return the peer's method for a copy of the model.

        Raises
        ------
        MissingExtraError
            If its package is not installed.
        """
        self.require()
        return self.adapt(copy.deepcopy(model))

    def require(self) -> None:
        """Import the package, or raise `MissingExtraError`."""
        with extra("peers", f"comparing with {self.name}"):
            importlib.import_module(self.package)


def _chosen(output: Tensor, target: Tensor) -> Tensor:
    """Return the outputs of the targets, ``(B,)``."""
    return output.gather(1, target[:, None])[:, 0]


def _not_in_place(model: nn.Module) -> nn.Module:
    """Let activations leave their input alone, as captum's FAQ asks for."""
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return model


# captum: a rule for each type of leaf module, an error for any other type.


def captum_lrp(model: nn.Module) -> Method:
    """Captum's LRP with its default rules.

    It has none for modules that only move entries, and asks to set one: epsilon hands relevance through them.
    """
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule

    model = _not_in_place(model)

    def explain(x: Tensor, target: Tensor) -> Tensor:
        for module in model.modules():
            if isinstance(module, _CAPTUM_MOVES):
                module.rule = EpsilonRule()  # captum removes it after each call
        found: Tensor = LRP(model).attribute(x.clone(), target=target)
        return found.detach()

    return explain


_CAPTUM_MOVES = (nn.Identity, nn.Flatten)


def _captum_without_rule(model: nn.Module, x: Tensor) -> Counter[str]:
    return without_rules(model, x, lambda module: not any(module.children()), passes_relevance)


def captum_input_x_gradient(model: nn.Module) -> Method:
    """Captum's input times gradient, for its time."""
    from captum.attr import InputXGradient

    def explain(x: Tensor, target: Tensor) -> Tensor:
        found: Tensor = InputXGradient(model).attribute(x.clone().requires_grad_(), target=target)
        return found.detach()

    return explain


# zennit: a rule for each type of module, found by a composite; canonizers merge batch norms and make modules of sums.


def _composite() -> Any:
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer

    # For torchvision's residual blocks, and for any other model what VGGCanonizer is: SequentialMergeBatchNorm.
    return EpsilonPlusFlat(canonizers=[ResNetCanonizer()])


def zennit_epsilon_plus_flat(model: nn.Module) -> Method:
    """Zennit's epsilon-plus-flat with its canonizers."""
    from zennit.attribution import Gradient

    attributor = Gradient(model.requires_grad_(False), _composite())

    def explain(x: Tensor, target: Tensor) -> Tensor:
        def seed(output: Tensor) -> Tensor:
            return output * F.one_hot(target, output.shape[1])

        found: Tensor = attributor(x.clone().requires_grad_(), seed)[1]
        return found.detach()

    return explain


def _zennit_without_rule(model: nn.Module, x: Tensor) -> Counter[str]:
    composite = _composite()
    with composite.context(model) as canonized:
        context: dict[str, Any] = {}
        named = canonized.named_modules()
        ruled = {module for name, module in named if composite.module_map(context, name, module) is not None}
        return without_rules(canonized, x, ruled.__contains__, passes_relevance)


# autoLRP: a rule for each node of autograd's graph, which it says itself where it has none.


def autolrp_default(model: nn.Module) -> Method:
    """Run autoLRP with its default configuration: epsilon for what has weights, in proportion elsewhere."""
    import autolrp

    model = model.requires_grad_(False)

    def explain(x: Tensor, target: Tensor) -> Tensor:
        wrapped = autolrp.tensor(x.clone())
        output = _chosen(model(wrapped), target)
        output.lrp()  # type: ignore[attr-defined]
        scale = output.detach().as_subclass(Tensor).reshape(-1, *(1,) * (x.ndim - 1))
        found: Tensor = wrapped.relevance.as_subclass(Tensor) * scale
        return found

    return explain


def _autolrp_without_rule(model: nn.Module, x: Tensor) -> Counter[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        autolrp_default(model)(x, torch.zeros(len(x), dtype=torch.long, device=x.device))
    return Counter(found[1] for one in caught if (found := _AUTOLRP_GRADIENT.match(str(one.message))))


_AUTOLRP_GRADIENT = re.compile(r"autoLRP: (?:no installer matched )?'?(\w+)'?.* (?:native|plain) gradient")


# LXT: gradient times input of a model whose activations, norms and attention are patched.


def _lxt() -> ModuleType:
    """Import LXT's patches.

    The package imports, to list them, language models for which LXT 2.1 needs transformers below version 5. Its
    patches for vision need none of them, so a list without entries takes their place for the moment of the import.
    """
    if "lxt.efficient.patches" not in sys.modules:
        listing = ModuleType("lxt.efficient.models")
        listing.get_default_map = None  # type: ignore[attr-defined]
        sys.modules[listing.__name__] = listing
        try:
            importlib.import_module("lxt.efficient.patches")
        finally:
            del sys.modules[listing.__name__]
    return sys.modules["lxt.efficient.patches"]


def _patches(patches: ModuleType) -> Mapping[type[nn.Module], Any]:
    """LXT's map for vision transformers, and the same for timm's spelling of these modules."""
    return {
        nn.MultiheadAttention: patches.cp_multi_head_attention_forward,
        nn.LayerNorm: patches.layer_norm_forward,
        timm.layers.norm.LayerNorm: patches.layer_norm_forward,
        nn.GELU: patches.non_linear_forward,
        timm.layers.GELU: patches.non_linear_forward,
    }


class _UniformAttention(TorchFunctionMode):
    """LXT's uniform rule around fused attention, where a model calls the function and no module of PyTorch's."""

    def __init__(self, patches: ModuleType) -> None:
        super().__init__()
        fused = F.scaled_dot_product_attention
        self.attend = patches.wrap_attention_forward(lambda _, *args, **kwargs: fused(*args, **kwargs))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.attend(None, *args, **kwargs or {})
        return func(*args, **kwargs or {})


def _patched(model: nn.Module) -> set[nn.Module]:
    patches = _lxt()
    patched_types = _patches(patches)
    found = {module for module in model.modules() if type(module) in patched_types}
    if not found:
        raise PeerError("LXT has no patch for any module of this model: it knows transformers")
    for module in found:
        patches.patch_method(MethodType(patched_types[type(module)], module), module, keep_original=True)
    return found


def lxt_efficient(model: nn.Module) -> Method:
    """LXT's AttnLRP, CP-LRP inside `nn.MultiheadAttention`, as gradient times input of a patched copy.

    LXT patches classes; here it patches the modules of the copy, so that no other model is changed.
    """
    model = model.requires_grad_(False)
    _patched(model)
    attention = _UniformAttention(_lxt())

    def explain(x: Tensor, target: Tensor) -> Tensor:
        source = x.clone().requires_grad_()
        with attention:
            output = _chosen(model(source), target)
        return (torch.autograd.grad(output.sum(), source)[0] * source).detach()

    return explain


def _lxt_without_rule(model: nn.Module, x: Tensor) -> Counter[str]:
    def harmless(name: str, dependent: int) -> bool:
        return name in ("softmax", F.scaled_dot_product_attention.__name__) or passes_gradient(name, dependent)

    return without_rules(model, x, _patched(model).__contains__, harmless)


INPUT_X_GRADIENT = Peer("captum InputXGradient", "captum", captum_input_x_gradient, lambda *_: Counter(), False)
"""No relevance propagation; timed beside those."""

PEERS = (
    Peer("captum", "captum", captum_lrp, _captum_without_rule, True),
    Peer("zennit", "zennit", zennit_epsilon_plus_flat, _zennit_without_rule, True),
    Peer("autoLRP", "autolrp", autolrp_default, _autolrp_without_rule, True),
    Peer("LXT", "lxt", lxt_efficient, _lxt_without_rule, False),
)
"""What is compared with, in the order of the columns."""
