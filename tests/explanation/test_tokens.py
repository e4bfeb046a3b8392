"""Tokens with their relevance: as text, in a terminal's colours, as HTML and as PNG."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch

import relprop
from relprop.errors import RelpropError
from relprop.files import OutputError
from tests.helpers.models import Text, kept, pictures, seeded

WORDS = [f"w{k}" for k in range(18)] + ["<b>", "\x1b[31m\n"]


def explained() -> relprop.Explanation:
    tokens = torch.tensor([[1, 2, 3, 18, 19], [4, 4, 5, 6, 7]])
    return relprop.explain(seeded(Text), tokens, rules="epsilon", contrast=None, target=[1, 2])


def test_tokens_have_their_relevance_and_are_safe_to_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = explained()
    tokens = e.tokens(WORDS)
    assert tokens.words[0] == ["w1", "w2", "w3", "<b>", "\x1b[31m\n"]
    assert torch.equal(torch.as_tensor(tokens.values), e.relevance)
    html, coloured = tokens._repr_html_(), tokens.coloured()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "\x1b[31m" not in html + coloured
    assert coloured.count("\x1b[48;2;") == 10
    strongest = int(e.relevance[1].abs().argmax())
    ground = html.split("<p ")[2].split("background: rgb(")[1 + strongest].split(")")[0]
    red, _, blue = map(int, ground.split(","))
    assert (red > blue) == bool(e.relevance[1, strongest] > 0)
    assert str(tokens).startswith("class 1")
    assert f"'w1' {float(e.relevance[0, 0]):+.3g}" in str(tokens)  # no terminal, so no colours
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert str(tokens) == coloured
    monkeypatch.undo()
    tokens.save(tmp_path / "tokens.png")
    picture = cv2.imread(str(tmp_path / "tokens.png"))
    assert picture is not None
    assert picture.shape[1] == 1100
    with pytest.raises(OutputError, match=r"\.png"):
        tokens.save(tmp_path / "tokens.jpg")


def test_tokenizers_and_slices() -> None:
    e = explained()
    of_hugging_face = SimpleNamespace(decode=lambda ids: WORDS[ids[0]])
    assert e.tokens(of_hugging_face).words == e.tokens(WORDS.__getitem__).words == e.tokens(WORDS).words
    assert e[1].tokens(WORDS).words == [["w4", "w4", "w5", "w6", "w7"]]
    with pytest.raises(TypeError, match="has decode"):
        e.tokens(3)
    with pytest.raises(RelpropError, match="this explanation has none"):
        relprop.explain(kept("plain"), pictures(1)).tokens(WORDS)
