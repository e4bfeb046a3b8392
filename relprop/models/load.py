"""Loading a classifier by what names it."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from relprop.models.classifier import Classifier
from relprop.models.devices import find_device, move
from relprop.models.labels import check_count, imagenet_labels, read_labels
from relprop.models.loaders.architectures import find_architectures
from relprop.models.loaders.converted import load_file
from relprop.models.loaders.exported import is_program, load_program
from relprop.models.loaders.functions import is_function, load_own
from relprop.models.loaders.named import load_named
from relprop.tracing.converted import is_converted


def load_classifier(
    name: str | PathLike[str],
    weights: str | PathLike[str] | None = None,
    *,
    preprocessing: str | None = None,
    labels: str | PathLike[str] | None = None,
    device: str | None = None,
    trust: bool = False,
    output: str | None = None,
) -> Classifier:
    """Load a classifier.

    Parameters
    ----------
    name
        One of

        - a timm or torchvision model name. Where both have it timm's is meant; ``torchvision/NAME`` and
          ``timm/NAME`` say which;
        - the path of an exported program, ``FILE.pt2``; of a model in ONNX, ``FILE.onnx``; or of one of Keras 3,
          ``FILE.keras``, on its torch backend;
        - ``package.module:function`` or ``package/module.py:function``, called without arguments: it returns an
          ``nn.Module``, which is put in eval mode, or a `Classifier`. The current directory is searched first.
    weights
        A ``.safetensors`` or ``.pth`` file. Without one the weights of a named model come from an installed package
        where there is one (`PACKAGED`), else from the library's own download. A prefix that all its keys share
        (``module.``, ``model.``) is taken off where nothing else differs.
    preprocessing
        A timm or torchvision name, whose preprocessing is used. Without it a named model uses its own, a model of
        one's own what a timm-style ``pretrained_cfg`` says, else ImageNet's: ``assumed`` says so.
    labels
        A file of class names: one a line, or JSON. Without it ImageNet's are used where the number of classes is that
        of ImageNet-1k or of one of its larger variants, else numbers.
    device
        Where the model goes, as PyTorch names it; without it it stays where it is loaded, a named one on the CPU.
    trust
        Whether a ``.pt2`` file that holds more than tensors and sizes is loaded, which carries out what its maker wrote
        into it.
    output
        Which output has the classes, where the model returns several: its name, its number, or the way to it, as
        ``"1.scores"``.

    Raises
    ------
    UnknownModelError
        Nothing has that name.
    ModelError
        The model can't be made or run, or is no classifier of RGB pictures.
    CaptureError
        The exported program can't be read, or is not trusted.
    WeightsError
        The file is unreadable or belongs to another architecture, the download failed, or there are none.
    LabelsError
        The class names can't be read, or are not as many as the classes.
    DeviceError
        The device is not there, or too small.
    """
    name, file = fspath(name), None if weights is None else Path(weights)
    # What is cheap to get wrong is found out before anything large is loaded.
    place = None if device is None else find_device(device)
    chosen = None if preprocessing is None else find_architectures(preprocessing)[0].preprocessing()
    names = None if labels is None else read_labels(Path(labels))
    if is_program(name):
        loaded = load_program(name, file, chosen, trust, output)
    elif is_converted(name):
        loaded = load_file(name, file, chosen, place, output)
    elif is_function(name):
        loaded = load_own(name, file, chosen, place, output)
    else:
        loaded = load_named(name, file, chosen)
    class_names = names or loaded.labels or imagenet_labels(loaded.classes)
    check_count(class_names, name if labels is None else fspath(labels), loaded.classes, loaded.name)
    if place is not None:
        move(loaded.model, place)
    used = loaded.preprocessing
    return Classifier(
        loaded.name, loaded.model, class_names, used.transform, used.mean, used.std, loaded.origin, used.assumed, output
    )
