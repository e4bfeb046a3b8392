"""The command line, run as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import timm
import torch

import relprop
from relprop.cli import app
from relprop.cli.explaining.drawing import draw
from relprop.cli.explaining.picture import look
from relprop.models import find_pictures, load_classifier, read_picture
from tests.cli.test_check import environment
from tests.helpers.cli import assert_one_line, entries, explain, run

SEVERAL = """
from torch import nn
from own import make as one

class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = one()
    def forward(self, x):
        scores = self.inner(x)
        return {"features": x, "heads": {"scores": scores, "boxes": scores[:, :4]}}

make = Several
"""


@pytest.mark.full
def test_explain_writes_one_picture_each_and_says_why_to_trust_it(packaged, tmp_path):
    result = explain(*map(str, packaged[15:17]), "-o", str(tmp_path), "--verify")
    assert result.exit_code == 0, result.output
    names = [f"{path.stem}.png" for path in packaged[15:17]]
    assert sorted(file.name for file in tmp_path.iterdir()) == [*names, "index.jsonl", "run.toml"]
    assert cv2.imread(str(tmp_path / names[0])).std() > 10
    assert re.search(r"goose \d+\.\d%", result.output)
    oracle = float(re.search(r"capture verified .* by (\S+)", result.output)[1])
    conserved = float(re.search(r"conservation error\s+(\S+) \(worst\)", result.output)[1])
    assert oracle < 1e-8
    assert conserved < 1e-4
    first, second = entries(tmp_path)
    assert first["label"] == first["predicted_label"] == "goose"
    assert first["paths"] == {"png": names[0]}
    assert first["file"] == str(packaged[15])
    assert (first["model"], first["rules"]) == ("tf_efficientnet_lite0", "abslrp")
    assert max(first["conservation_error"], second["conservation_error"]) == pytest.approx(conserved, rel=0.1)


@pytest.mark.full
def test_the_archives_hold_what_explain_returns(desk):
    result = explain("holiday", "--model", "own:make", "--target", "2", "--format", "npz", "--format", "h5")
    assert result.exit_code == 0, result.output
    classifier = load_classifier("own:make")
    files = find_pictures([Path("holiday")])
    x = torch.stack([classifier.transform(read_picture(file)) for file in files])
    expected = relprop.explain(classifier.model, x, target=2)
    assert [entry["file"] for entry in entries()] == list(map(str, files))
    for k, entry in enumerate(entries()):
        with (
            np.load(Path("out", entry["paths"]["npz"])) as arrays,
            h5py.File(Path("out", entry["paths"]["h5"])) as file,
        ):
            for found in (arrays["relevance"], file["relevance"][()]):
                np.testing.assert_allclose(found, expected.relevance[k : k + 1].numpy(), rtol=1e-4, atol=1e-9)
            assert arrays["target"].tolist() == [2]
        assert entry["probability"] == pytest.approx(float(expected.probability[k]), rel=1e-4)


@pytest.mark.full
def test_pictures_of_one_name_do_not_overwrite_each_other_or_themselves(desk):
    result = explain("holiday/a.png", "holiday/sub/a.jpg", "cat.jpg", "--model", "own:make", "-o", "holiday")
    assert result.exit_code == 0, result.output
    assert [entry["paths"]["png"] for entry in entries("holiday")] == ["a-2.png", "a-3.png", "cat.png"]
    assert cv2.imread("holiday/a.png").shape == (90, 60, 3)
    Path("holiday/index.jsonl").unlink()  # what it lists would be left out
    seen = []
    for _ in range(2):
        assert explain(".", "--model", "own:make", "-o", "out").exit_code == 0
        seen.append([entry["file"] for entry in entries()[-6:]])
    assert seen[0] == seen[1], "results of the first run were explained by the second"
    assert len({entry["paths"]["png"] for entry in entries()}) == 2 * len(seen[1]) == 12


def test_top_classes_side_by_side_and_layers_below(desk):
    options = ["--model", "own:make", "--target", "top3", "--layer", "0", "--layer", "2"]
    result = explain("cat.jpg", *options, "--format", "png", "--format", "npz", "--batch-size", "2")
    assert result.exit_code == 0, result.output
    found = entries()
    assert len({entry["target"] for entry in found}) == len(found) == 3
    assert found[0]["target"] == found[0]["predicted"]
    assert [e["probability"] for e in found] == sorted((e["probability"] for e in found), reverse=True)
    assert found[0]["paths"] == {"png": "cat.png", "layers": "cat.layers.png", "npz": "cat.npz"}
    sheet, layers = (cv2.imread(f"out/{name}") for name in ("cat.png", "cat.layers.png"))
    assert sheet.shape[1] > 3 * 200
    assert layers.shape[0] > 3 * 100
    with np.load("out/cat.npz") as arrays:
        assert arrays["relevance"].shape == (3, 3, 224, 224)
        assert arrays["layer:2"].shape[:2] == (3, 8)
        assert arrays["target"].tolist() == [entry["target"] for entry in found]


@pytest.mark.full
def test_layers_do_not_overwrite_a_picture_of_that_name(desk):
    for name in ("cat.layers.png", "CAT.png"):
        Path(name).write_bytes(Path("holiday/a.png").read_bytes())
    assert explain("cat.jpg", "cat.layers.png", "CAT.png", "--model", "own:make", "--layer", "2").exit_code == 0
    written = [name for entry in entries() for name in entry["paths"].values()]
    assert len({name.casefold() for name in written}) == len(written) == 6


def test_probabilities_of_a_model_that_ends_in_softmax_are_its_output(desk):
    assert explain("cat.jpg", "--model", "own:soft", "--format", "npz").exit_code == 0
    (entry,) = entries()
    with np.load("out/cat.npz") as arrays:
        assert entry["probability"] == pytest.approx(float(arrays["output"].max()), rel=1e-5)
        told = json.loads(str(arrays["attributes"]))
    assert told["rules"] == "abslrp"
    assert told["contrast"] == "rest"
    assert json.loads(told["classes"])[0]["label"] == entry["label"]
    assert set(told["descriptions"]) == {"relevance", "seeds", "output", "target"}


@pytest.mark.full
def test_a_picture_whose_class_is_the_contrast_is_skipped_by_name(desk):
    assert explain("cat.jpg", "holiday", "--model", "own:make", "--format", "npz").exit_code == 0
    classes = [entry["target"] for entry in entries()]
    against = classes[0]
    options = ["--model", "own:make", "--format", "npz", "--overwrite"]
    result = explain("cat.jpg", "holiday", "--contrast", str(against), *options)
    assert result.exit_code == 1
    skipped = [entry for entry in entries() if "error" in entry]
    assert len(skipped) == classes.count(against)
    assert skipped[0]["file"] == "cat.jpg"
    assert f"cat.jpg: class {against}, which --contrast names, is its class" in result.stderr
    explained = [entry for entry in entries() if "error" not in entry]
    assert [entry["target"] for entry in explained] == [t for t in classes if t != against]
    assert all(entry["contrast"] == against for entry in explained)
    other = next(k for k in range(5) if k not in classes)
    assert explain("cat.jpg", "--model", "own:make", "--contrast", str(other), "--format", "npz").exit_code == 0
    with np.load("out/cat.npz") as arrays:
        classifier = load_classifier("own:make")
        x = look(Path("cat.jpg"), classifier).x[None]
        wanted = relprop.explain(classifier.model, x, target=classes[0], contrast=other).relevance
        np.testing.assert_allclose(arrays["relevance"], wanted.numpy(), rtol=1e-4, atol=1e-6)
    every = explain("cat.jpg", "--model", "own:make", "--target", "top5", "--contrast", "0")
    assert every.exit_code == 1
    assert "is one of its 5 most probable classes" in every.stderr


@pytest.mark.full
def test_odd_file_names_stop_nothing(desk):
    picture = Path("holiday/a.png").read_bytes()
    odd = [os.fsdecode(b"caf\xe9.png"), "new\nline.png", "x" * 240 + ".png"]
    for name in odd:
        Path("holiday", name).write_bytes(picture)
    result = explain("holiday", "--model", "own:make")
    assert result.exit_code == 0, result.output
    assert {Path(entry["file"]).name for entry in entries()} >= set(odd)
    assert all(Path("out", entry["paths"]["png"]).exists() for entry in entries())


@pytest.mark.sweep(every=8)
@pytest.mark.parametrize(
    ("rules", "contrast", "words"),
    [
        ("abslrp", "rest", "more for the others"),
        ("abslrp", 3, "more for the fourth"),
        ("epsilon", None, "-1 negative"),
        ("abslrp", None, "0 no relevance"),
    ],
)
@pytest.mark.parametrize("targets", [1, 2])
def test_the_legend_speaks_of_other_classes_where_they_took_part(desk, rules, contrast, words, targets):
    classifier = load_classifier("own:make")
    looked = look(Path("cat.jpg"), classifier)
    x = torch.stack([looked.x] * targets)
    found = relprop.explain(classifier.model, x, target=list(range(targets)), rules=rules, contrast=contrast)
    words = words.replace("the fourth", classifier.labels[3])
    assert words in [text.get_text() for text in draw(classifier, rules, looked, found).texts]


def test_a_single_output_has_no_probability(desk):
    result = explain("cat.jpg", "--model", "own:one", "--contrast", "none", "--format", "npz")
    assert result.exit_code == 0, result.output
    (entry,) = entries()
    assert entry["probability"] is entry["predicted_probability"] is None
    with np.load(Path("out", entry["paths"]["npz"])) as arrays:
        assert f"class 0: what makes it larger, output {float(arrays['output'].item()):.3g}" in result.output
    assert "100.0%" not in result.output


def test_what_makes_probabilities_can_be_given(desk):
    assert explain("cat.jpg", "--model", "own:one", "--probability", "sigmoid", "--format", "npz").exit_code == 0
    (entry,) = entries()
    with np.load(Path("out", entry["paths"]["npz"])) as arrays:
        assert entry["probability"] == pytest.approx(1 / (1 + np.exp(-arrays["output"].item())), rel=1e-5)


@pytest.mark.full
def test_one_of_several_outputs_is_named(desk):
    Path("several.py").write_text(SEVERAL)
    sys.modules.pop("several", None)
    assert_one_line(
        explain("cat.jpg", "--model", "several:make"),
        r"name one of its outputs with --model-output NAME, features, heads\.scores, heads\.boxes",
    )
    assert_one_line(
        explain("cat.jpg", "--model", "several:make", "--model-output", "heads"),
        r"holds 2 tensors: name one of them with --model-output NAME\. There are: .*heads\.scores \(2, 5\)",
    )
    chosen = explain("cat.jpg", "--model", "several:make", "--model-output", "heads.scores", "--format", "npz")
    assert chosen.exit_code == 0, chosen.output
    with np.load("out/cat.npz") as arrays:
        found = arrays["relevance"]
    assert explain("cat.jpg", "--model", "own:make", "--format", "npz", "-o", "plain").exit_code == 0
    with np.load("plain/cat.npz") as arrays:
        np.testing.assert_allclose(found, arrays["relevance"], atol=1e-6)


@pytest.mark.full
def test_results_of_an_earlier_run_are_no_pictures(desk):
    explain(".", "--model", "own:make", "--layer", "0")
    result = explain(".", "--model", "own:make", "-o", "again")
    assert {Path(entry["file"]).name for entry in entries("again")} == {"cat.jpg", "a.png", "a.jpg"}
    assert "left out: 6 results of an earlier run" in result.output
    assert explain("out/cat.png", "--model", "own:make", "-o", "third").exit_code == 0


@pytest.mark.full
def test_a_transform_that_fails_on_one_picture_skips_it(desk, monkeypatch):
    import relprop.cli.explaining.picture as looked

    apply, calls = looked.apply, []

    def sometimes(*arguments):
        calls.append(0)
        x = apply(*arguments)
        return x * float("nan") if len(calls) == 2 else x

    monkeypatch.setattr(looked, "apply", sometimes)
    result = explain("cat.jpg", "holiday", "--model", "own:make")
    assert result.exit_code == 1
    assert result.stderr == "relprop: holiday/a.png: the transform makes NaN or infinite values of a picture\n"
    assert ["error" in entry for entry in entries()] == [True, False, False]


@pytest.mark.full
def test_a_run_that_fails_leaves_the_index_of_the_last_one(desk):
    assert explain("cat.jpg", "--model", "own:make").exit_code == 0
    before = entries()
    assert explain("cat.jpg", "--model", "own:uncovered").exit_code == 1
    assert entries() == before
    assert_one_line(explain("cat.jpg", "--model", "own:uncovered", "-o", "new/folder"), "erfinv")
    assert not Path("new").exists(), "a run without results leaves nothing"


def test_the_box_is_where_the_model_looked(desk):
    assert explain("cat.jpg", "--model", "own:make", "--preprocessing", "torchvision/resnet18").exit_code == 0
    (entry,) = entries()  # 90 x 60, short side to 256, the middle 224: 52.5 pixels of the original
    assert entry["size"] == [90, 60]
    assert entry["box"] == pytest.approx([18.75, 3.75, 71.25, 56.25], abs=0.7)


@pytest.mark.full
def test_rules_contrast_and_labels_are_heard(desk):
    Path("names.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    options = ["--model", "own:make", "--labels", "names.txt", "--target", "Bee", "--format", "npz", "--overwrite"]
    maps = {}
    for more in (
        ["--contrast", "none"],
        ["--contrast", "rest"],
        ["--contrast", "log-odds"],
        ["--contrast", "Cat"],
        ["--rules", "abslrp:delta=0.5"],
        ["--rules", "gradient"],
    ):
        assert explain("cat.jpg", *options, *more).exit_code == 0
        (entry,) = entries()
        assert entry["label"] == "bee"
        with np.load("out/cat.npz") as arrays:
            maps[more[1]] = arrays["relevance"]
    assert maps["none"].min() >= 0
    assert maps["none"].sum() == pytest.approx(1, abs=1e-5)
    assert maps["rest"].sum() == pytest.approx(0, abs=1e-5)
    assert maps["log-odds"].sum() == pytest.approx(0, abs=1e-5)
    assert not np.allclose(maps["rest"], maps["log-odds"], atol=1e-7)
    assert maps["Cat"].sum() == pytest.approx(0, abs=1e-5)
    assert not np.allclose(maps["rest"], maps["Cat"], atol=1e-7)
    assert not np.allclose(maps["rest"], maps["abslrp:delta=0.5"], atol=1e-7)
    assert entry["conservation_error"] is None


def test_an_exported_program_is_a_model(desk):
    import own

    batch = torch.export.Dim("batch", min=2)
    example = torch.randn(2, 3, 96, 96)
    torch.export.save(torch.export.export(own.make().eval(), (example,), dynamic_shapes=({0: batch},)), "own.pt2")
    result = explain(
        "cat.jpg", "holiday", "--model", "own.pt2", "--target", "top2", "--format", "npz", "--batch-size", "4"
    )
    assert result.exit_code == 0, result.output
    assert "assumed" in result.stdout
    with np.load("out/cat.npz") as arrays:
        assert arrays["relevance"].shape == (2, 3, 96, 96)


def test_an_unreadable_picture_is_reported_and_skipped(desk):
    Path("holiday/b.jpg").write_bytes(b"no picture")
    result = explain("holiday", "--model", "own:make", "--batch-size", "2")
    assert result.exit_code == 1
    assert re.fullmatch(r"relprop: cannot read picture holiday/b.jpg: .*\n", result.stderr)
    assert [(Path(entry["file"]).name, "error" in entry) for entry in entries()] == [
        ("b.jpg", True),
        ("a.png", False),
        ("a.jpg", False),
    ] or [Path(entry["file"]).name for entry in entries()] == ["a.png", "b.jpg", "a.jpg"]
    assert re.search(r"pictures failed\s+1\n", result.stdout)


@pytest.mark.sweep(every=9)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet5"], "near names: .*resnet50"),
        (["--model", "own:mak"], "make"),
        (["--model", "own:make", "--target", "5"], "classes 0 to 4"),
        (["--model", "own:make", "--target", "clas 3"], "near names: .*class 3"),
        (["--model", "own:make", "--rules", "nonsense"], "no rule set named 'nonsense'.*relprop rules lists all"),
        (["--model", "own:averaged", "--contrast", "log-odds"], "probabilities already.*pass --contrast rest"),
        (["--model", "own:make", "--contrast", "2", "--target", "2"], "--contrast 2 is --target 2 itself"),
        (["--model", "own:make", "--rules", "abslrp:gamma=1"], "no parameter .*it accepts: delta"),
        (["--model", "own:make", "--target", "top2", "--target", "1"], "--target top2: name classes, or top2 alone"),
        (["--model", "own:make", "-o", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["--model", "own:make", "-o", "cat.jpg"], "cannot write to cat.jpg"),
        (["--model", "own:make", "--labels", "own.py"], "own.py"),
        (["--model", "own:make", "--device", "cuda:99"], "cuda:99"),
        (["--model", "own:make", "--layer", "nowhere.*"], "nowhere"),
        (["--model", "own:uncovered"], "erfinv.*i0"),
        (["--model", "own:make", "--contrast", "some"], "--contrast some: no class has that name"),
        (["--model", "own:untraceable"], "untraceable|trace|branch"),
        (["--model", "own:mixing"], "mix|sample"),
        (["--model", "own:nan"], "not finite|NaN"),
        (["--model", "own:failing"], "own:failing"),
        (["--model", "own.py"], "own.py"),
        (["--model", "missing.pt2"], "missing.pt2"),
        (["--model", "resnet10t", "--weights", "missing.pth"], "missing.pth"),
        (["--model", "resnet10t", "--weights", "resnet14t.pth"], "missing.*unexpected|shape"),
        (["nowhere/"], "nowhere"),
        (["holiday", "-o", "holiday"], "results would mix with the pictures"),
        (["holiday/sub", "-o", "holiday"], "results would mix with the pictures"),
        (["empty"], "no pictures in empty"),
    ],
)
def test_an_error_is_one_line_and_a_failure(desk, arguments, message):
    Path("empty").mkdir()
    if "resnet14t.pth" in arguments:
        torch.save(timm.create_model("resnet14t").state_dict(), "resnet14t.pth")
    pictures = [] if not arguments[0].startswith("--") else ["cat.jpg"]
    assert_one_line(explain(*pictures, *arguments), message)
    assert not list(Path().glob("out/*.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "--batch-size", "0"], "--batch-size.*See relprop explain --help"),
        (["explain", "--format", "gif"], "gif"),
        (["explain", "--format", "png,gif"], "'gif' is not one of 'png', 'npz', 'h5'"),
        (["explain", "--nope"], "--nope"),
        (["expalin"], "Did you mean 'explain'"),
        (["rules", "abslpr"], "near names: abslrp"),
        (["check", "--model", "no_such_model"], "no_such_model"),
        (["check", "nowhere.png"], "nowhere.png"),
    ],
)
def test_misuse_is_one_line_too(desk, arguments, message):
    result = run.invoke(app, arguments, prog_name="relprop")
    assert_one_line(result, message, result.exit_code)
    assert result.exit_code == (1 if arguments[0] in ("rules", "check") else 2)


def test_offline_a_download_says_what_to_do(desk, monkeypatch):
    import huggingface_hub

    def unreachable():
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "get_session", unreachable)
    monkeypatch.setenv("HF_HOME", str(desk / "cache"))
    result = explain("cat.jpg", "--model", "vit_base_patch32_clip_224")
    assert_one_line(result, "could not be downloaded .*Name or service not known.*--weights FILE")


def test_what_nobody_foresaw_is_one_line_and_debug_shows_where(desk, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("relprop.cli.explaining.stream.look", broken)
    assert_one_line(explain("cat.jpg", "--model", "own:make"), "unexpected ZeroDivisionError: division by zero")
    assert isinstance(explain("cat.jpg", "--model", "own:make", "--debug").exception, ZeroDivisionError)
    assert isinstance(explain("--model", "resnet5", "cat.jpg", "--debug").exception, relprop.RelpropError)


def test_running_out_of_memory_says_which_batch_size_to_try(desk, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("relprop.rewrite.program.RelevanceProgram.__call__", exhausted)
    assert_one_line(explain("cat.jpg", "holiday", "--model", "own:make"), "batch of 3: try a batch size of 1")


@pytest.mark.full
def test_a_full_disk_leaves_nothing_that_looks_whole(desk):
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "from relprop.cli import app; app(['explain', 'cat.jpg', '--model', 'own:make'])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert result.returncode == 1
    assert re.fullmatch(r"relprop: cannot write out/cat.png: .*\n", result.stderr)
    assert sorted(file.name for file in Path("out").iterdir()) == ["index.jsonl", "run.toml"]
    assert entries() == []


@pytest.mark.full
def test_control_c_leaves_finished_results_valid(desk):
    random = np.random.default_rng(0)
    for k in range(200):
        assert cv2.imwrite(f"holiday/{k:03}.png", random.integers(0, 256, (300, 300, 3), np.uint8))
    script = "from relprop.cli import app; app(['explain', 'holiday', '--model', 'own:make', '--batch-size', '2'])"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    index = Path("out/index.jsonl")
    while process.poll() is None and (not index.exists() or index.read_text().count("\n") < 5):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    finished = entries()
    assert re.fullmatch(rf"relprop: interrupted after {len(finished)} of 202 pictures; .*index.jsonl.*\n", errors)
    assert 5 <= len(finished) < 202
    assert all(cv2.imread(f"out/{entry['paths']['png']}") is not None for entry in finished)
    assert not [file for file in Path("out").iterdir() if file.name.startswith(".")]
