"""Where a bar is shown: in a terminal and in a notebook, and nowhere else."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest

from relprop.run.progress import no_bars, progress_bar


class Terminal(io.StringIO):
    """What is written, as a terminal takes it."""

    def isatty(self) -> bool:
        return True


def _shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> bool:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(3, "picture") as bar:
        bar.update()
        disabled: bool = bar.disable
    return not disabled


def test_a_bar_is_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _shown(monkeypatch, Terminal())
    assert not _shown(monkeypatch, io.StringIO())
    with no_bars():
        assert not _shown(monkeypatch, Terminal())


def test_a_process_that_only_talks_to_kernels_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ipykernel", "IPython"):
        module = ModuleType(name)
        module.get_ipython = lambda: None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    assert not _shown(monkeypatch, io.StringIO())
    sys.modules["IPython"].get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    assert _shown(monkeypatch, io.StringIO())
