"""The useful part of an error of torch.export: the cause, and the line of the user's model where it arose."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import sympy
import torch
from torch import nn

from relprop.errors import first_line

_TELLING = re.compile(
    r"specialized it to be a constant|satisfy the generated guard|data-dependent|unhashable type|[Ii]nferred dynamic"
)
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]+\n\s*([^\n]+)')
_APART = (
    *(str(Path(str(package.__file__)).parent) for package in (torch, sympy)),
    str(Path(__file__).parents[1]),
)
_PYTHON = str(Path(traceback.__file__).parent)
_FOR_OTHERS = re.compile(r"If you're using mark_dynamic|For more information, run with|\(Size-like symbols")


def cause_of(error: BaseException) -> str:
    """Return what an error says of its cause, on one line, and where that is in the user's source."""
    text = str(error)
    lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
    telling = next((line for line in lines if _TELLING.search(line)), "")
    # What follows is meant for whoever calls torch.export.
    said = _FOR_OTHERS.split(telling or first_line(error))[0].strip()
    place = _place(error)
    return f"{said} (at {place})" if place else said


def advice_for(model: nn.Module) -> str:
    """Return what to do about a module that takes a list of as many tensors as there are samples; else nothing."""
    if not any(type(module).__name__ == "MultiScaleRoIAlign" for module in model.modules()):
        return ""
    return (
        "\nMultiScaleRoIAlign takes a list of boxes, one tensor for each sample, and no graph holds for lists of "
        "several lengths: explain one picture at a time, with a list of its boxes alone, or give the boxes as one "
        "tensor (B, N, 4), and make them a list in forward, list(boxes)."
    )


def _place(error: BaseException) -> str:
    """Return the innermost line outside of torch and of this package that an error's text or its traceback has."""
    in_text = [(file, int(line), code) for file, line, code in _FRAME.findall(str(error))]
    raised = [
        (frame.filename, frame.lineno or 0, frame.line or "") for frame in traceback.extract_tb(error.__traceback__)
    ]
    for frames in (in_text, raised):
        own = [frame for frame in frames if not _is_apart(frame[0])]
        if own:
            file, line, code = own[-1]
            return f"{file}:{line}: {code.strip()}"
    return ""


def _is_apart(file: str) -> bool:
    """Whether a file is of torch, of this package or of Python itself."""
    of_python = file.startswith(_PYTHON) and not {"site-packages", "dist-packages"} & set(Path(file).parts)
    return file.startswith((*_APART, "<")) or of_python
