"""What a user does with an explanation: look at it, save it, show it."""

import copy
import gc
import json
import pickle
import re
import weakref
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import relprop
from relprop.explanation.captions import arriving, caption_words, caution, map_difference
from relprop.explanation.display import heats_of
from relprop.explanation.grids import find_map
from relprop.files import OutputError
from relprop.pictures.colours import PALE


@pytest.fixture(scope="module")
def explained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    return relprop.explain(model, torch.randn(3, 3, 16, 20), layers=["0", "1"])


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 20, generator=torch.Generator().manual_seed(1))


def test_heatmap_is_scaled_per_sample(explained):
    heat = explained.heatmap()
    assert heat.shape == (3, 16, 20)
    assert torch.equal(heat.abs().amax((1, 2)), torch.ones(3))
    summed = explained.relevance.sum(1)
    torch.testing.assert_close(heat[1], summed[1] / summed[1].abs().max())


def test_overlay_marks_where_relevance_is(explained, images):
    drawn = explained.overlay(images)
    assert drawn.shape == (3, 16, 20, 3)
    assert drawn.dtype == np.uint8
    colourful = np.ptp(drawn.astype(int), axis=3)
    assert colourful.max() > 50, "the strongest relevance has a colour over the grey picture"


@pytest.mark.parametrize("name", ["maps.png", "maps.npz", "maps.h5"])
def test_save_writes_the_whole_file_and_nothing_else(explained, tmp_path, name):
    explained.save(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    if name.endswith(".npz"):
        with np.load(tmp_path / name) as saved:
            told = json.loads(str(saved["attributes"]))
            assert set(told["descriptions"]) == {"relevance", "seeds", "output", "target", "layer:0", "layer:1"}
            assert set(saved) == {*told["descriptions"], "attributes"}
            assert told["rules"] == "abslrp"
            np.testing.assert_array_equal(saved["relevance"], explained.relevance.numpy())
            np.testing.assert_array_equal(saved["seeds"][0] - saved["seeds"][1], saved["relevance"])
    if name.endswith(".h5"):
        with h5py.File(tmp_path / name) as saved:
            np.testing.assert_array_equal(saved["layer:0"], explained.layers["0"].numpy())
            assert saved.attrs["rules"] == "abslrp"
            assert saved.attrs["torch_version"] == str(torch.__version__)
            assert "relprop_version" in saved.attrs
            assert "minus that of all other classes" in saved["relevance"].attrs["description"]
            assert "output of module 0," in saved["layer:0"].attrs["description"]
            assert all(data.attrs["description"] for data in saved.values())
    if name.endswith(".png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_save_over_pictures_differs_from_maps_alone(explained, images, tmp_path):
    explained.save(tmp_path / "a.png")
    explained.save(tmp_path / "b.png", images)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["maps.jpg", "missing/maps.npz", "missing/maps.h5", "missing/maps.png"])
def test_save_says_why_it_cannot(explained, tmp_path, name):
    with pytest.raises(OutputError, match="cannot write"):
        explained.save(tmp_path / name)
    assert not list(tmp_path.rglob("*"))


def test_normalised_images_are_refused(explained, images):
    with pytest.raises(relprop.RelpropError, match="undo the normalisation"):
        explained.overlay(images * 4 - 2)


def test_pictures_and_titles_are_one_per_sample(explained, images):
    with pytest.raises(relprop.RelpropError, match="2 pictures for 3 samples"):
        explained.figure(images[:2])
    with pytest.raises(relprop.RelpropError, match="1 titles for 3 samples"):
        explained.figure(images, titles=["cat"])


def test_probability_is_the_softmax_of_the_target(explained):
    expected = explained.output.softmax(1)[torch.arange(3), explained.target]
    torch.testing.assert_close(explained.probability, expected)


def test_printing_tells_the_conservation(explained):
    assert "largest error" in str(explained)
    assert "abslrp" in repr(explained)


def words(figure):
    return [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copied", "pickled"])
def test_a_copy_tells_the_same(explained, copied):
    again = copied(explained)
    assert torch.equal(again.relevance, explained.relevance)
    assert str(again.conservation) == str(explained.conservation)
    assert str(again[1:]) == str(explained[1:])


def test_an_explanation_keeps_no_model_and_knows_where_its_relevance_went():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    explained = relprop.explain(model, torch.randn(2, 3, 8, 8))
    weight = weakref.ref(model[0].weight)
    del model
    gc.collect()
    assert weight() is None
    assert explained.conservation.error < 1e-5
    assert [cut.operation for cut in explained.conservation.cuts][-1] == "source"


def test_show_draws_a_row_per_sample_with_its_layers(explained, images):
    figure = explained.figure(images)
    assert words(figure).count("0") == 1 + 3, "the colour bar's zero, and layer 0 of three samples"
    assert f"class {int(explained.target[2])}  {float(explained.probability[2]):.1%}" in words(figure)
    assert {"more for the others", "more for its class"} < set(words(figure))
    named = explained.figure(titles=["cat", "dog", "goose"])
    assert {"cat", "dog", "goose"} < set(words(named))


def test_show_lists_layers_that_are_no_maps():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    e = relprop.explain(model, torch.randn(2, 3, 9, 9), layers=["0", "2", "3"])
    assert "no maps, so not drawn: 2 (2, 8, 1, 1), 3 (2, 8)" in words(e.figure())
    with pytest.raises(relprop.RelpropError, match=r"\(2, 8\) .* layers\['3'\]"):
        e.heatmap("3")
    with pytest.raises(relprop.RelpropError, match="no relevance of a layer '1': there are 0, 2, 3"):
        e.heatmap("1")


@pytest.mark.parametrize(("contrast", "word"), [("rest", "more for its class"), (None, "most relevance 1")])
def test_legend_says_what_was_asked(contrast, word):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 5)).eval()
    x = torch.randn(2, 3, 9, 9)
    assert word in words(relprop.explain(model, x, contrast=contrast).figure())
    signed = relprop.explain(model, x, rules="gradient", contrast=None).figure()
    assert "positive +1" in words(signed)


