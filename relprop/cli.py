"""The command line: ``relprop explain`` and ``relprop check``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.errors import RelpropError, TargetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from relprop.models import Classifier

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Model = Annotated[str, typer.Option(metavar="NAME", help="timm or torchvision/NAME model.")]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights: .safetensors or .pth.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the PNGs go.")]
DEFAULT_MODEL = "tf_efficientnet_lite0"


class Contrast(StrEnum):
    """What the target is set against."""

    REST = "rest"
    NONE = "none"


@app.callback()
def main() -> None:
    """Show by relevance propagation which pixels made a model say what it says."""


@app.command(epilog="Example: relprop explain cat.jpg holiday/ --model tf_efficientnet_lite0 -o out")
def explain(
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="[PICTURES]...", help="Picture files, or folders of them.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    rules: Annotated[str, typer.Option(metavar="NAME", help="Rule set.")] = "abslrp",
    target: Annotated[
        int | None, typer.Option(metavar="INDEX", min=0, help="Class explained, if not the predicted one.")
    ] = None,
    contrast: Annotated[
        Contrast | None, typer.Option(help="Against all other classes or not, if not the rule set's own.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures explained at once.")] = 8,
    sample: Annotated[bool, typer.Option(help="Where no pictures are given, take the 20 that foolbox carries.")] = True,
    output: Output = Path("out"),
    debug: Debug = False,
) -> None:
    """Draw where each picture holds more relevance for its class than for the others, and less."""
    with _one_line_errors(debug):
        from relprop.models import PictureError, load_classifier, sample_pictures

        paths = _expand(pictures) if pictures else sample_pictures() if sample else []
        if not paths:
            raise PictureError("no pictures to explain: name files or folders, or leave --sample on")
        _prepare(output)
        classifier = load_classifier(model, weights)
        if target is not None and target >= len(classifier.labels):
            raise TargetError(f"--target {target}: {model} has classes 0 to {len(classifier.labels) - 1}")
        options: dict[str, Any] = {"target": target, "rules": rules}
        if contrast is not None:
            options["contrast"] = None if contrast is Contrast.NONE else contrast.value
        run = _Run(classifier, options, _outputs(paths, output))
        run.explain(paths, batch_size)
        typer.echo(run.summary())
        if run.failed:
            raise typer.Exit(1)


@app.command(epilog="Example: relprop check --model tf_efficientnet_lite0")
def check(model: Model = DEFAULT_MODEL, weights: Weights = None, debug: Debug = False) -> None:
    """Check that a model is captured, covered by rules and conserved; exit code 1 where it isn't."""
    with _one_line_errors(debug):
        import numpy as np
        import torch

        import relprop
        from relprop.models import PictureError, load_classifier, read_picture, sample_pictures

        classifier = load_classifier(model, weights)
        try:
            pictures = [read_picture(path) for path in sample_pictures()[:2]]
        except PictureError as error:
            typer.echo(f"relprop: random pictures are used, as {error}", err=True)
            noise = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
            pictures = list(noise)
        report = relprop.check(classifier.model, torch.stack([classifier.transform(p) for p in pictures]))
        typer.echo(str(report))
        if not report.ok:
            raise typer.Exit(1)


