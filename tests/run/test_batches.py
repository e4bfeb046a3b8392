"""Explanations of a loader's batches as they come, by the names of models, and bars that show how far it is."""

import gc
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import relprop
from relprop.errors import InputError
from relprop.run.progress import no_bars, progress_bar


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


@pytest.mark.parametrize(
    "shape",
    [lambda x: x, lambda x: (x, torch.zeros(len(x))), lambda x: {"label": 0, "pixel_values": x}, lambda x: [x, "name"]],
)
def test_batches_of_any_kind_are_explained_as_a_call_does(model, shape):
    x = torch.randn(7, 3, 9, 9)
    found = list(relprop.Explainer(model).over([shape(x[:4]), shape(x[4:])], target=2))
    assert [len(e) for e in found] == [4, 3]
    whole = relprop.explain(model, x, target=2)
    torch.testing.assert_close(torch.cat([e.relevance for e in found]), whole.relevance)


@pytest.mark.full
def test_explanations_come_one_by_one_and_none_is_kept(model):
    taken = []

    def batches():
        for _ in range(4):
            taken.append(1)
            yield torch.randn(2, 3, 9, 9)

    seen = []
    stream = relprop.Explainer(model).over(batches())
    for count, explanation in enumerate(stream, 1):
        assert len(taken) == count, "no batch is read ahead"
        seen.append(weakref.ref(explanation.relevance))
        del explanation
        gc.collect()
        assert sum(ref() is not None for ref in seen) <= 1


def test_a_loader_of_torch_and_a_function_for_other_batches(model):
    loader = DataLoader(TensorDataset(torch.randn(5, 3, 9, 9), torch.arange(5)), batch_size=2)
    assert [len(e) for e in relprop.Explainer(model).over(loader)] == [2, 2, 1]
    x = torch.randn(2, 3, 9, 9)
    (e,) = relprop.Explainer(model).over([{"picture": x}], inputs=lambda batch: batch["picture"])
    torch.testing.assert_close(e.relevance, relprop.explain(model, x).relevance)
    with pytest.raises(InputError, match=r"holds picture, none of pixel_values, image.*inputs=lambda batch"):
        next(relprop.Explainer(model).over([{"picture": x}]))
    with pytest.raises(InputError, match="a batch is a tensor, a tuple or a mapping, not str"):
        next(relprop.Explainer(model).over(["x"]))


def test_a_model_is_named_as_evaluate_takes_it(tmp_path, monkeypatch):
    (tmp_path / "named_net.py").write_text(
        "from torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    e = relprop.explain("named_net:make", torch.randn(2, 3, 8, 8))
    assert e.output.shape == (2, 2)
    with pytest.raises(relprop.RelpropError, match=r"near names: .*resnet18"):
        relprop.explain("resnet81", torch.randn(1, 3, 8, 8))


def test_a_bar_is_shown_where_somebody_sees_it(model, capsys, monkeypatch):
    class Terminal:
        encoding = "utf-8"

        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

        def isatty(self):
            return True

    monkeypatch.setattr("relprop.run.chunks.DELAY", 0)
    x = torch.randn(6, 3, 9, 9)
    for hidden, terminal in ((False, Terminal()), (True, Terminal())):
        monkeypatch.setattr(sys, "stderr", terminal)
        if hidden:
            with no_bars():
                relprop.explain(model, x, batch_size=2)
        else:
            relprop.explain(model, x, batch_size=2)
        assert ("/6 [" in terminal.text) is not hidden
    monkeypatch.undo()
    with progress_bar(3, "sample") as bar:
        bar.update()
    assert capsys.readouterr().err == "", "pytest is no terminal"