def test_the_difference_of_two_maps_is_what_does_not_overlap(explained):
    found = map_difference(explained)
    target, rest = next(iter(explained.seeds.values())).sum(2).numpy()
    # Both maps are positive and of mass one, so what differs is what lies in one of them alone.
    by_hand = [1 - np.minimum(t, r).sum() for t, r in zip(target, rest, strict=True)]
    assert found.tolist() == pytest.approx(by_hand, abs=1e-6)
    assert 0 < min(by_hand) < max(by_hand) < 1
    low, high = f"{found.min():.1%}", f"{found.max():.1%}"
    said = f"the two maps, of this class and of the others, differ by {low} to {high}"
    assert caption_words(explained) == said
    assert said in " ".join(words(explained.figure()))
    assert caption_words(explained[0]).endswith(f"differ by {found[0]:.1%}")
    apart = torch.zeros(2, 1, 3, 4, 4)
    assert map_difference(replace(explained[0], seeds={"x": apart})).tolist() == [0]
    apart[0, ..., :2], apart[1, ..., 2:] = 3.0, -0.1
    assert map_difference(replace(explained[0], seeds={"x": apart})).tolist() == [pytest.approx(1)]


def nearly_the_same(explained, shares):
    """Let the maps of some samples differ by given shares alone."""
    seeds = torch.ones(2, len(shares), 3, 8, 8)
    for k, share in enumerate(shares):
        seeds[0, k, :, :4] += share
        seeds[0, k, :, 4:] -= share
        seeds[1, k, :, :4] -= share
        seeds[1, k, :, 4:] += share
    return replace(explained[: len(shares)], seeds={"x": seeds}, relevances={"x": seeds[0] - seeds[1]}, layers={})


def strongest(figure):
    """Return how far the darkest pixel of a figure's maps and colour bar is from white."""
    return 255 - float(np.asarray(figure.get_children()[1].get_array())[..., :3].mean(2).min())


