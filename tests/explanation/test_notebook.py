"""What a notebook shows of an explanation, in a real kernel."""

import base64
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

import relprop
import rule_registry
from relprop.models import Classifier
from relprop.pictures.tiles import encode
from tests.helpers.notebooks import execute

SETUP = """
import torch
from torch import nn
import relprop

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
vectors = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
x = torch.randn(3, 3, 16, 20)
"""
CELLS = [
    SETUP,
    "relprop.explain(net, x)",
    "for rules in ('abslrp', 'gradient'):\n    relprop.explain(net, x, rules=rules).show()\nlast = 1",
    "relprop.explain(vectors, torch.randn(2, 6))",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    nbformat = pytest.importorskip("nbformat", reason='a notebook needs pip install "relprop[test]"')
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    cells = execute(notebook, tmp_path_factory.mktemp("jupyter"))
    return [[output for output in cell.outputs if output.output_type != "stream"] for cell in cells[1:]]


def decoded(data):
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.full
def test_an_explanation_is_a_picture_and_words(outputs):
    (output,) = outputs[0]
    assert "image/png" not in output.data, "the picture is stored once"
    html = output.data["text/html"]
    (inline,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    drawn = decoded(inline)
    assert drawn.shape[1] > 600
    assert np.ptp(drawn.astype(int), axis=2).max() > 100, "relevance has a colour"
    assert html.count("<tr>") == 1 + 3
    assert "conservation error" in html
    assert "abslrp" in html
    assert "largest error" in output.data["text/plain"]


@pytest.mark.full
def test_maps_are_shown_in_a_loop_in_the_middle_of_a_cell(outputs):
    assert [output.output_type for output in outputs[1]] == ["display_data"] * 2
    assert all(decoded(output.data["image/png"]).std() > 10 for output in outputs[1])


@pytest.mark.full
def test_what_is_no_picture_is_drawn_as_bars_beside_a_table(outputs):
    (output,) = outputs[2]
    assert output.output_type == "execute_result"
    assert "image/png" not in output.data
    assert picture(output.data["text/html"]).std() > 10
    assert output.data["text/html"].count("<tr>") == 1 + 2


def picture(html):
    return decoded(re.search(r'src="data:image/png;base64,([^"]+)"', html)[1])


class Tags(HTMLParser):
    """Opening and closing tags in turn, checked to match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def large():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    return relprop.explain(model, torch.randn(20, 3, 9, 9))


@pytest.mark.full
def test_a_large_batch_is_shown_in_part_and_says_so(large):
    html = large._repr_html_()
    assert Tags(html).seen.count("tr") == 1 + 16
    assert "the first 16 of 20 samples" in html
    drawn, first = (picture(e._repr_html_()) for e in (large, large[:16]))
    assert drawn.shape[0] > first.shape[0], "one line more, which says so"
    assert len([t for t in large.figure().texts if t.get_text().startswith("class ")]) == 20


def test_without_a_screen_show_says_how_to_write_a_file(large, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    matplotlib.use("agg")
    with pytest.warns(relprop.RelpropWarning, match=r"no screen .*e.save\(.maps.png.\)") as told:
        large.show()
    assert told[0].filename == __file__


def test_with_a_screen_a_window_opens(large, monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "get_backend", lambda: "tkagg")
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf().get_size_inches() * 100))
    large.show()
    plt.close("all")
    (size,) = shown
    assert tuple(size.round()[::-1]) == cv2.imdecode(np.frombuffer(encode(large.figure()), np.uint8), 1).shape[:2]


def numbers(text):
    return set(re.findall(r"[-+]?\d[\d.e%+-]*", text))


def test_what_explains_and_what_tells_prints_itself(large):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    x = torch.randn(2, 3, 9, 9)
    explainer = relprop.Explainer(model, contrast=None, layers="0", batch_size=2)
    assert repr(explainer) == ("Explainer of Sequential: rules='abslrp', contrast=None, layers=('0',), batch_size=2")
    assert repr(relprop.Explainer(model)) == "Explainer of Sequential: rules='abslrp'"
    shown = [explainer, large.conservation, relprop.check(model, x), rule_registry.get("epsilon-plus-flat")]
    shown.append(Classifier("net", model, tuple("abcde"), lambda picture: picture, (0,) * 3, (1,) * 3, "file own.pth"))
    for it in shown:
        assert repr(it) == str(it)
        html = unescape(re.sub(r"<[^>]+>", " ", it._repr_html_()))
        assert numbers(str(it)) <= numbers(html)
        Tags(it._repr_html_())
    assert "5: a, b, c ..." in repr(shown[-1])


def test_words_are_escaped(large):
    html = replace(large, rules="<script>alert(1)</script>&")._repr_html_()
    assert "script" not in Tags(html).seen
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in html


def test_several_sources_are_drawn_beside_one_another():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, 3)

        def forward(self, a, b):
            return self.head((a * b).flatten(1))

    e = relprop.explain(Two().eval(), (torch.rand(2, 3, 2, 2), torch.rand(2, 3, 2, 2)))
    assert not hasattr(e, "_repr_png_")
    html = e._repr_html_()
    assert "img" in Tags(html).seen
    assert ", ".join(f"{name} (2, 3, 2, 2)" for name in e.relevances) in html
