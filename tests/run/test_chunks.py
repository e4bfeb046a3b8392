"""Batches in chunks: the same explanation whatever their size, and sizes that fit memory and are fast."""

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.run import auto_batch, chunks
from tests.helpers.memory import allocated_at_once
from tests.helpers.models import seeded
from tests.helpers.programs import running

SIDE = 32


@pytest.fixture
def model() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * SIDE**2, 5),
        )
    ).eval()


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What a device tells of its memory; filled in by tests."""
    found: list[int | None] = [None]
    monkeypatch.setattr(auto_batch, "available_memory", lambda device: found[0])
    return found


def sizes_of(explainer: relprop.Explainer, x: Tensor) -> list[int]:
    """Explain, and return how many samples the program was given at a time."""
    seen: list[int] = []
    watched = running(explainer, x).register_forward_pre_hook(lambda program, given: seen.append(len(given[0])))
    try:
        explainer(x)
    finally:
        watched.remove()
    return seen


def pictures(samples: int) -> Tensor:
    return torch.randn(samples, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(samples))


@pytest.mark.sweep(every=5)
@pytest.mark.parametrize("batch_size", [1, 3, 7, "auto", None])
def test_the_explanation_does_not_depend_on_it(
    model: nn.Module, batch_size: chunks.BatchSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "FAST_BYTES", 1)
    model, x = model.double(), pictures(7).double()
    whole = relprop.explain(model, x, target=[4, 0, 1, 2, 3, 0, 1], layers=["1"], batch_size=7)
    found = relprop.explain(model, x, target=[4, 0, 1, 2, 3, 0, 1], layers=["1"], batch_size=batch_size)
    torch.testing.assert_close(found.relevance, whole.relevance, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.layers["1"], whole.layers["1"], rtol=1e-9, atol=0)
    for chunked, at_once in zip(found.conservation.cuts, whole.conservation.cuts, strict=True):
        torch.testing.assert_close(chunked.mass, at_once.mass)
    assert found.output.shape == whole.output.shape


def test_a_cpu_takes_even_chunks_whose_activations_stay_small(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    activation = 16 * SIDE**2 * 4
    monkeypatch.setattr(chunks, "FAST_BYTES", 6 * activation)
    explainer = relprop.Explainer(model)
    assert sizes_of(explainer, pictures(6)) == [6]
    assert sizes_of(explainer, pictures(13)) == [5, 5, 3]
    assert sizes_of(relprop.Explainer(model.double()), pictures(8).double()) == [3, 3, 2]  # twice the bytes
    monkeypatch.setattr(chunks, "FAST_BYTES", 5 * activation)
    assert sizes_of(relprop.Explainer(model), pictures(8).double()) == [4, 4]  # too few would fit
    watched = relprop.Explainer(model.float(), hooks={"1": lambda info, relevance: None})
    assert sizes_of(watched, pictures(13)) == [13]  # a hook is called as often as its user asked


def test_auto_measures_two_small_chunks_and_takes_what_fits(model: nn.Module, available: list[int | None]) -> None:
    explainer = relprop.Explainer(model, batch_size="auto")
    available[0] = 1 << 40
    assert sizes_of(explainer, pictures(20)) == [1, 2, 17]
    assert sizes_of(explainer, pictures(20)) == [20]
    need = auto_batch._needs[running(explainer, pictures(20))]
    available[0] = int((5.5 * need.each + auto_batch.RESULTS * 20 * need.result) / auto_batch.SHARE["cpu"])
    assert sizes_of(explainer, pictures(20)) == [5, 5, 5, 5]
    available[0] = 0
    assert sizes_of(explainer, pictures(3)) == [1, 1, 1]


def test_what_is_measured_bounds_what_is_allocated(model: nn.Module, available: list[int | None]) -> None:
    available[0] = 1 << 40
    explainer, x = relprop.Explainer(model, batch_size="auto"), pictures(8)
    explainer(x)
    each = auto_batch._needs[running(explainer, x)].each
    program, target = running(explainer, x), torch.zeros(8, dtype=torch.long)
    largest = allocated_at_once(lambda: program(x, target))
    assert 0.5 * 8 * each <= largest <= 1.3 * 8 * each  # buffers inside kernels are not measured


def failing(model: nn.Module, most: int) -> list[int]:
    """Let a model's program run out of memory where it is given more samples; what was tried is noted."""
    tried = []

    def check(program: nn.Module, given: tuple[Tensor, ...]) -> None:
        tried.append(len(given[0]))
        if len(given[0]) > most:
            raise MemoryError

    running(relprop.Explainer(model), pictures(4)).register_forward_pre_hook(check)
    return tried


@pytest.mark.full
def test_what_did_not_fit_is_tried_by_halves(model: nn.Module, available: list[int | None]) -> None:
    x = pictures(20)
    expected = relprop.explain(model, x, target=1).relevance
    tried = failing(model, 4)
    explainer = relprop.Explainer(model, batch_size="auto")
    torch.testing.assert_close(explainer(x, 1).relevance, expected)
    assert tried == [20, 10, 5, *[2] * 10]  # where nothing is known of the memory
    tried.clear()
    explainer(x)
    assert tried == [2] * 10  # it is remembered


@pytest.mark.full
def test_a_sample_that_does_not_fit_is_an_error(model: nn.Module, available: list[int | None]) -> None:
    failing(model, 0)
    with pytest.raises(relprop.OutOfMemoryError, match="a single one already"):
        relprop.explain(model, pictures(8), batch_size="auto")


def test_hooks_see_no_sample_twice(model: nn.Module, available: list[int | None]) -> None:
    explainer = relprop.Explainer(model, batch_size="auto", hooks={"1": lambda info, relevance: None})
    running(explainer, pictures(8)).register_forward_pre_hook(lambda program, given: _no_more_than(4, given[0]))
    with pytest.raises(relprop.OutOfMemoryError, match="see its samples twice"):
        explainer(pictures(8))
    assert explainer(pictures(8)).relevance.shape == (8, 3, SIDE, SIDE)


def _no_more_than(most: int, given: Tensor) -> None:
    if len(given) > most:
        raise MemoryError


@pytest.mark.parametrize("batch_size", [0, -1, "all", 2.5])
def test_other_batch_sizes_are_refused(model: nn.Module, batch_size: object) -> None:
    with pytest.raises(ValueError, match='must be at least 1, or "auto" or None'):
        relprop.Explainer(model, batch_size=batch_size)  # type: ignore[arg-type]