def test_a_map_of_hardly_any_difference_says_so_first_and_is_pale(explained):
    e = nearly_the_same(explained, [0.001])
    target = int(e.target[0])
    first = (
        f"Caution: the maps for class {target} and for the others are 99.9 % the same; colours show the remaining 0.1 %"
    )
    figure = e.figure()
    assert " ".join(words(figure)).startswith(first)
    clear = nearly_the_same(explained, [0.02])
    assert not any("Caution" in word for word in words(clear.figure()))
    assert strongest(figure) < 0.5 * strongest(clear.figure())
    assert first.replace(f"class {target}", "dog").replace("the others", "cat") == caution(
        replace(e, contrast=(target + 1) % 5), {target: "dog", (target + 1) % 5: "cat"}
    )
    assert "99.96 % the same; colours show the remaining 0.04 %" in caution(nearly_the_same(explained, [0.0004]))
    assert "100.0 % the same; colours show the remaining 0.0 %" in caution(nearly_the_same(explained, [0.0]))


def test_of_several_maps_the_pale_ones_are_meant(explained):
    some = nearly_the_same(explained, [0.001, 0.3, 0.004])
    assert caution(some) == (
        "Caution: the pale maps of a class and of the others are at least 99.6 % the same; colours show the rest"
    )
    heats, _ = heats_of(some)
    assert np.abs(heats).max((1, 2)).tolist() == pytest.approx([PALE, 1, PALE])
    assert caution(nearly_the_same(explained, [0.001, 0.002])).startswith("Caution: all maps of a class and")


def test_one_signed_pass_has_no_second_map_to_be_the_same_as():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 5)).eval()
    e = relprop.explain(model, torch.randn(1, 3, 9, 9), rules="epsilon", contrast="rest")
    assert caution(e) == ""
    assert float(np.abs(heats_of(e)[0]).max()) == 1


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("epsilon", r"\d+\.\d%.* of the output's relevance reaches the picture"),
        ("gradient", "these rules do not conserve relevance"),
    ],
)
def test_rules_that_do_not_conserve_say_what_arrives(rules, said):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 5)).eval()
    e = relprop.explain(model, torch.randn(1, 3, 9, 9), rules=rules)
    assert map_difference(e) is None
    assert re.fullmatch(said, caption_words(e))
    assert caption_words(e) in words(e.figure())
    if rules == "epsilon":
        share = e.relevance.sum() / e.output[0, e.target[0]]
        assert arriving(e).tolist() == [pytest.approx(float(share), rel=1e-4)]


