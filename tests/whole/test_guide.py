"""The notebook of relprop/guides: it has no stored output, and every cell runs and shows what it says."""

import json
from pathlib import Path

import pytest

import relprop
from relprop.models import PictureError, sample_pictures
from tests.helpers.notebooks import execute

GUIDE = Path(relprop.__file__).parent / "guides" / "first_steps.ipynb"


def test_the_guide_has_fifteen_cells_and_no_stored_output():
    cells = [cell for cell in json.loads(GUIDE.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 15
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)


@pytest.mark.full
def test_every_cell_of_the_guide_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason='a notebook needs pip install "relprop[test]"')
    try:
        sample_pictures()
    except PictureError as error:
        pytest.skip(str(error))
    cells = execute(nbformat.read(GUIDE, 4), tmp_path)
    shown = {cell.source: [out for out in cell.outputs if out.output_type != "stream"] for cell in cells}
    assert not [out for outs in shown.values() for out in outs if out.output_type == "error"]
    streams = [out.text for cell in cells for out in cell.outputs if out.output_type == "stream"]
    odd = [text for text in streams if text.strip() and "| " not in text and "IProgress" not in text]
    assert not odd, "bars, and what tqdm says of ipywidgets, alone"

    def of(words):
        return next(outs for source, outs in shown.items() if words in source)

    assert "table" in of("load_classifier(")[0].data["text/html"]
    assert of("e = relprop.explain(")[0].data["text/html"].count("data:image/png") == 1
    assert ["image/png" in out.data for out in of("e.show(")] == [True, False]
    assert len(of("for rules in")) == 3
    assert of("relprop.check(")[0].data["text/plain"].endswith("and conserved")
    assert of("results.summary(")[0].data["text/html"].count("<table>") == 4
    assert of("results.plot(")[0].data["text/html"].count("data:image/png") == 3