@dataclass
class _Run:
    """One ``relprop explain``: what is fixed for all its pictures, and the tally."""

    classifier: Classifier
    options: dict[str, Any]
    outputs: dict[Path, Path]
    explained: int = 0
    failed: int = 0
    seconds: float = 0.0
    conservation: float | None = None
    oracle: float | None = None

    def explain(self, paths: Sequence[Path], batch_size: int) -> None:
        """Explain the pictures batch by batch, holding one batch at a time."""
        from tqdm import tqdm

        with tqdm(total=len(paths), unit="picture", disable=None) as progress:
            for batch in self._batches(paths, batch_size, progress):
                self._explain_batch(batch, progress)

    def summary(self) -> str:
        """Say how far the maps can be trusted."""
        lines = [f"pictures explained      {self.explained}"]
        if self.conservation is not None:
            lines.append(f"conservation error      {self.conservation:.1e} (worst)")
        if self.oracle is not None:
            lines += [
                f"gradient-oracle error   {self.oracle:.1e} (captured program, first batch)",
                f"seconds per picture     {self.seconds / self.explained:.2f} (capture included)",
            ]
        lines.append(f"weights                 {self.classifier.origin}")
        lines.append(f"pictures failed         {self.failed}")
        return "\n".join(lines)

    def _batches(self, paths: Sequence[Path], size: int, progress: Any) -> Iterator[dict[Path, Tensor]]:
        """Read pictures into full batches; report and count those that cannot be read."""
        from relprop.models import PictureError, read_picture

        batch: dict[Path, Tensor] = {}
        for path in paths:
            try:
                batch[path] = self.classifier.transform(read_picture(path))
            except PictureError as error:
                self.failed += 1
                progress.update()
                with progress.external_write_mode():
                    typer.echo(f"relprop: {error}", err=True)
            if len(batch) == size:
                yield batch
                batch = {}
        if batch:
            yield batch

    def _explain_batch(self, batch: dict[Path, Tensor], progress: Any) -> None:
        import torch

        import relprop

        x = torch.stack(list(batch.values()))
        start = time.perf_counter()
        explanation = relprop.explain(self.classifier.model, x, **self.options)
        self.seconds += time.perf_counter() - start
        if self.oracle is None:
            self.oracle = relprop.gradient_oracle_error(self.classifier.model, x)
        kept = explanation.conservation
        notes = ["relevance is not conserved under these rules"] * len(batch)
        if kept.conserves:
            notes = [f"conservation error {error:.1e}" for error in kept.errors.tolist()]
            self.conservation = max(self.conservation or 0.0, kept.error)
        pictures = self.classifier.pictures(x)
        heats = explanation.heatmap().detach().float().cpu().numpy()
        probabilities = explanation.output.detach().float().softmax(dim=1).cpu()
        targets = torch.as_tensor(explanation.target).tolist()
        for path, picture, heat, row, target, note in zip(
            batch, pictures, heats, probabilities, targets, notes, strict=True
        ):
            self._draw(path, picture, heat, self._verdict(row, target))
            self.explained += 1
            progress.update()
            with progress.external_write_mode():
                typer.echo(f"{path}  {self._verdict(row, target)}  {note}")

    def _verdict(self, probabilities: Tensor, target: int) -> str:
        """Name the explained class, and the predicted one where it is another."""
        labels, predicted = self.classifier.labels, int(probabilities.argmax())
        verdict = f"{labels[target]} {probabilities[target]:.1%}"
        if predicted != target:
            verdict += f" (predicted: {labels[predicted]} {probabilities[predicted]:.1%})"
        return verdict

    def _draw(self, path: Path, picture: NDArray[np.uint8], heat: NDArray[np.float32], title: str) -> None:
        from relprop.pictures import PERCENTILE, robust_scale, save_panel

        scaled, _ = robust_scale(heat)
        caption = (
            f"{path.name}   {self.options['rules']} on {self.classifier.name}; "
            f"colours saturate at the {PERCENTILE:g}th percentile of |relevance|"
        )
        save_panel(self.outputs[path], picture, scaled, title, caption)


@contextlib.contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    """Turn this project's errors into a line and exit code 1."""
    try:
        yield
    except RelpropError as error:
        if debug:
            raise
        typer.echo(f"relprop: {error}", err=True)
        raise typer.Exit(1) from error


def _expand(pictures: Sequence[Path]) -> list[Path]:
    """Replace folders by the pictures in them, sorted; name nothing twice."""
    files = (
        sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        for path in pictures
    )
    return list(dict.fromkeys(file for group in files for file in group))


def _outputs(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Give each picture a PNG of its own, that is none of the pictures themselves."""
    taken = {path.resolve() for path in paths}
    outputs = {}
    for path in paths:
        names = (folder / f"{path.stem}{'' if n == 1 else f'-{n}'}.png" for n in count(1))
        outputs[path] = next(file for file in names if file.resolve() not in taken)
        taken.add(outputs[path].resolve())
    return outputs


def _prepare(folder: Path) -> None:
    """Make the output folder, or say at once that it cannot be written."""
    from relprop.files import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write to {folder}: permission denied")