class Twice(nn.Module):
    """A module called twice, tokens with positions in front, samples merged with positions, pooled features."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, stride=4)
        self.classes = nn.Parameter(torch.randn(1, 2, 6))
        self.mix = nn.Linear(6, 6)
        self.first = nn.Linear(6, 6)
        self.outer = nn.Linear(6, 6)
        self.inner = nn.Linear(6, 6)
        self.last = nn.Identity()
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        grid = self.stem(x)
        tokens = torch.cat([self.classes.expand(x.shape[0], -1, -1), grid.flatten(2).transpose(1, 2)], 1)
        tokens = self.mix(self.mix(tokens).relu()).relu()
        tokens = self.first(tokens.transpose(0, 1)).relu()  # (N, B, D)
        count = tokens.shape[0]
        tokens = self.outer(tokens.flatten(0, 1)).relu().unflatten(0, (count, x.shape[0]))
        tokens = self.inner(tokens.transpose(0, 1).flatten(0, 1)).relu().unflatten(0, (x.shape[0], count))
        return self.head(tokens.mean(1))


LAYERS = ["stem", "mix", "first", "outer", "inner", "head"]


@pytest.fixture(scope="module", params=[None, 1, 2])
def merged(request):
    torch.manual_seed(0)
    model = Twice().eval()
    x = torch.randn(5, 3, 16, 24)
    whole = relprop.explain(model, x, layers=LAYERS, batch_size=request.param)
    return whole, [relprop.explain(model, x[k : k + 2], layers=LAYERS) for k in range(4)], x


def assert_equal(one, other):
    assert list(one.layer_calls) == list(other.layer_calls)
    pairs = [(one.relevance, other.relevance), (one.output, other.output), (one.target, other.target)]
    pairs += [(one.seeds[name], other.seeds[name]) for name in one.seeds]
    pairs += [(one.layer_calls[name], other.layer_calls[name]) for name in one.layer_calls]
    pairs += [
        (getattr(a, k), getattr(b, k))
        for a, b in zip(one.conservation.cuts, other.conservation.cuts, strict=True)
        for k in ("mass", "factor", "lost")
    ]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.sweep(every=12)
@pytest.mark.parametrize("start", range(4))
def test_a_slice_is_the_explanation_of_those_samples(merged, start):
    whole, pairs, _ = merged
    assert_equal(whole[start : start + 2], pairs[start])


@pytest.mark.sweep(every=3)
def test_single_samples_keep_their_batch_axis(merged):
    whole, pairs, _ = merged
    assert len(whole) == 5
    assert whole[1].relevance.shape == (1, 3, 16, 24)
    assert_equal(whole[1], pairs[1][0])
    assert_equal(whole[-1], whole[4])
    assert_equal(whole[::2][1], whole[2])
    assert [len(one) for one in whole] == [1] * 5
    assert str(whole[3].conservation)


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("samples", [5, -6, slice(5, 9), slice(None, None, -1)])
def test_samples_that_are_not_there_are_an_index_error(merged, samples):
    with pytest.raises(IndexError):
        merged[0][samples]


def test_maps_of_layers_lie_where_the_tokens_are(merged):
    whole, _, _ = merged
    assert set(whole.layer_calls) == {"stem", "mix", "mix@1", "first", "outer", "inner", "head"}
    expected = {
        "stem": whole.layers["stem"].sum(1),
        "mix": whole.layers["mix"][0][:, 2:].sum(2).reshape(5, 4, 6),
        "mix@1": whole.layers["mix"][1][:, 2:].sum(2).reshape(5, 4, 6),
        "first": whole.layers["first"].transpose(0, 1)[:, 2:].sum(2).reshape(5, 4, 6),
    }
    for name, summed in expected.items():
        torch.testing.assert_close(whole.summed(name), summed)
        heat = whole.heatmap(name)
        assert heat.shape == (5, 4, 6)
        torch.testing.assert_close(heat.abs().amax((1, 2)), torch.ones(5))
    for name in ("outer", "inner", "head"):
        with pytest.raises(relprop.RelpropError, match="no spatial layout"):
            whole.heatmap(name)


@pytest.mark.parametrize(
    ("shape", "picture", "found"),
    [
        ((2, 64, 56, 56), (224, 224), (56, 56)),
        ((2, 56, 56, 96), (224, 224), (56, 56)),  # Swin: channels last
        ((2, 7, 7, 7), (224, 224), (7, 7)),
        ((2, 32, 8, 10), (225, 300), (8, 10)),  # strides rounded up
        ((2, 8, 10, 32), (225, 300), (8, 10)),
        ((2, 196, 192), (224, 224), (14, 14)),
        ((2, 197, 192), (224, 224), (14, 14)),  # a class token
        ((2, 198, 192), (224, 224), (14, 14)),  # and a distillation token
        ((2, 201, 192), (224, 224), (14, 14)),  # and four registers
        ((2, 393, 192), (224, 448), (14, 28)),
        ((2, 200 + 10, 192), (224, 224), None),
        ((2, 64, 7, 14), (224, 224), None),
        ((2, 64, 1, 1), (224, 224), None),
        ((2, 1, 192), (224, 224), None),
        ((2, 192), (224, 224), None),
        ((2, 3, 4, 7, 7), (224, 224), None),
    ],
)
def test_grids_are_told_by_the_aspect_ratio_of_the_picture(shape, picture, found):
    relevance = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    drawn = find_map(relevance, picture)
    assert (None if drawn is None else tuple(drawn.shape)) == (None if found is None else (2, *found))
    if drawn is not None and relevance.ndim == 3:
        prefix = shape[1] - found[0] * found[1]
        torch.testing.assert_close(drawn.flatten(1), relevance[:, prefix:].sum(2))
