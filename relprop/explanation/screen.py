"""Where a figure is shown: below the cell of a notebook, or in a window."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
from matplotlib.figure import Figure

from relprop.errors import RelpropWarning
from relprop.pictures.tiles import encode
from relprop.run.progress import in_notebook


def show_figure(figure: Figure) -> None:
    """Show a figure, once: in a notebook as a picture, from a script in a window, which the script waits for.

    Where there is neither a `RelpropWarning` says what to do.
    """
    png = encode(figure)
    if in_notebook():
        from IPython.display import Image, display

        display(Image(png))  # type: ignore[no-untyped-call]
        return
    _open_window(png)


def _open_window(png: bytes) -> None:
    import matplotlib.pyplot as plt  # it chooses a screen, which nobody needs who only draws
    from matplotlib.backends.registry import BackendFilter, backend_registry

    drawing_only = backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE)  # type: ignore[no-untyped-call]
    if plt.get_backend().lower() in drawing_only:
        warnings.warn(
            f"there is no screen to show maps on (matplotlib draws with {plt.get_backend()}): write them to a file, "
            'with e.save("maps.png")',
            RelpropWarning,
            stacklevel=4,
        )
        return
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    pixels = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    height, width = pixels.shape[:2]
    window = plt.figure(figsize=(width / 100, height / 100), dpi=100)
    window.figimage(pixels)
    plt.show()
