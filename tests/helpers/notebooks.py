"""Notebooks, run in a kernel of their own."""

import json
import sys
from pathlib import Path

import pytest

import relprop


def execute(notebook, folder):
    """Run all cells of a notebook in a folder, which outputs stay in; an error of a cell is raised."""
    nbclient = pytest.importorskip("nbclient", reason='running a notebook needs pip install "relprop[test]"')
    pytest.importorskip("ipykernel", reason='a kernel needs pip install "relprop[test]"')
    spec = folder / "kernels" / "here"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("PYTHONPATH", str(Path(relprop.__file__).parents[1]))
        nbclient.NotebookClient(notebook, kernel_name="here", timeout=600).execute(cwd=str(folder))
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
